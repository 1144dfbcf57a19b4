"""How many servers of a cluster keep a copy of a stream: clamped to the servers there are, raised later.

    info = await create_replicated(jetstream, config, replicas=3)     # 1 if there are only two servers
    replication = Replication.of(info, wanted=3)
    replication.problem      # why the stream could not survive the loss of a server; None if it could

Only NATS's own system account knows which servers there are. So a number is asked for, and where the servers
refuse it, the next smaller odd one: with two replicas nothing could be stored after the loss of either
(docs/adr/0060).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from suite.bus.jetstream import NAME_IN_USE, TOO_FEW_SERVERS, JetStream, Refused, StreamInfo


async def create_replicated(jetstream: JetStream, config: Mapping[str, Any], *, replicas: int) -> StreamInfo:
    """Create a stream with as many replicas as there are servers for, at most ``replicas``.

    Returns what another node has made if it was faster. Raises Refused, NotSent, NoAnswer.
    """
    for number in (replicas, *(each for each in (3, 1) if each < replicas)):
        try:
            return await jetstream.create({**config, "num_replicas": number})
        except Refused as refused:
            if refused.code == NAME_IN_USE:
                return await jetstream.info()
            if refused.code not in TOO_FEW_SERVERS or number == 1:
                raise
    raise AssertionError("one replica is always tried")


async def raise_replicas(jetstream: JetStream, info: StreamInfo, *, replicas: int) -> StreamInfo:
    """Give a stream more replicas, at most ``replicas``, and change nothing else of it.

    Returns what it has then, which is what it had where there are no more servers. Raises Refused, NotSent,
    NoAnswer.
    """
    has = int(info.config.get("num_replicas", 1))
    for number in (each for each in (replicas, 3) if has < each <= replicas):
        try:
            return await jetstream.update({**info.config, "num_replicas": number})
        except Refused as refused:
            if refused.code not in TOO_FEW_SERVERS:
                raise
    return info


class Replication(msgspec.Struct, frozen=True, kw_only=True):
    """Which servers have a stream, and whether it would survive the loss of one of them now."""

    stream: str
    wanted: int
    replicas: int
    """How many servers are to keep it, by its configuration."""
    leader: str | None
    """None: there is none, so nothing can be stored; or the server is alone."""
    current: tuple[str, ...] = ()
    """The servers that have everything and answer, the leader first."""
    missing: tuple[str, ...] = ()
    """Those that do not answer or have not everything yet."""
    is_clustered: bool = True

    @classmethod
    def of(cls, info: StreamInfo, *, wanted: int) -> Replication:
        """From what the stream's leader, or for want of one any server, says."""
        cluster = info.cluster
        is_clustered, led = bool(cluster.name), bool(cluster.name and cluster.leader)
        current = [each.name for each in cluster.replicas if led and each.is_there]
        return cls(
            stream=str(info.config.get("name", "")),
            wanted=wanted,
            replicas=int(info.config.get("num_replicas", 1)),
            leader=cluster.leader if led else None,
            current=(cluster.leader, *current) if led else (),
            missing=tuple(each.name for each in cluster.replicas if each.name not in current),
            is_clustered=is_clustered,
        )

    @property
    def has_leader(self) -> bool:
        """Whether something can be stored. A leader that has lost the others may not know it yet."""
        return not self.is_clustered or (self.leader is not None and len(self.current) >= self._quorum)

    @property
    def survives_loss(self) -> bool:
        """Whether any one server may be lost now, and events are still stored and none is gone."""
        return self.has_leader and self.replicas > 1 and len(self.current) > self._quorum

    @property
    def problem(self) -> str | None:
        """What is wrong, and what to do; None if it is as wanted."""
        name, missing = f"the stream {self.stream}", ", ".join(self.missing)
        if not self.has_leader:
            return self.no_leader
        if self.replicas < self.wanted:
            why = "there are too few servers" if self.is_clustered else "NATS is a single server"
            return (
                f"{name} has {self.replicas} of {self.wanted} replicas, because {why}: it would not survive "
                f"the loss of {self.leader or 'that one'}; start more servers, and it gets more by itself, "
                "or lower nats.replicas"
            )
        if self.missing:
            said = "" if self.survives_loss else ", so it would not survive the loss of another one"
            return (
                f"{name} is on {len(self.current)} of {self.replicas} servers now{said}: {missing} cannot be "
                "reached, or is catching up"
            )
        return None

    @property
    def no_leader(self) -> str | None:
        """Why nothing can be stored, and what to do; None if something can."""
        if self.has_leader:
            return None
        missing = ", ".join(self.missing) or "more than half"
        return (
            f"the stream {self.stream} has no leader and stores nothing: of its {self.replicas} servers "
            f"{missing} cannot be reached; start them, and it goes on by itself"
        )

    @property
    def _quorum(self) -> int:
        return self.replicas // 2 + 1
