"""What a node that was killed left open in the log is closed at its next start, whenever that gets so far."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

from suite.bus.embedded import EmbeddedServer
from suite.log import Log
from suite.messages.events import InstanceGrew, InstanceLoadStarted, InstanceUnloaded
from suite.node.journal import Journal
from suite.node.recovery import close_open_instances
from support.journal import SUBJECTS, open_log, started

NODE = "box1"


class Runs:
    """The processes that serve as the node, one after the other."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.journal: Journal
        self._ids = count()

    async def start(self) -> None:
        epoch = await self.log.append(started(1))
        self.journal = Journal(self.log, SUBJECTS, NODE, epoch, lambda: f"id-{next(self._ids)}")

    async def load(self, model_id: str, instance_id: str) -> None:
        fact = InstanceLoadStarted(
            node=NODE, model_id=model_id, instance_id=instance_id, reserved_bytes=1, context_tokens=1
        )
        await self.log.append(fact)

    async def recover(self) -> set[str]:
        """Returns what it closed."""
        before = await self._ended()
        await close_open_instances(self.log, self.journal, SUBJECTS, NODE)
        return await self._ended() - before

    async def _ended(self) -> set[str]:
        events = [event.data async for event in self.log.read(SUBJECTS.aggregate("instance", NODE))]
        return {event.instance_id for event in events if isinstance(event, InstanceUnloaded)}


@asynccontextmanager
async def running(directory: Path) -> AsyncIterator[Runs]:
    """The first process has started."""
    async with EmbeddedServer.start(directory / "nats") as server, open_log(server.access) as (_, log):
        runs = Runs(log)
        await runs.start()
        yield runs


async def test_what_was_left_open_is_closed_whichever_start_gets_so_far(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        assert await runs.recover() == set()
        await runs.load("a", "a-1")
        await runs.load("b", "b-1")
        await runs.start()  # and is killed before it recovers
        await runs.start()
        await runs.journal.record(
            InstanceUnloaded(node=NODE, model_id="a", instance_id="a-1", reason="node_lost", freed_bytes=0)
        )  # and is killed before it has closed the other one
        await runs.start()
        assert await runs.recover() == {"b-1"}
        await runs.start()
        assert await runs.recover() == set()
        await runs.load("a", "a-2")
        await runs.start()
        assert await runs.recover() == {"a-2"}


async def test_growth_that_is_stored_after_the_end_does_not_open_an_instance_again(tmp_path: Path) -> None:
    """Earlier versions stored it so if the log had taken nothing for a while: see `test_journal`."""
    async with running(tmp_path) as runs:
        await runs.load("a", "a-1")
        ended = InstanceUnloaded(
            node=NODE, model_id="a", instance_id="a-1", reason="requested", freed_bytes=0
        )
        await runs.log.append(ended)
        await runs.log.append(InstanceGrew(node=NODE, model_id="a", instance_id="a-1", reserved_bytes=2))
        before = await runs.log.last(SUBJECTS.aggregate("instance", NODE))
        await runs.start()
        await close_open_instances(runs.log, runs.journal, SUBJECTS, NODE)
        assert await runs.log.last(SUBJECTS.aggregate("instance", NODE)) == before


async def test_what_was_before_the_last_process_that_loaded_anything_is_not_read(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        await runs.load("a", "long-ago")
        await runs.start()
        await runs.load("b", "b-1")
        await runs.start()
        assert await runs.recover() == {"b-1"}, "a load begins only once all before it was closed"


async def test_what_others_put_there_hides_nothing(tmp_path: Path) -> None:
    async with running(tmp_path) as runs:
        await runs.load("a", "a-1")
        await runs.start()
        await runs.load("a", "a-2")
        old = InstanceUnloaded(node=NODE, model_id="a", instance_id="a-1", reason="idle", freed_bytes=0)
        await runs.log.append(old)
        await runs.start()
        assert await runs.recover() == {"a-2"}
