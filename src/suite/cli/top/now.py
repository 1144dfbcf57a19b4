"""What the fleet does at a moment, of what its nodes say, and how fast since the last look."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from suite.client import Client
from suite.client.generated_tokens import generated_tokens
from suite.identity import Clock
from suite.messages.actions.status import (
    GenerationInfo,
    GetStatsReply,
    HealthCheckReply,
    InstanceInfo,
    MemoryInfo,
    ModelInfo,
)

LIST_SECONDS: Final = 5.0
"""How often all models are listed while the log grows."""
IDLE_LIST_SECONDS: Final = 60.0
"""How often they are while it does not."""
_RAM: Final = "ram"


class Part(NamedTuple):
    """What a model has of a memory of a node, in bytes."""

    model_id: str
    weights: int
    cache: int
    reserve: int
    """What is reserved beside these, to compute in."""

    @property
    def all(self) -> int:
        """All of it."""
        return self.weights + self.cache + self.reserve


class Memory(NamedTuple):
    """A memory of a node: RAM, or a GPU."""

    name: str
    limit: int
    reserved: int
    parts: tuple[Part, ...]
    """By model, the largest first."""


class NodeNow(NamedTuple):
    """A node; without memories if it does not answer."""

    name: str
    state: str
    cores: int
    threads: int
    """With how many its models compute now."""
    running: int
    rate: float
    """Tokens a second since the last look."""
    memories: tuple[Memory, ...]


class Now(NamedTuple):
    """What all nodes do."""

    nodes: tuple[NodeNow, ...]
    models: Mapping[str, ModelInfo]
    generations: tuple[GenerationInfo, ...]
    problems: tuple[str, ...]

    @property
    def waiting(self) -> int:
        """How many generations have no slot yet."""
        return sum(each.state != "generating" for each in self.generations)

    @property
    def rate(self) -> float:
        """Tokens a second of all nodes."""
        return sum(node.rate for node in self.nodes)


NOTHING: Final = Now((), {}, (), ())


class Watch:
    """Looks at the fleet again and again."""

    def __init__(self, client: Client, *, clock: Clock) -> None:
        self._client = client
        self._clock = clock
        self._all: Mapping[str, ModelInfo] = {}
        self._listed_at, self._listed_seq = -math.inf, -1
        self._looked_at = -math.inf
        self._tokens: Mapping[str, int] = {}
        """Of each node, all that it has generated until the last look."""

    async def look(self) -> Now:
        """Ask the nodes what they do. Raises what a request does."""
        health, stats = await self._client.health_check(), await self._client.get_stats()
        active = await self._client.get_model_status(active=True)
        if self._is_due(stats.last_seq):
            listed = await self._client.list_models()
            self._all = {model.model_id: model for model in listed.models}
            self._listed_at, self._listed_seq = self._clock(), stats.last_seq
        models = _settled(self._all, active.models or {})
        rates = self._rates(stats, active.generations)
        return Now(
            nodes=nodes(health, stats, models, rates),
            models=models,
            generations=active.generations,
            problems=health.problems,
        )

    def _is_due(self, last_seq: int) -> bool:
        """Whether all models are to be listed again: there may be others since an event."""
        age = self._clock() - self._listed_at
        return age >= (IDLE_LIST_SECONDS if last_seq == self._listed_seq else LIST_SECONDS)

    def _rates(self, stats: GetStatsReply, generations: Sequence[GenerationInfo]) -> Mapping[str, float]:
        """Tokens a second of each node since the last look; zero at the first."""
        seconds, self._looked_at = self._clock() - self._looked_at, self._clock()
        before, self._tokens = self._tokens, generated_tokens(stats, generations)
        return {
            node: max(0, count - before.get(node, count)) / seconds for node, count in self._tokens.items()
        }


def nodes(
    health: HealthCheckReply,
    stats: GetStatsReply,
    models: Mapping[str, ModelInfo],
    rates: Mapping[str, float],
) -> tuple[NodeNow, ...]:
    """All nodes by name, those that do not answer too."""
    running = {each.node: each.generations_running for each in stats.node_stats}
    missing = {*health.missing_nodes, *stats.missing_nodes} - {each.node for each in health.node_health}
    found = [
        NodeNow(
            name=each.node,
            state="draining" if each.node in health.draining else each.status.lower(),
            cores=each.cores,
            threads=sum(instance.threads for _, instance in _held(models, each.node) if instance.running),
            running=running.get(each.node, 0),
            rate=rates.get(each.node, 0.0),
            memories=tuple(_memory(memory, models) for memory in stats.memories if memory.node == each.node),
        )
        for each in health.node_health
    ]
    found += [NodeNow(name, "lost", 0, 0, 0, 0.0, ()) for name in missing]
    return tuple(sorted(found))


def _settled(known: Mapping[str, ModelInfo], active: Mapping[str, ModelInfo]) -> Mapping[str, ModelInfo]:
    """All models; those with no process by what was known of them, which may be a moment old."""
    ended = {
        id: msgspec.structs.replace(model, status="unloaded", instance=None, instances=(), waiting=0)
        for id, model in known.items()
        if id not in active and model.instances
    }
    return {**known, **ended, **active}


def _memory(memory: MemoryInfo, models: Mapping[str, ModelInfo]) -> Memory:
    parts = [_part(memory.name, model, instance) for model, instance in _held(models, memory.node)]
    return Memory(
        name=memory.name,
        limit=memory.limit_bytes,
        reserved=memory.reserved_bytes,
        parts=tuple(
            sorted((part for part in parts if part.all), key=lambda part: (-part.all, part.model_id))
        ),
    )


def _part(memory: str, model: ModelInfo, instance: InstanceInfo) -> Part:
    """What a model has of a memory: as much of its weights and its cache as of all that it reserved."""
    on_gpus = sum(instance.gpus.values())
    own = instance.reserved_bytes - on_gpus if memory == _RAM else instance.gpus.get(memory, 0)
    if model.estimate is None or not instance.reserved_bytes:
        return Part(model.model_id, 0, 0, own)
    share = own / instance.reserved_bytes
    weights = min(own, round(model.estimate.weights_bytes * share))
    cache = min(own - weights, round(model.estimate.kv_bytes * share))
    return Part(model.model_id, weights, cache, own - weights - cache)


def _held(models: Mapping[str, ModelInfo], node: str) -> list[tuple[ModelInfo, InstanceInfo]]:
    """The models that have a process on a node."""
    return [(model, each) for model in models.values() for each in model.instances if each.node == node]
