"""Folds that follow the log in memory: through a real nats-server, whatever happens to it or to them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from suite.bus.connection import Connection
from suite.bus.embedded import EmbeddedServer
from suite.config import Settings
from suite.domain.footprint import Footprint
from suite.errors import InvalidConfiguration
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.envelope import Envelope, Recorded
from suite.messages.events import NodeStopped, UsageRecorded
from suite.messages.subjects import Subjects
from suite.node.learning import Learning
from suite.prediction.eviction.policy import Candidate, Fact
from suite.prediction.eviction.recency import LeastRecentlyUsed
from suite.prediction.live import Fold, LiveFolds
from suite.tasks import background
from support.nats import eventually, restart_nats, running_nats

NODE_EVENT = NodeStopped(node="n", epoch=1)


def uses(count: int) -> list[UsageRecorded]:
    return [UsageRecorded(model_id=f"m{number % 3}", usage_type="test") for number in range(count)]


class Remembering:
    """A fold that remembers what it got, and may fail at an event."""

    name = "the fold of the test"

    def __init__(self, *aggregates: str, fails_at: int = 0) -> None:
        self.aggregates = aggregates
        self.seqs: list[int] = []
        self._fails_at = fails_at

    def fold(self, event: Recorded) -> None:
        if event.seq == self._fails_at:
            raise ValueError("this one")
        self.seqs.append(event.seq)


async def publish_of_later_version(connection: Connection) -> None:
    """A fact that this version does not know: it is the next in the log."""
    known = Envelope(id=new_id(), source="/test", time=utc_now(), data=uses(1)[0])
    headers = {**known.headers(), "ce-type": "suite.usage.recorded.v9"}
    await connection.request(known.subject(Subjects()), b"{}", headers=headers, timeout=5.0)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[tuple[EmbeddedServer, Connection, Log]]:
    async with (
        running_nats(directory) as (server, connection),
        Log.open(connection, Subjects(), source="/test", new_id=new_id, now=utc_now) as log,
    ):
        yield server, connection, log


@asynccontextmanager
async def following(
    log: Log, *folds: Fold, remembered_uses: int = 1000, lasting: tuple[str, ...] = ()
) -> AsyncIterator[LiveFolds]:
    live = LiveFolds(log, folds, remembered_uses=remembered_uses, lasting=lasting)
    async with background() as tasks:
        tasks.start_soon(live.run)
        yield live


async def reaches(live: LiveFolds, seq: int) -> None:
    await eventually(lambda: live.seq >= seq)


async def test_each_fold_gets_its_events_once_in_order_although_the_server_dies_and_another_fails(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path) as (server, connection, log):
        first = await log.append(*uses(300), NODE_EVENT, *uses(2))
        whole, of_uses = Remembering("usage", "node"), Remembering("usage")
        failing = Remembering("usage", fails_at=100)
        async with following(log, failing, whole, of_uses) as live:
            await reaches(live, first)
            await publish_of_later_version(connection)
            await restart_nats(server, connection)
            last = await log.append(*uses(3), NODE_EVENT)
            await reaches(live, last)
            assert whole.seqs == [seq for seq in range(1, last + 1) if seq != first + 1]
            assert of_uses.seqs == [seq for seq in whole.seqs if seq not in (301, last)]
            assert failing.seqs == [*range(1, 100)]
            assert len(live.problems) == 1
            assert "the fold of the test learns nothing any more: event 100" in live.problems[0]


async def test_of_a_long_log_the_newest_uses_are_folded_and_what_happened_since(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, _, log):
        for count in (20, 7, 5):
            last = await log.append(*uses(count), NODE_EVENT)
        fold, all_ = Remembering("usage", "node"), Remembering("usage")
        async with following(log, fold, remembered_uses=10) as live, following(log, all_) as other:
            await reaches(live, last)
            await reaches(other, last - 1)
        lasting = Remembering("usage", "node")
        async with following(log, lasting, remembered_uses=10, lasting=("node",)) as live:
            await live.reach(last)
        # 20 uses, an event of the node, 7 uses, one, 5 uses, one: the tenth from the end is the 24th event.
        assert fold.seqs == [*range(24, last + 1)]
        assert all_.seqs[0] == 1
    assert lasting.seqs == [21, *fold.seqs]


async def test_a_copy_of_an_event_is_not_folded_again(tmp_path: Path) -> None:
    async with opened(tmp_path) as (_, connection, log):
        await log.append(*uses(2))
        first, _ = [each async for each in log.read(Subjects().events, after=0)]
        copy = Envelope(id=first.id, source=first.source, time=first.time, data=first.data)
        headers = {name: value for name, value in copy.headers().items() if name != "Nats-Msg-Id"}
        await connection.request(copy.subject(Subjects()), copy.body(), headers=headers, timeout=5.0)
        last = await log.append(*uses(1))
        fold = Remembering("usage")
        async with following(log, fold) as live:
            await live.reach(last)
        assert (last, fold.seqs) == (4, [1, 2, 4])


# --- what a node learns with ----------------------------------------------------------------------------


class Raises(LeastRecentlyUsed):
    def fold(self, fact: Fact) -> None:
        raise KeyError(fact)


class Loops(LeastRecentlyUsed):
    def fold(self, fact: Fact) -> None:
        while fact:
            pass


class Nonsense(LeastRecentlyUsed):
    def worth(self, candidate: Candidate, *, now: float) -> float:
        return float("nan") if candidate else now


@asynccontextmanager
async def learning(log: Log, policy: str, told: list[tuple[str, str]]) -> AsyncIterator[Learning]:
    settings = Settings(node="box", eviction_policy=policy)
    learning = Learning(
        settings, log, Footprint(100), report=lambda kind, message: told.append((kind, message))
    )
    async with background() as tasks:
        tasks.start_soon(learning.run)
        yield learning


async def test_a_policy_of_ones_own_that_fails_is_named_once_and_the_default_goes_on(tmp_path: Path) -> None:
    candidate = Candidate(model_id="m1", bytes=1, reload_seconds=1.0)
    async with opened(tmp_path) as (_, _, log):
        last = await log.append(*uses(5))
        for kind, problem in (
            (Raises, "fold raised KeyError"),
            (Loops, "fold did not end"),
            (Nonsense, "worth answered nan"),
        ):
            told: list[tuple[str, str]] = []
            name = f"{__name__}:{kind.__name__}"
            async with learning(log, name, told) as learned:
                await eventually(lambda learned=learned: learned.eviction.last_seq == last)  # type: ignore[misc]
                assert learned.appraiser.worth([candidate], utc_now())["m1"] > 0.0
                assert (learned.eviction.policy, learned.eviction.instead_of) == ("best_lately", name)
                assert learned.eviction.follows == "lru"
                assert [each[0] for each in told] == ["policy_failed"]
                assert learned.problems == (told[0][1],)
                assert f"{name} has failed: {problem}" in told[0][1]


@pytest.mark.parametrize("name", ["mru", "nosuch:Policy", "builtins:dict"])
async def test_a_policy_that_nothing_has_is_refused_at_the_start(name: str) -> None:
    with pytest.raises(InvalidConfiguration, match=r"^eviction_policy: "):
        Learning(Settings(eviction_policy=name), None, 100, report=lambda *_: None)  # type: ignore[arg-type]
