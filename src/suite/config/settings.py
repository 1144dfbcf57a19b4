"""The settings of a node, and their defaults."""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final, Literal, TypeAlias

import msgspec
import platformdirs
from msgspec import Meta

from suite.domain.web_hosts import WebHosts
from suite.errors import InvalidConfiguration
from suite.messages.actions.base import Adapters
from suite.messages.tracing import MetricsMode, TraceMode, TraceSettings

_SECONDS_A_DAY = 86_400
_LARGEST = 2**31 - 1

LogFormat: TypeAlias = Literal["text", "json"]
Count: TypeAlias = Annotated[int, Meta(ge=1, le=_LARGEST)]
Port: TypeAlias = Annotated[int, Meta(ge=0, le=65535)]
"""A TCP port; 0: a free one."""
# Every number has an upper limit, which infinity is over and NaN is not under.
FollowLinks: TypeAlias = Literal["inside", "anywhere"]
Seconds: TypeAlias = Annotated[float, Meta(ge=0, le=1e9)]
Milliseconds: TypeAlias = Annotated[int, Meta(ge=0, le=86_400_000)]
KeepAlivePolicy: TypeAlias = Literal["idle_timeout", "learned"]
KeepAlive: TypeAlias = Seconds | Literal["forever", "now"]
ServiceName: TypeAlias = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\Z")]
Days: TypeAlias = Annotated[float, Meta(ge=0, le=36_500)]


TRACES: Final = "traces"
"""The folder in the data directory that has the traces which are kept."""


def default_data_dir() -> Path:
    """The default data directory of a node, where clients look for its connection.json too.

    Raises InvalidConfiguration for a user without a home directory.
    """
    try:
        return Path(platformdirs.user_data_path("model-manager-suite"))
    except RuntimeError:
        raise InvalidConfiguration(
            "this user has no home directory for the data: set SUITE_DATA_DIR or give --data-dir"
        ) from None


def chosen_data_dir(given: Path | str | None, environ: Mapping[str, str]) -> Path:
    """The data directory that a client means: the one given, ``SUITE_DATA_DIR``, or the default.

    Raises InvalidConfiguration if it is in a home directory that does not exist.
    """
    chosen = Path(given or environ.get("SUITE_DATA_DIR") or default_data_dir())
    try:
        return chosen.expanduser()
    except RuntimeError:  # `~name` of nobody, or a user without a home directory
        raise InvalidConfiguration(f"{chosen} is in no home directory that exists") from None


DEFAULT_SLOTS: Final = 8


class ModelSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The settings of one model; defaults depend on its file and the machine."""

    display_name: str | None = None
    """A name for people, shown in its status. Default: the id."""
    model_path: str | None = None
    """The path of its file, relative to a model directory; only needed if the file's name is not the id."""
    context_length: Count | None = None
    """The context of one conversation, in tokens. Default: what the model was trained for, at most 4096."""
    n_gpu_layers: Annotated[int, Meta(ge=-1, le=_LARGEST)] = -1
    """Layers to put on the GPU; -1: all."""
    n_threads: Count | None = None
    """The most threads to compute with; models that are busy at the same time share the cores.

    Default: as many as the cores that the process may use, which `suite config` shows.
    """
    batch_size: Count = 512
    """The most tokens in one batch; at least as many as slots."""
    slots: Annotated[int, Meta(ge=1, le=64)] | None = None
    """How many generations run at once, and how many conversations have their tokens in the KV cache.
    Default: 8, or fewer but at least 4 where that gives each a whole context; 1 for a model that is made for
    embeddings."""
    kv_cache: Literal["auto", "separate", "unified"] = "auto"
    """`separate`: each slot has room for a whole context, and several answers are generated faster.
    `unified`: all slots share `cache_tokens`. `auto`: separate where that takes at most a sixteenth of the
    memory limit, or 128 MiB; where `slots` and `context_length` are set, as long as the model fits into the
    memory limit; where `cache_tokens` is set, as long as that is enough."""
    cache_tokens: Count | None = None
    """The KV cache of all slots together, in tokens. Default: a context for each slot if it is separate,
    otherwise one context, or what 128 MiB hold if that is more."""
    prompt_step_tokens: Count = 256
    """The most prompt tokens in one step while answers are generated, however little time they take."""
    max_step_ms: Annotated[int, Meta(ge=1, le=60_000)] = 150
    """How long running answers wait at most for their next token while a prompt is read, in milliseconds; up
    to four times as long while several are. With less, prompts are read more slowly. Where their tokens alone
    take more than half of it, prompts get as much time as they."""
    speculation: Literal["auto", "off"] = "auto"
    """`auto`: the next tokens of answers are guessed and checked together where that is measured to be
    faster; the text stays what the model says. `off`: never."""
    draft_model: str | None = None
    """The id of a small model of the same vocabulary that guesses the next tokens. It is loaded in the same
    process, with the same context and slots, and its memory counts for this model. Default: they are looked
    up in the prompt and the answer so far, which needs no model."""
    idle_timeout_seconds: Seconds | None = None
    """0: never unloaded when idle. Default: the service's `idle_timeout_seconds`."""
    keep_alive: KeepAlive | None = None
    """How long it stays when nobody uses it: seconds, `forever`, or `now` for not at all; a request may say
    otherwise. Default: `idle_timeout_seconds`."""
    capabilities: tuple[str, ...] = ()
    """What `select` may be asked for, in words of your own, such as `code`."""
    aliases: tuple[str, ...] = ()
    """Other names under which it can be used."""
    base: str | None = None
    """The id of the model that this name stands for, with `adapters`: a name without a file, or that of an
    adapter. Default: an adapter stands for the only model that it fits."""
    adapters: Adapters = ()
    """What the `base` is computed with for this name, such as `["pirate", {id = "poet", scale = 0.5}]`.
    Default: an adapter stands for itself."""
    priority: Annotated[int, Meta(ge=-_LARGEST, le=_LARGEST)] | str = 0
    """Only shown in the model's status; a number, or a word such as `high`."""
    chat_template: str | None = None
    """Replaces the model's own chat template: a Jinja template, or the path of a file with one."""
    projector: str | None = None
    """The file of the projector (mmproj) by which it reads pictures: a path, relative to the model's folder;
    `none`: it reads none. Default: one in its folder that is named like it and fits."""
    enabled: bool = True
    """Whether it can be used."""

    @property
    def batch_tokens(self) -> int:
        """The most tokens in one batch: llama.cpp aborts if there are fewer than slots."""
        return max(self.batch_size, self.slots or DEFAULT_SLOTS)


class NatsSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An existing NATS server to use. Without a URL the node starts its own nats-server."""

    url: str | None = None
    """Its address, such as `nats://nats.example:4222`. Default: the node starts a server of its own."""
    user: str | None = None
    """The user that the node connects as; a configured server has the user `suite` for it."""
    password: str | None = None
    """The password of that user. Set it in the environment rather than in a file."""
    credentials: str | None = None
    """The path of a NATS credentials file."""
    inbox_prefix: str = "_INBOX"
    """The subject prefix under which this user may receive replies."""
    ca: Path | None = None
    """The file of the server's certificate authority, as PEM. Default: those that this machine trusts."""
    replicas: Annotated[int, Meta(ge=1, le=5)] | None = None
    """How many servers of a cluster keep a copy of the log and the buckets: 3 survive the loss of one.

    With too few servers there are fewer copies, and more as soon as there are more servers. Where there are
    more than this, they stay. Default: 3 with `join`, otherwise 1.
    """
    port: Port = 0
    """The port of the node's own server; 0: the one of its last start, or a free one if that is taken."""
    listen: str = "127.0.0.1"
    """The address on which the node's own server listens for clients.

    On one that other machines reach, connections are encrypted, which needs a `cluster_file`.
    """
    join: tuple[str, ...] = ()
    """The other nodes' machines, such as `box2` or `box2:6222`: their servers and this one become a cluster.

    None of them needs to be there yet, and this machine may be among them. In the variable, commas are
    between them.
    """
    cluster_file: Path | None = None
    """The file of `suite cluster create`, which all nodes of the cluster have."""
    cluster_listen: str = "0.0.0.0:6222"
    """The address and the port on which the node's own server listens for the others."""
    cluster_advertise: str | None = None
    """At which address and port the others reach it, if that is another one, as behind a NAT."""

    @property
    def wanted_replicas(self) -> int:
        """How many servers are to keep what the node makes."""
        return self.replicas or (3 if self.join else 1)


class LegacySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The ZeroMQ addresses for old clients, used if `enable_backward_compatibility` is on."""

    host: str = "127.0.0.1"
    """The address to listen on. Old clients send no credentials, so the default is this machine only."""
    port: Port = 7011
    """The port for requests."""
    health_check_port: Port = 7111
    """The port for health checks."""
    errors_port: Port = 7150
    """The port on which errors are published."""
    error_bus: str | None = None
    """The ZeroMQ address of another error bus to use instead of `errors_port`, such as `tcp://10.0.0.2:7150`."""


class SnapshotSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Snapshots of conversations that have no slot: tokens and KV cache. The limits apply to each model.

    Snapshots have the conversations as token ids, so their files are private. Without `enabled` none are
    made.
    """

    enabled: bool = True
    """Whether snapshots are made."""
    memory_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    """The memory for snapshots, in MiB (2**20 bytes)."""
    disk_mb: Annotated[int, Meta(ge=0, le=1 << 24)] = 1024
    """The disk space for snapshots, in MiB; 0: snapshots are lost when the model's process ends."""
    max_conversations: Count = 50
    """The most snapshots of one model; the oldest make room."""
    max_age_seconds: Seconds = 3600.0
    """When a snapshot that nobody used is removed."""


class TransferSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What travels from node to node, through an object store on NATS."""

    store_mb: Annotated[int, Meta(ge=16, le=1 << 24)] = 1024
    """The most that parts of model files take in the object store, in MiB (2**20 bytes). It counts when the
    store is made, with the first model that is pushed."""
    conversations_mb: Annotated[int, Meta(ge=0, le=1 << 20)] = 256
    """The most that conversations on their way to another node take in the memory of NATS, in MiB; 0: none
    travels, and the other node reads the prompt again. What travels has the conversation as token ids, which
    are gone within a minute, and only nodes may read."""


class PictureSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The pictures that requests name by the URL of a web server, instead of sending them."""

    fetch_from: tuple[str, ...] = ()
    """The hosts from which this node fetches such pictures; without any, it fetches none. Set it alike on
    all nodes.

    `images.example.org`; `*.example.org` for the hosts below it; either with `:8443`, or else with the ports
    80 and 443; `*` for each host with a public address. A host in a private network, or this machine, has to
    be listed by its own name or address. In the variable, commas are between them.
    """

    @property
    def hosts(self) -> WebHosts:
        """The hosts from which pictures are fetched. Raises InvalidConfiguration."""
        try:
            return WebHosts.of(self.fetch_from)
        except ValueError as error:
            raise InvalidConfiguration(f"pictures.fetch_from: {error}") from None


_is_origin = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^/\s]+").fullmatch


def address_of(text: str, example: str) -> tuple[str, int]:
    """The host and the port of an address to listen on. Raises InvalidConfiguration."""
    host, colon, port = text.rpartition(":")
    if not (colon and port.isascii() and port.isdigit() and int(port) <= 65535):
        raise InvalidConfiguration(f"{text!r} is no address to listen on: write it as {example}")
    return host.strip("[]") or "127.0.0.1", int(port)


class HttpSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The gateway: the models over HTTP, for clients of OpenAI's API. It is off without `listen`."""

    listen: str | None = None
    """The address and the port to listen on, such as `127.0.0.1:8080`. Default: no HTTP."""
    max_body_mb: Annotated[float, Meta(gt=0, le=4096)] = 10.0
    """The most that a request's body may have, in MiB (2**20 bytes)."""
    require_keys: bool = False
    """Whether only who has a key is let in. On addresses that other machines reach it is so in any case."""
    cors_origins: tuple[str, ...] = ()
    """The origins of web pages that may use the gateway, such as `https://chat.example`; `*`: of all.

    In the variable, commas are between them.
    """
    tls_certificate: Path | None = None
    """The file of the certificate with its chain, as PEM, for HTTPS. Default: HTTP."""
    tls_key: Path | None = None
    """The file of the certificate's key, as PEM, without a password."""
    max_connections: Annotated[int, Meta(ge=1, le=1_000_000)] = 4096
    """The most connections at once; fewer if the process may not open so many files. Others get 503."""
    load_seconds: Seconds = 240.0
    """How long a request waits for a model that is not loaded, before it is told to come back later.

    Most clients give up after 5 or 10 minutes.
    """

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of pages that may use the gateway. Raises InvalidConfiguration."""
        for origin in self.cors_origins:
            if not _is_origin(origin):
                raise InvalidConfiguration(
                    f"{origin[:100]!r} is no origin of pages: write scheme and host as https://chat.example, "
                    "without a path or a slash at the end, or * for all"
                )
        return self.cors_origins

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port to listen on. Raises InvalidConfiguration."""
        return address_of(self.listen or "", "127.0.0.1:8080")


class CopySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a model that is asked for more than its nodes can serve gets a copy on one more node."""

    enabled: bool = True
    """Whether there are copies while this node is the one that decides for the fleet. Set it alike on all."""
    max_copies: Annotated[int, Meta(ge=0)] = 0
    """On how many nodes a model may be loaded because of the load; 0 for all."""
    waiting: Annotated[float, Meta(gt=0)] = 1.0
    """How many requests must wait on average for each copy that there is."""
    add_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 5.0
    """The time over which those who wait are averaged."""
    remove_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 60.0
    """The time over which use is averaged before a copy goes, and the least time that it stays."""


class RetentionSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days such events are kept, in the log and in the read models; 0: for ever. Others stay."""

    metric_days: Days = 90.0
    """Samples of metrics."""
    usage_days: Days = 365.0
    """Generations and recorded usage."""
    error_days: Days = 90.0
    """Reported errors, and what happened to circuit breakers."""
    admission_days: Days = 90.0
    """Waits for memory, and refusals."""

    def seconds(self) -> Mapping[str, int]:
        """The retention by aggregate, in whole seconds, at least 1; 0: for ever."""
        days = {
            "metric": self.metric_days,
            "usage": self.usage_days,
            "error": self.error_days,
            "admission": self.admission_days,
            "breaker": self.error_days,
        }
        # The server refuses a message TTL below a second.
        return {name: max(1, round(each * _SECONDS_A_DAY)) if each else 0 for name, each in days.items()}


