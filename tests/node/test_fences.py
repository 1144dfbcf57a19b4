"""A node's name and fence go by sequences: what nobody can read stops none, and an end says its cause."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from hashlib import sha256
from pathlib import Path

import anyio
import pytest

from suite.bus.connection import Connection
from suite.catalogue import Catalogue
from suite.config import ModelSettings
from suite.domain.footprint import Footprint
from suite.domain.registration import Found, Gone
from suite.errors import Conflict, Fenced, LogGone, SuiteError
from suite.identity import new_id
from suite.log import Log, attempts
from suite.messages.events import (
    InstanceLoadFailed,
    InstanceLoadStarted,
    ModelRegistered,
    ModelRemoved,
    NodeDraining,
    NodeLost,
    NodeStopped,
)
from suite.node.journal import Journal
from suite.node.membership import Membership
from suite.node.registrar import Registrar
from support.adapters import adapter
from support.faults import KillableServer
from support.journal import SUBJECTS, open_log, started
from support.models import tiny_model
from support.raw_gguf import gguf_bytes
from support.strangers import STRANGE, Stranger

UNDONE = InstanceLoadFailed(node="box1", model_id="m", instance_id="i", code="unknown_outcome", message="")
REGISTERED = ModelRegistered(
    model_id="m",
    node="box1",
    file_name="m.gguf",
    file_bytes=1,
    sha256="0",
    architecture="a",
    parameters=1,
    quantization="q",
    trained_context_tokens=1,
)


def load_started() -> InstanceLoadStarted:
    return InstanceLoadStarted(node="box1", model_id="m", instance_id="i", reserved_bytes=1, context_tokens=1)


class Box:
    """A node's name and pen, without the node."""

    def __init__(self, server: KillableServer, connection: Connection, log: Log, stranger: Stranger) -> None:
        self.connection = connection
        self.log = log
        self._stranger = stranger
        self.access = server.access
        self.membership = Membership(connection, log, SUBJECTS, "box1")
        self.journal: Journal

    async def enter(self) -> Journal:
        epoch = await self.membership.enter(take_over=True, limits=Footprint(1))
        self.journal = Journal(self.log, SUBJECTS, "box1", epoch, new_id)
        return self.journal

    async def garbage(self, subject: str) -> None:
        await self._stranger.publish(f"suite.event.{subject}", STRANGE[1])

    async def api(self, what: str) -> None:
        await self.connection.request(f"$JS.API.{what}", timeout=5)

    async def refused(self, kind: type[SuiteError]) -> str:
        """An append is refused, a look comes to the same, and that is why the node ends; the message."""
        with pytest.raises(kind) as refused:
            await self.journal.decide(load_started(), undone=UNDONE)
        await self.journal.check()
        with pytest.raises(kind, match=r".") as end, anyio.fail_after(5):
            await self.journal.until_fenced()
        assert (type(end.value), end.value.message) == (type(refused.value), refused.value.message)
        with pytest.raises(kind):
            await self.journal.record(load_started())  # what is tried again and again ends too
        return refused.value.message


@asynccontextmanager
async def box(directory: Path) -> AsyncIterator[Box]:
    async with (
        KillableServer.start(directory) as server,
        open_log(server.access, settle_seconds=0.5) as (connection, log),
        Stranger.connected(server.port) as stranger,
    ):
        yield Box(server, connection, log, stranger)


async def test_what_nobody_can_read_neither_keeps_a_node_out_nor_fences_it(tmp_path: Path) -> None:
    async with box(tmp_path) as node:
        for fact in ("started", "stopped", "whatever"):
            await node.garbage(f"node.box1.{fact}")
        journal = await node.enter()
        for subject in ("node.box1.stopped", "node.box1.lost", "node.box1.x", "instance.box1.m.loaded"):
            await node.garbage(subject)
            await node.membership._check_name(journal)
            await journal.decide(load_started(), undone=UNDONE)
        await node.log.append(NodeLost(node="box1", epoch=1, observer="x"))  # of an earlier life, once more
        await node.log.append(NodeStopped(node="box1", epoch=1))
        await node.membership._check_name(journal)
        await journal.decide(load_started(), undone=UNDONE)

        await node.garbage("node.box1.started")
        assert "is no event of the suite" in await node.refused(Fenced)
        await (await node.enter()).decide(load_started(), undone=UNDONE)
        seq = await node.log.append(started(4711))
        assert f"event {seq} of process 4711" in await node.refused(Fenced)


async def test_a_lost_node_is_buried_whatever_stands_behind_its_start(tmp_path: Path) -> None:
    async with box(tmp_path) as node:
        await node.enter()
        gone = [await node.log.append(started(1, node=name)) for name in ("box2", "box3", "box4")]
        await node.garbage("node.box2.started")
        await node.garbage("node.box3.whatever")
        await node.log.append(NodeDraining(node="box3", epoch=gone[1], requested_by=""))
        await node.log.append(NodeStopped(node="box4", epoch=gone[2]))
        await node.garbage("node.box4.stopped")
        assert not await node.membership._bury_missing(set())
        lost = [each.data async for each in node.log.read("suite.event.node.*.lost")]
        assert [(each.node, each.epoch) for each in lost if isinstance(each, NodeLost)] == [
            ("box2", gone[0]),
            ("box3", gone[1]),
        ]


