"""What an open page is told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec

from suite.client.generated_tokens import generated_tokens
from suite.errors import SuiteError
from suite.messages.actions.status import (
    BreakerInfo,
    GenerationInfo,
    GetModelStatusReply,
    GetStatsReply,
    HealthCheckReply,
    InstanceInfo,
    MemoryInfo,
    ModelInfo,
    ModelStatus,
    QuarantineInfo,
)
from suite.messages.actions.versions import AliasInfo
from suite.messages.envelope import Recorded
from suite.messages.events import UnknownEvent

About: TypeAlias = Literal["service", "log"]


class Hello(msgspec.Struct, frozen=True, kw_only=True):
    """The first: who looks, and what that one may do."""

    version: str
    key: str | None
    may: tuple[str, ...]
    expires_at: datetime | None


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """The service does not answer, or a part of it. The page goes on with what it knew."""

    code: str
    message: str
    about: About = "service"

    @classmethod
    def of(cls, error: SuiteError, *, about: About = "service") -> Trouble:
        """What is told of an error."""
        return cls(code=error.code, message=error.message, about=about)


class NodeRow(msgspec.Struct, frozen=True, kw_only=True):
    """One node as it is now."""

    node: str
    status: str
    version: str
    uptime_seconds: float
    is_draining: bool
    cores: int
    models: int
    running: int
    completion_tokens: int
    """Since its start, those of unfinished generations included."""
    memories: tuple[MemoryInfo, ...]


class Fleet(msgspec.Struct, frozen=True, kw_only=True):
    """What all nodes do at this moment."""

    at: datetime
    nodes: tuple[NodeRow, ...]
    missing: tuple[str, ...]
    """The nodes that are lost, or do not answer in time."""
    problems: tuple[str, ...]
    breakers: tuple[BreakerInfo, ...]
    generations: tuple[GenerationInfo, ...]
    models: int
    last_seq: int


class InstanceRow(msgspec.Struct, frozen=True, kw_only=True):
    """A model's process."""

    node: str
    instance_id: str
    reserved_bytes: int
    gpus: dict[str, int]
    measured_bytes: int
    load_progress: float
    load_ms: float | None
    running: int
    threads: int
    loaded_at: str | None


class ModelRow(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model as the page lists it. What is as usual is left out."""

    id: str
    name: str = ""
    """Empty: its id."""
    status: ModelStatus = "unloaded"
    nodes: tuple[str, ...]
    architecture: str = ""
    parameters: int = 0
    quantization: str = ""
    context_tokens: int = 0
    file_bytes: int = 0
    need_bytes: int = 0
    weights_bytes: int = 0
    kv_bytes: int = 0
    capabilities: tuple[str, ...] = ()
    aliases: tuple[str, ...] = ()
    pinned_on: tuple[str, ...] = ()
    waiting: int = 0
    place: int | None = None
    quarantine: QuarantineInfo | None = None
    error: str = ""
    last_used: str | None = None
    instances: tuple[InstanceRow, ...] = ()


class Models(msgspec.Struct, frozen=True, kw_only=True):
    """The models that have changed since the last time, or all of them to a page that is opened."""

    rows: tuple[msgspec.Raw, ...]
    removed: tuple[str, ...] = ()
    are_all_known: bool
    """Whether the page has been told of all models by now."""


class Aliases(msgspec.Struct, frozen=True, kw_only=True):
    """What serves under each alias of the log, and what is being promoted to it."""

    aliases: tuple[AliasInfo, ...]


class Events(msgspec.Struct, frozen=True, kw_only=True):
    """The newest events of the log."""

    events: tuple[Mapping[str, Any], ...]
    skipped: int
    """How many before them are not told, because there were too many at once."""


def model_row(info: ModelInfo) -> ModelRow:
    """A model as the page lists it."""
    return ModelRow(
        id=info.model_id,
        name=info.display_name if info.display_name != info.model_id else "",
        status=info.status,
        nodes=info.nodes,
        architecture=info.architecture or "",
        parameters=info.parameters or 0,
        quantization=info.quantization or "",
        context_tokens=info.n_ctx,
        file_bytes=info.file_bytes,
        need_bytes=info.need_bytes,
        weights_bytes=info.estimate.weights_bytes if info.estimate else 0,
        kv_bytes=info.estimate.kv_bytes if info.estimate else 0,
        capabilities=info.capabilities,
        aliases=info.aliases,
        pinned_on=info.pinned_on,
        waiting=info.waiting,
        place=info.place,
        quarantine=info.quarantine,
        error=info.error or "",
        last_used=info.last_used,
        instances=tuple(map(_instance_row, info.instances)),
    )


def fleet(at: datetime, health: HealthCheckReply, stats: GetStatsReply, status: GetModelStatusReply) -> Fleet:
    """What all nodes do, of what they say."""
    return Fleet(
        at=at,
        nodes=_nodes(health, stats, status.generations),
        missing=tuple(dict.fromkeys((*health.missing_nodes, *stats.missing_nodes))),
        problems=health.problems,
        breakers=health.breakers,
        generations=status.generations,
        models=health.fleet_models,
        last_seq=stats.last_seq,
    )


def event_document(event: Recorded) -> Mapping[str, Any]:
    """An event with its envelope. One of a later version has what its body says."""
    fields: dict[str, Any] = msgspec.structs.asdict(event)
    if isinstance(event.data, UnknownEvent):
        fields["data"] = _unread(event.data.body)
    return fields


def _unread(body: bytes) -> Any:
    """What nobody has looked at: anything may have written it, and it must break no page."""
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode(errors="replace")


def _instance_row(info: InstanceInfo) -> InstanceRow:
    return InstanceRow(
        node=info.node,
        instance_id=info.instance_id,
        reserved_bytes=info.reserved_bytes,
        gpus=info.gpus,
        measured_bytes=info.measured_bytes,
        load_progress=info.load_progress,
        load_ms=info.load_ms,
        running=info.running,
        threads=info.threads,
        loaded_at=info.loaded_at,
    )


def _nodes(
    health: HealthCheckReply, stats: GetStatsReply, generations: Sequence[GenerationInfo]
) -> tuple[NodeRow, ...]:
    counts = {each.node: each for each in stats.node_stats}
    tokens = generated_tokens(stats, generations)
    rows = (
        NodeRow(
            node=each.node,
            status=each.status,
            version=each.version,
            uptime_seconds=each.uptime,
            is_draining=each.node in health.draining,
            cores=each.cores,
            models=each.models_tracked,
            running=counts[each.node].generations_running,
            completion_tokens=tokens[each.node],
            memories=tuple(memory for memory in stats.memories if memory.node == each.node),
        )
        for each in health.node_health
        if each.node in counts
    )
    return tuple(sorted(rows, key=lambda row: row.node))
