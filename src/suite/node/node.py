"""One suite process on one machine: holds the parts that the actions use."""

from __future__ import annotations

import math
from contextlib import suppress

import anyio

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.bus.liveness import answers
from suite.bus.service import Service
from suite.catalogue import Catalogue, Model
from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.engine.gguf.signature import Signature
from suite.errors import (
    InvalidRequest,
    ModelFileInvalid,
    Quarantined,
    ReadModelBehind,
    SuiteError,
    VersionGone,
)
from suite.identity import Clock, NewId, Now
from suite.log import Log
from suite.messages.actions.base import KeepAlive
from suite.messages.actor import ActorSpec, ConfinementSpec, DraftSpec, ModelFiles, NatsAccess, SnapshotSpec
from suite.messages.events import Generated
from suite.messages.subjects import Subjects
from suite.node.actor_client import ActorClient
from suite.node.adapters import adapters_of
from suite.node.admission import Terms
from suite.node.aliases import Aliases
from suite.node.benchmarks.benchmarks import Benchmarks
from suite.node.breakers import Breakers
from suite.node.cluster import ClusterWatch
from suite.node.cores import NodeCores
from suite.node.dispatcher import Dispatcher
from suite.node.drain import Drain
from suite.node.fleet.fleet import Fleet
from suite.node.foreign_messages import ForeignMessages
from suite.node.gateway import GatewayProcess
from suite.node.generations import Generations
from suite.node.integrity import Integrity
from suite.node.journal import Journal
from suite.node.learning import Learning
from suite.node.pictures.web_pictures import WebPictures
from suite.node.pins import Pins
from suite.node.snapshots import snapshots_of
from suite.node.supervisor import Supervisor
from suite.node.transfers.transfers import Transfers, moving_spec
from suite.node.versions import Names, VersionBook
from suite.prediction.policy import Policy
from suite.projections.projections import Projections
from suite.projections.usage import UsageHistory

DIGEST_SECONDS = 1.0
"""How long a load waits for the digest of a file that has not been hashed yet."""
LEARNING_SECONDS = 8.0
"""How long a request waits for what it must see to be learned; less than clients wait for a reply."""