async def test_a_model_is_registered_whatever_stands_in_its_aggregate(tmp_path: Path) -> None:
    async with box(tmp_path) as node:
        catalogue = Catalogue.open((tmp_path,), {}, tmp_path)
        registrar = Registrar(node.log, SUBJECTS, "box1", catalogue)
        for fact in ("registered", "removed", "whatever"):
            await node.garbage(f"model.m.{fact}")
            await registrar._settle(Found(fact=REGISTERED))
            await registrar._settle(Gone(fact=ModelRemoved(model_id="m", node="box1")))
        events = [each.data async for each in node.log.read("suite.event.model.>")]
        assert events == [REGISTERED, ModelRemoved(model_id="m", node="box1")] * 3


async def test_a_name_with_adapters_is_registered_until_a_part_of_it_is_gone_for_good(tmp_path: Path) -> None:
    drives = tmp_path / "models", tmp_path / "adapters"
    for each in drives:
        each.mkdir()
    adapter(drives[1] / "pirate.gguf", tiny_model(drives[0] / "one.gguf"))

    async def removed(log: Log) -> set[str]:
        """The names that the log knows as removed, once a node that starts now has registered all."""
        captain = ModelSettings(base="one", adapters="pirate")
        catalogue = Catalogue.open(drives, {"captain": captain}, tmp_path)
        await catalogue.scan()
        registrar = Registrar(log, SUBJECTS, "box1", catalogue)
        await registrar._note_missing()
        while registrar._due:
            await registrar._register_next()
        events = [each.data async for each in log.read("suite.event.model.>")]
        registered = [each for each in events if isinstance(each, ModelRegistered)]
        assert sorted((each.model_id, each.base) for each in registered) == [
            ("captain", "one"),
            ("one", ""),
            ("pirate", "one"),
        ]
        return {each.model_id for each in events if isinstance(each, ModelRemoved)}

    async with box(tmp_path) as node:
        assert not await removed(node.log)
        drives[1].rename(tmp_path / "away")
        assert not await removed(node.log), "the drive may come back"
        (tmp_path / "away").rename(drives[1])
        (drives[1] / "pirate.gguf").rename(drives[1] / "pirate.txt")
        assert await removed(node.log) == {"captain", "pirate"}


class Changing(Catalogue):
    """A catalogue whose model changes as soon as it was read."""

    on_read: Callable[[], Awaitable[None]] | None = None

    async def digest(self, model_id: str) -> str:
        found = await super().digest(model_id)
        if self.on_read is not None:
            on_read, self.on_read = self.on_read, None
            await on_read()
        return found


async def test_a_model_that_changes_while_it_is_registered_is_registered_again(tmp_path: Path) -> None:
    path, now = anyio.Path(tmp_path / "m.gguf"), gguf_bytes()[:-1] + b"x"
    await path.write_bytes(gguf_bytes())
    async with box(tmp_path) as node:
        catalogue = Changing.open((tmp_path,), {}, tmp_path)
        await catalogue.scan()
        registrar = Registrar(node.log, SUBJECTS, "box1", catalogue)

        async def change() -> None:
            await path.write_bytes(now)
            await catalogue.scan()
            registrar.note("m")

        assert isinstance(catalogue, Changing)
        catalogue.on_read = change
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(registrar.run)
            with anyio.fail_after(20):
                while not await is_registered(node.log, sha256(now).hexdigest()):
                    await anyio.sleep(0.01)
            tasks.cancel_scope.cancel()


async def is_registered(log: Log, digest: str) -> bool:
    events = [each.data async for each in log.read("suite.event.model.>")]
    return any(isinstance(event, ModelRegistered) and event.sha256 == digest for event in events)


async def test_a_log_that_was_deleted_is_said_to_be_gone_and_not_taken_over(tmp_path: Path) -> None:
    async with box(tmp_path) as node:
        await node.log.append(started(1, node="box2"))
        await node.enter()
        await node.api("STREAM.DELETE.SUITE")
        with pytest.raises(LogGone, match="was deleted"):
            await node.journal.decide(load_started(), undone=UNDONE)
        async with open_log(node.access) as (_, log):  # it is made again
            assert "was deleted and made again" in await node.refused(LogGone)
            assert await log.last_seq(SUBJECTS.events) == 0
        await (await node.enter()).decide(load_started(), undone=UNDONE)


async def test_what_others_keep_writing_to_is_given_up_with_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attempts, "LONGEST_PAUSE_SECONDS", 0.01)
    async with box(tmp_path) as node:
        append = node.log.append

        async def overtaken(*events: object, **options: object) -> int:
            await node.garbage("node.box1.whatever")
            return await append(*events, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(node.log, "append", overtaken)
        with pytest.raises(Conflict, match="the start of node box1 is not in the log after 12 attempts"):
            await node.enter()