class Settings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All settings of a node."""

    node: str = msgspec.field(default_factory=socket.gethostname)
    """The name of this node, the same at each start."""
    data_dir: Path = msgspec.field(default_factory=default_data_dir)
    """The directory of everything that must last: the log, the read models, snapshots, `connection.json`."""
    models_directories: tuple[Path, ...] = (Path("models"),)
    """Also called `models_directory`. They are read, and never written.

    Each may be a directory of files, a Hugging Face cache, an Ollama store or LM Studio's models, or have
    such folders in it.
    """
    follow_links: FollowLinks = "inside"
    """Where links in the model directories may lead: `inside` these directories only, or `anywhere`."""
    subject_root: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]+\Z")] = "suite"
    """The first token of every subject; two suites on one NATS need two."""
    memory_limit_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """The limit of RAM for all loaded models, in GiB (2**30 bytes).

    Default: four fifths of the memory that the process may use, which `suite config` shows.
    """
    vram_limit_gb: Annotated[float, Meta(gt=0, le=1_000_000)] | None = None
    """The limit of each GPU's memory for all loaded models, in GiB.

    Default: nine tenths of what the GPU has. Where no GPU is found, this counts as `memory_limit_gb` if that
    is not set.
    """
    idle_timeout_seconds: Seconds = 300.0
    """When a model that nobody uses is unloaded; 0: never."""
    keep_alive_policy: KeepAlivePolicy = "idle_timeout"
    """How long a model stays that nobody uses.

    `idle_timeout`: for `idle_timeout_seconds`. `learned`: longer if it is likely to come back soon, and
    shorter if not, so that all together take as much memory over time. A model or a request with a time of
    its own keeps it.
    """
    eviction_policy: Annotated[str, Meta(min_length=1)] = "best_lately"
    """Which models leave first when another needs their memory.

    `best_lately` follows whichever of the others would have cost the fewest seconds lately: `lru`,
    `decayed_frequency`, `greedy_dual`, `relaxed_belady`. `module:Class` is one of your own.
    """
    load_wait_ms: Milliseconds = 300_000
    """How long a request waits until there is memory for its model; a request may say otherwise.

    The load itself is not counted. After that the request is refused with `not_enough_memory`; 0: at once.
    """
    load_wait_unstreamed_ms: Milliseconds = 30_000
    """The same for requests without `stream`, if it is less than `load_wait_ms`.

    Such a request shows no sign of whether its client still waits, and most clients give up by then. A client
    that waits longer says so in the request.
    """
    turn_seconds: Seconds | None = None
    """How long a model in use stays before it leaves for one that waits.

    Default: twice as long as its load took, from 1.25 seconds to a minute.
    """
    drain_seconds: Seconds = 10.0
    """How long stopping the node waits for running generations."""
    queue_limit: Count = 64
    """The most generations that wait for one model; the next one is refused with `overloaded`."""
    standby: bool = True
    """Whether to keep a process ready for the next load, which then does not wait for a process to start.

    The process takes about 40 MB, within the memory limit and only while no model needs them.
    """
    confinement: bool = True
    """Whether processes of models are confined to what they need, as far as the kernel can.

    `suite health --json` and the log say what is not confined, and why. Turn it off to attach a
    debugger, or for a driver that it keeps from working.
    """
    log_format: LogFormat = "text"
    """How the service logs to stderr: `text` for people, `json` for programs, one line an event."""
    trace: TraceMode = "off"
    """Where traces of OpenTelemetry go; `otlp` needs the extra `[otlp]`.

    `local`: they are only kept on this machine, for `suite trace`, as they are with the others too.
    """
    trace_ratio: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """The share of traces that are exported and kept; a caller's trace is if the caller says so.

    What fails or is slow is exported all the same, as far as one process sees it.
    """
    trace_slow_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 10.0
    """From how long on something is slow, whose trace is exported whatever `trace_ratio` says."""
    trace_content: bool = False
    """Whether traces have the texts of prompts, answers and errors: whoever reads the traces reads these."""
    trace_store_mb: Annotated[int, Meta(ge=0, le=1_000_000)] = 32
    """The most MiB that traces take which are kept on this machine for `suite trace`; 0: none are kept."""
    metrics: MetricsMode = "off"
    """Where metrics of OpenTelemetry go by themselves, every minute; `otlp` needs the extra `[otlp]`.

    `OTEL_METRIC_EXPORT_INTERVAL` in the environment is another interval, in milliseconds.
    """
    metrics_listen: str | None = None
    """The address and the port at which Prometheus fetches the metrics of the node, such as `127.0.0.1:9464`.

    Whoever reaches it can read them: they have the names of models, and no texts. Default: nowhere. A gateway
    has its own at `/metrics`.
    """
    sqlite_db_path: Path | None = None
    """The file of the read model of evaluations. Default: projections/model_evaluation.db in `data_dir`."""
    enable_gguf_management: bool = True
    """Whether this node loads and runs models."""
    enable_model_evaluation: bool = True
    """Whether this node accepts and answers requests for metrics and evaluations."""
    enable_predictive_loading: bool = False
    """Whether models are loaded in advance that are likely to be used, where that is expected to pay.

    In a fleet, set it alike on all nodes.
    """
    prediction_interval_seconds: Annotated[float, Meta(gt=0, le=1e9)] = 300.0
    """How often to see which models to load in advance; the first time is at the start."""
    enable_backward_compatibility: bool = False
    """Whether to serve old clients over ZeroMQ, with the settings in `legacy`."""
    dependencies: tuple[ServiceName, ...] = ()
    """The names of NATS micro services that this one needs: letters, digits, - and _."""
    wait_for_dependencies: bool = False
    """Whether the start waits until the dependencies answer."""
    dependency_timeout_seconds: Seconds = 60.0
    """How long the start waits for them before it gives up."""
    nats: NatsSettings = NatsSettings()
    http: HttpSettings = HttpSettings()
    legacy: LegacySettings = LegacySettings()
    copies: CopySettings = CopySettings()
    retention: RetentionSettings = RetentionSettings()
    snapshots: SnapshotSettings = SnapshotSettings()
    transfers: TransferSettings = TransferSettings()
    pictures: PictureSettings = PictureSettings()
    models: dict[str, ModelSettings] = {}

    @property
    def tracing(self) -> TraceSettings:
        """How the processes of this node trace."""
        return TraceSettings(
            mode=self.trace,
            ratio=self.trace_ratio,
            slow_seconds=self.trace_slow_seconds,
            content=self.trace_content,
            store=str(self.data_dir / TRACES) if self.trace_store_mb else None,
            store_bytes=self.trace_store_mb << 20,
        )

    @property
    def measures(self) -> bool:
        """Whether anything is measured."""
        return self.metrics != "off" or self.metrics_listen is not None

    @property
    def metrics_address(self) -> tuple[str, int]:
        """The host and the port for Prometheus. Raises InvalidConfiguration."""
        return address_of(self.metrics_listen or "", "127.0.0.1:9464")

    def for_model(self, model_id: str) -> ModelSettings:
        """The settings of one model."""
        return self.models.get(model_id, ModelSettings())