class Node:
    """The context that every action handler gets; `suite.node.serving` builds it."""

    def __init__(
        self,
        settings: Settings,
        *,
        cluster: ClusterWatch,
        connection: Connection,
        server: EmbeddedServer | None,
        catalogue: Catalogue,
        log: Log,
        journal: Journal,
        projections: Projections,
        foreign: ForeignMessages,
        integrity: Integrity,
        policy: Policy,
        learning: Learning,
        supervisor: Supervisor,
        actors: ActorClient,
        generations: Generations,
        dispatcher: Dispatcher,
        pictures: WebPictures,
        pins: Pins,
        versions: VersionBook,
        names: Names,
        aliases: Aliases,
        fleet: Fleet,
        drain: Drain,
        transfers: Transfers,
        benchmarks: Benchmarks,
        breakers: Breakers,
        gateway: GatewayProcess | None,
        new_id: NewId,
        now: Now,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.name = settings.node
        self.subjects = Subjects(settings.subject_root)
        self.cluster = cluster
        self.connection = connection
        self._server = server
        self.catalogue = catalogue
        self.log = log
        self.journal = journal
        self.projections = projections
        self.foreign = foreign
        self.integrity = integrity
        self.policy = policy
        self.learning = learning
        self.supervisor = supervisor
        self.actors = actors
        self.generations = generations
        self.dispatcher = dispatcher
        self.pictures = pictures
        self.pins = pins
        self.versions = versions
        self.names = names
        self.aliases = aliases
        self.fleet = fleet
        self.drain = drain
        self.transfers = transfers
        self.benchmarks = benchmarks
        self.breakers = breakers
        self.gateway = gateway
        self.new_id, self.now, self.clock = new_id, now, clock
        self.listing = anyio.Lock()
        """Held while all models are listed, which takes the event loop for long where there are many."""
        self.started = clock()
        self.service: Service[Node] | None = None
        """None until the actions are served, which is the last step of the start."""
        self.predictions_made = 0

    async def reaches_nats(self) -> bool:
        """Whether NATS answers, or will again without a new start of this node.

        Its own server is started again when it ends, and may then read a large store for long: a node that
        was started again meanwhile would only begin that anew.
        """
        if self._server is not None and self._server.is_starting:
            return True
        return await answers(self.connection, outages_count=self._server is not None)

    @property
    def commands_processed(self) -> int:
        """How many requests were answered or refused since the start."""
        return self.service.commands_processed if self.service else 0

    @property
    def models_loaded(self) -> int:
        """How many models are loaded now."""
        return sum(instance.phase == "loaded" for instance in self.supervisor.instances.values())

    @property
    def last_seq(self) -> int:
        """The newest event that this node wrote or knows of. Its queries must see at least this."""
        return max(self.journal.last_seq, self.log.newest)

    def is_loaded(self, model_id: str) -> bool:
        """Whether the model is loaded on this node."""
        instance = self.supervisor.instances.get(model_id)
        return instance is not None and instance.phase == "loaded"

    async def predict(self, *, limit: int, min_seq: int = 0) -> list[str]:
        """Predict which models will be used next, the likeliest first."""
        async with self.projections.usage.reading(min_seq, own_seq=self.last_seq) as db:
            predicted = await self.policy.predict(UsageHistory(db), now=self.now(), limit=limit)
        self.predictions_made += 1
        return predicted

    async def learned(self, min_seq: int) -> None:
        """Wait until what is learned includes the events up to a sequence, and all that this node wrote.

        Raises InvalidRequest for a sequence beyond the end of the log, and ReadModelBehind.
        """
        if not await self.log.reaches(min_seq):
            raise InvalidRequest(f"field 'min_seq': the log ends before event {min_seq}: send an earlier one")
        with anyio.move_on_after(LEARNING_SECONDS):
            await self.learning.reach(max(min_seq, self.last_seq))
            return
        raise ReadModelBehind("what is predicted from has not been read up to here yet: try again")

    @property
    def models(self) -> dict[str, Model]:
        """The models of the catalogue by id, and those that are loaded though their files are gone."""
        loaded = {id: instance.model for id, instance in self.supervisor.instances.items()}
        return {**loaded, **self.catalogue.models}

    def model(self, id_or_alias: str) -> Model:
        """The model with this id, or else with this alias. Raises as `Catalogue.resolve` does."""
        instance = self.supervisor.instances.get(id_or_alias)
        if instance is not None and id_or_alias not in self.catalogue.models:
            return instance.model
        return self.catalogue.resolve(id_or_alias)

    async def loadable(self, model_id: str) -> Model:
        """Find a model by a resolved name, and check that its file is valid and, to load it, still exists.

        Raises ModelNotFound, VersionGone, ModelFileGone, ModelFileIncomplete or ModelFileInvalid.
        """
        model = self.catalogue.resolve(model_id)
        version = self.names.version(model_id)
        if version is not None and self.names.number(version.model_id) != version.number:
            raise VersionGone(
                f"{version.name} is not on {self.name} any more: see `suite versions {model.model_id}`"
            )
        if model.model_id not in self.supervisor.instances:
            await self.catalogue.look(model)
        if model.error is not None:  # also of what is loaded: it has turned out to be damaged meanwhile
            raise model.error.copy()
        return model

    def check_name(self, name: str, model: Model) -> None:
        """Check that a name may be computed, if it stands for the model with adapters. Raises Quarantined."""
        try:
            self.supervisor.quarantine.check_name(name)
        except Quarantined as error:
            self.supervisor.admission.note_refusal(model.model_id, error)
            raise

    def keep_alive(self, model: Model) -> float:
        """The idle time in seconds after which the model is unloaded; inf: never.

        It is the model's own, or else as it is configured for all or learned.
        """
        own = model.settings.keep_alive
        if own is None and (learned := self.learning.keep_alive) is not None:
            seconds = model.settings.idle_timeout_seconds
            return learned.seconds(model.model_id) if seconds is None else seconds or math.inf
        return keep_alive(self.settings, model)

    def terms(
        self, load_wait_ms: int | None, keep_alive: KeepAlive, *, stream: bool = False, priority: int = 0
    ) -> Terms:
        """The terms of a request from now on; what it leaves out is as it is configured.

        Without a `stream` nobody can tell whether its client still waits, so by default it waits less long.
        """
        wait_ms = self.settings.load_wait_ms if load_wait_ms is None else load_wait_ms
        if load_wait_ms is None and not stream:
            wait_ms = min(wait_ms, self.settings.load_wait_unstreamed_ms)
        return Terms(
            deadline=self.clock() + wait_ms / 1000,
            priority=priority,
            keep_alive=None if keep_alive is None else _seconds(keep_alive),
        )

    def threads(self, model: Model) -> int:
        """How many threads the model computes with when no other is busy."""
        return self.supervisor.cores.processors.threads(model.settings.n_threads)


def context_warnings(model: Model, asked_tokens: int | None) -> tuple[str, ...]:
    """What a request is told that asks for another context than the model has.

    The model keeps its own, so that two clients do not have it loaded anew in turns. Raises InvalidRequest
    if the request asks for more.
    """
    if asked_tokens is None or asked_tokens == model.context_tokens:
        return ()
    has = f"{model.model_id} has a context of {model.context_tokens} tokens, which no request changes"
    if asked_tokens > model.context_tokens:
        raise InvalidRequest(
            f"{has}: ask for at most so many, or set context_length = {asked_tokens} "
            f'in models."{model.model_id}"'
        )
    return (f"{has}: it is used instead of one of {asked_tokens}",)


def keep_alive(settings: Settings, model: Model) -> float:
    """The model's own idle time in seconds after which it is unloaded, or else that of the service.

    For ever is infinite.
    """
    if model.settings.keep_alive is not None:
        return _seconds(model.settings.keep_alive)
    own = model.settings.idle_timeout_seconds
    return (settings.idle_timeout_seconds if own is None else own) or math.inf


def _seconds(keep_alive: float | str) -> float:
    return {"forever": math.inf, "now": 0.0}[keep_alive] if isinstance(keep_alive, str) else keep_alive


async def actor_spec(
    settings: Settings,
    access: NatsAccess,
    catalogue: Catalogue,
    cores: NodeCores,
    limits: Footprint,
    model: Model,
    instance_id: str,
) -> ActorSpec:
    """Build the specification that a model's process is started with.

    Raises ModelFileInvalid for a model that turned out not to be what its store says.
    """
    signature = await _signature(catalogue, model)
    digest = await _digest(catalogue, model, signature)
    now = catalogue.models.get(model.model_id)
    if now is not None and isinstance(now.error, ModelFileInvalid):
        raise now.error.copy()
    cache = model.kv_cache
    assert cache is not None, "only what can be loaded is"
    return ActorSpec(
        node=settings.node,
        instance_id=instance_id,
        model_id=model.model_id,
        model_path=str(model.path),
        subject_root=settings.subject_root,
        nats=access,
        context_tokens=cache.context_tokens,
        cache_tokens=cache.cache_tokens,
        kv_cache=cache.form,
        flash_attention=cache.flash_attention,
        prompt_step_tokens=model.settings.prompt_step_tokens,
        max_step_ms=model.settings.max_step_ms,
        speculates=model.settings.speculation == "auto",
        draft=_draft(model),
        batch_tokens=model.settings.batch_tokens,
        gpu_layers=model.settings.n_gpu_layers,
        tensor_split=tuple(limits.gpus.values()),
        threads=cores.processors.threads(model.settings.n_threads),
        slots=cache.slots,
        queue_limit=settings.queue_limit,
        model_files=ModelFiles(paths=tuple(map(str, model.file.parts)), signature=signature.text),
        model_digest=digest,
        snapshots=_snapshots(settings, model.model_id, digest),
        # A state is known by the digest of its model, here and on other nodes.
        moving=moving_spec(settings, Subjects(settings.subject_root)) if digest is not None else None,
        usage_retention_seconds=settings.retention.seconds()[Generated.aggregate],
        tracing=settings.tracing,
        measures=settings.measures,
        chat_template=model.settings.chat_template,
        projector=None if model.projector is None else str(model.projector.path),
        confinement=ConfinementSpec(memory_bytes=limits.ram) if settings.confinement else None,
        adapters=str(adapters_of(settings, model.model_id)),
    )


def _draft(model: Model) -> DraftSpec | None:
    draft = model.draft
    if draft is None:
        return None
    return DraftSpec(
        model_path=str(draft.file.path),
        paths=tuple(map(str, draft.file.parts)),
        flash_attention=draft.flash_attention,
    )


async def _signature(catalogue: Catalogue, model: Model) -> Signature:
    """The signature of the files to load. If they are gone or have changed, the load will say so."""
    with suppress(SuiteError):
        return await catalogue.look(model)
    return model.file.signature


async def _digest(catalogue: Catalogue, model: Model, signature: Signature) -> str | None:
    """The digest of the files with this signature if it is known within `DIGEST_SECONDS`.

    A load does not wait for longer.
    """
    with anyio.move_on_after(DIGEST_SECONDS), suppress(SuiteError):
        await catalogue.digest(model.model_id)
    now = catalogue.models.get(model.model_id)
    return now.sha256 if now is not None and now.file.signature == signature else None


def _snapshots(settings: Settings, model_id: str, digest: str | None) -> SnapshotSpec | None:
    kept = settings.snapshots
    if not kept.enabled:
        return None
    # Snapshots on disk are identified by the model's digest; while it is unknown, none are put there.
    on_disk = kept.disk_mb > 0
    return SnapshotSpec(
        directory=str(snapshots_of(settings, model_id)) if on_disk and digest is not None else None,
        memory_bytes=kept.memory_mb << 20,
        disk_bytes=kept.disk_mb << 20,
        max_conversations=kept.max_conversations,
        max_age_seconds=kept.max_age_seconds,
    )
