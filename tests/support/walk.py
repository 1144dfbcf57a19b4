"""Tries all that a role could try: every subject, with every reply subject, and says what came of it.

A user has a raw nats-py client, as an attacker would, and none of the suite's own care. What it does is
watched from the other side: the log, the actions that ran, what reached actors, and what arrived in the
inboxes of others. What may arrive there all the same is in docs/security.md, under "What remains".
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import msgspec
import nats
from nats.aio.client import Client as RawClient
from nats.aio.msg import Msg

from suite.bus.accounts import FOR_OPERATORS, roles
from suite.bus.connection import Connection, Message
from suite.bus.jetstream import JetStream
from suite.bus.service import Action, Call, Service, action
from suite.identity import new_id, utc_now
from suite.log.mirror import keep_mirror
from suite.messages.actions.base import Reply, Request
from suite.messages.actor import NatsAccess
from suite.tasks import background
from support.journal import SUBJECTS, open_log, started
from support.nats import PATIENCE_SECONDS, eventually

SETTLE_SECONDS = 0.3
"""For what the server does by itself after it was asked: deliveries and their heartbeats."""
STARTED = SUBJECTS.event("node", ("box1",), "started")
OTHERS = ("suite", "operator", "client", "mirror")
"""Whose inboxes are not for anybody else."""

REPLIES = (
    "",
    STARTED,
    "suite.event.usage.m.generated",
    "suite.action.clear_kv_cache",
    "suite.action.rebuild_projection",
    "suite.actor.box1.i.clear",
    "suite.mirror.x",
    "suite.origin.CONSUMER.CREATE.SUITE",
    "$JS.API.STREAM.DELETE.SUITE",
    "$JS.API.STREAM.PURGE.SUITE",
    "$JS.API.CONSUMER.CREATE.SUITE",
    "$JS.ACK.SUITE.x.1.1.1.1.1",
    "$JS.FC.SUITE.x.1",
    "$KV.SUITE_NODES.box1",
    "$SRV.PING.suite",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.ACCOUNT.SUITE.CONNZ",
    *(f"{roles(SUBJECTS)[name].inbox_prefix}.another" for name in OTHERS),
)
"""Where an answer would do harm."""


def _json(**fields: object) -> bytes:
    return json.dumps(fields).encode()


def _consumer(name: str | None = None, **config: object) -> bytes:
    named = {"name": name, "durable_name": name} if name else {}
    return _json(stream_name="SUITE", config={"ack_policy": "none", **named, **config}, action="create")


def _pushes() -> dict[str, bytes]:
    """A push consumer for each place where its deliveries, or its heartbeats, would do harm."""
    return {
        f"CONSUMER.CREATE.SUITE.push{number}": _consumer(
            f"push{number}", deliver_subject=place, idle_heartbeat=100_000_000
        )
        for number, place in enumerate(filter(None, REPLIES))
    }


JETSTREAM: Mapping[str, bytes] = {
    "INFO": b"",
    "STREAM.NAMES": b"",
    "STREAM.LIST": b"",
    "STREAM.INFO.SUITE": b"",
    "STREAM.INFO.KV_SUITE_NODES": b"",
    "CONSUMER.CREATE.SUITE.x": _consumer("x"),
    "CONSUMER.CREATE.SUITE.x.suite.event.node.>": _consumer("x", filter_subject="suite.event.node.>"),
    "CONSUMER.CREATE.SUITE": _consumer(deliver_subject="suite.action.clear_kv_cache"),
    "CONSUMER.DURABLE.CREATE.SUITE.d": _consumer("d"),
    **_pushes(),
    "CONSUMER.INFO.SUITE.x": b"",
    "CONSUMER.NAMES.SUITE": b"",
    "CONSUMER.LIST.SUITE": b"",
    "CONSUMER.MSG.NEXT.SUITE.x": _json(batch=2, no_wait=True),
    "CONSUMER.MSG.NEXT.SUITE.d": _json(batch=1, expires=150_000_000, idle_heartbeat=50_000_000),
    "CONSUMER.PAUSE.SUITE.x": _json(pause_until="2100-01-01T00:00:00Z"),
    "CONSUMER.UNPIN.SUITE.x": _json(group="g"),
    "CONSUMER.RESET.SUITE.x": _json(seq=1),
    "CONSUMER.LEADER.STEPDOWN.SUITE.x": b"",
    "STREAM.MSG.GET.SUITE": _json(seq=1),
    "DIRECT.GET.SUITE": _json(seq=1),
    f"DIRECT.GET.SUITE.{STARTED}": b"",
    "STREAM.CREATE.SUITE": _json(name="SUITE", subjects=["suite.event.>"]),
    "STREAM.CREATE.OTHER": _json(name="OTHER", subjects=["suite.action.>", "suite.actor.>"]),
    "STREAM.CREATE.COPY": _json(
        name="COPY",
        sources=[{"name": "SUITE"}],
        republish={"src": ">", "dest": "suite.action.>"},
    ),
    "STREAM.UPDATE.SUITE": _json(name="SUITE", subjects=["suite.event.>"], max_msgs=1),
    "STREAM.SNAPSHOT.SUITE": _json(deliver_subject="suite.event.x.snapshot"),
    "STREAM.RESTORE.OTHER": _json(config={"name": "OTHER", "subjects": ["x"]}, state={}),
    "STREAM.PEER.REMOVE.SUITE": _json(peer="x"),
    "STREAM.LEADER.STEPDOWN.SUITE": b"",
    "STREAM.MSG.DELETE.SUITE": _json(seq=1),
    "STREAM.PURGE.SUITE": b"",
    "STREAM.DELETE.KV_SUITE_NODES": b"",
    "CONSUMER.DELETE.SUITE.x": b"",
    "META.LEADER.STEPDOWN": b"",
    "SERVER.REMOVE": _json(peer="x"),
    "ACCOUNT.PURGE.SUITE": b"",
    "ACCOUNT.STREAM.MOVE.SUITE.SUITE": b"",
    "STREAM.DELETE.SUITE": b"",
}
"""Every verb of JetStream's API, with what it takes; what destroys comes last."""

SENT: Mapping[str, bytes] = {
    **{f"$JS.API.{verb}": body for verb, body in JETSTREAM.items()},
    STARTED: b"{}",
    "suite.event.x": b"\x00\xff",
    "suite.action.clear_kv_cache": b"{}",
    **{f"suite.action.{slash}{name}": b"{}" for name in FOR_OPERATORS for slash in ("", "/")},
    "suite.action.unknown": b"{}",
    "suite.actor.box1.i.clear": b"{}",
    "suite.actor.box1.ping": b"{}",
    "suite.mirror.x": b"{}",
    "suite.origin.CONSUMER.CREATE.SUITE": _consumer(deliver_subject="suite.action.clear_kv_cache"),
    "suite.other": b"{}",
    "$JS.ACK.SUITE.x.1.1.1.1.1": b"+NXT",
    "$JS.ACK.a.b.SUITE.x.1.1.1.1.1": b"+NXT",
    "$JS.FC.SUITE.x.1": b"",
    "$JS.FC.a.b.SUITE.x.1": b"",
    "$JS.EVENT.ADVISORY.x": b"{}",
    "$KV.SUITE_NODES.box1": b"forged",
    "$SRV.PING": b"",
    "$SRV.INFO.suite": b"",
    "$SRV.STATS.suite": b"",
    "$SYS.REQ.SERVER.PING": b"",
    "$SYS.REQ.ACCOUNT.PING.CONNZ": b"",
    "$SYS.REQ.USER.INFO": b"",
    **{f"{roles(SUBJECTS)[name].inbox_prefix}.another": b"forged" for name in OTHERS},
}

OVERHEARD = (
    ">",
    "*.>",
    "suite.>",
    "suite.event.>",
    "suite.action.>",
    "suite.actor.>",
    "suite.mirror.>",
    "$JS.>",
    "$JS.API.>",
    "$KV.>",
    "$SRV.>",
    "$SYS.>",
    *(f"{roles(SUBJECTS)[name].inbox_prefix}.>" for name in OTHERS),
)


class DoneRequest(Request, frozen=True, kw_only=True):
    """Of an action that is watched."""


class DoneReply(Reply, frozen=True, kw_only=True):
    """It ran."""


def _noted(name: str) -> Action[list[str]]:
    """An action that notes that it ran."""

    @action(name)
    async def note(ran: list[str], _: DoneRequest, __: Call) -> DoneReply:
        """Note that it ran."""
        ran.append(name)
        return DoneReply()

    return note


class Watched:
    """A service with its log and mirror, and what there is to see of it."""

    def __init__(self, log: JetStream, copy: JetStream) -> None:
        self.log = log
        self.copy = copy
        self.ran: list[str] = []
        self.actors: list[str] = []
        self.inboxes: list[tuple[str, bytes]] = []

    @classmethod
    @asynccontextmanager
    async def on(cls, access: Mapping[str, NatsAccess]) -> AsyncIterator[Watched]:
        """Watch on a server with every role's access."""
        async with (
            open_log(access["suite"]) as (suite, log),
            Connection.open(access["mirror"], name="mirror") as copy,
            Connection.open(access["operator"], name="operator") as operator,
            Connection.open(access["client"], name="client") as client,
            background() as tasks,
        ):
            await log.append(started(1))
            watched = cls(JetStream(suite, "SUITE", new_id=new_id), JetStream(copy, "SUITE", new_id=new_id))
            await tasks.start(partial(keep_mirror, suite, access["mirror"], SUBJECTS, new_id=new_id))
            await suite.subscribe("suite.actor.>", watched._at_actor)
            for name, connection in (("suite", suite), ("operator", operator), ("client", client)):
                inbox = f"{roles(SUBJECTS)[name].inbox_prefix}.another"
                await connection.subscribe(inbox, watched._at_inbox)
            async with Service.serve(
                suite,
                [_noted(name) for name in ("clear_kv_cache", *FOR_OPERATORS)],
                watched.ran,
                subjects=SUBJECTS,
                version="0",
                metadata={},
                new_id=new_id,
                now=utc_now,
            ):
                await watched.mirror_is_back()
                yield watched

    async def mirror_is_back(self) -> None:
        """Wait until readers have the whole log."""
        with anyio.fail_after(20):
            while True:
                try:
                    found = await self.copy.info()
                    if found.state == (await self.log.info()).state and found.config.get("mirror"):
                        return
                except Exception as error:
                    assert "not found" in str(error), error
                await anyio.sleep(0.01)

    async def state(self) -> object:
        """All that no role but the suite may change."""
        info = await self.log.info()
        asked = self.log.connection.request
        names = [
            json.loads((await asked(f"$JS.API.{what}", timeout=5)).data)
            for what in ("STREAM.NAMES", "CONSUMER.NAMES.SUITE")
        ]
        return info.config, info.created, info.state, names[0].get("streams"), names[1].get("consumers")

    async def _at_actor(self, message: Message) -> None:
        self.actors.append(message.subject)

    async def _at_inbox(self, message: Message) -> None:
        self.inboxes.append((message.subject, message.data))


async def harm(
    watched: Watched,
    access: NatsAccess,
    *,
    may_ask: frozenset[str] = frozenset(),
    sent: Mapping[str, bytes] = SENT,
    expected: str = "",
) -> set[str]:
    """What a user with this access can do to others; ``may_ask`` are the actions that it may send.

    The answers to its own requests of actions may go to the inbox of somebody else. What is ``expected`` is
    waited for.
    """
    before = await watched.state()
    watched.ran.clear()
    watched.inboxes.clear()
    heard: list[str] = []
    user = await nats.connect(
        access.url,
        user=access.user,
        password=access.password,
        inbox_prefix=access.inbox_prefix,
        error_cb=_ignore,
        pending_size=64 * 1024 * 1024,
    )

    async def found() -> set[str]:
        return {
            *(
                f"listens to {subject}"
                for subject in heard
                if not subject.startswith(f"{access.inbox_prefix}.")
            ),
            *(["changes the log"] if await watched.state() != before else []),
            *(f"runs {name}" for name in watched.ran if name not in may_ask),
            *(f"reaches {subject}" for subject in watched.actors),
            *(f"writes to {at}" for at, data in watched.inboxes if not (may_ask and _is_answer(data))),
        }

    try:
        await _listen(watched, user, heard)
        await _send(user, sent)
        await anyio.sleep(0 if expected else SETTLE_SECONDS)
        with anyio.move_on_after(PATIENCE_SECONDS):
            while expected and not any(each.startswith(expected) for each in await found()):
                await anyio.sleep(0.02)
        result = await found()
    finally:
        await user.close()
    await watched.mirror_is_back()
    return result


async def _send(user: RawClient, sent: Mapping[str, bytes]) -> None:
    for subject, body in sent.items():
        for reply in REPLIES:
            await user.publish(subject, body, reply=reply)
    await user.flush(timeout=20)
    # With its own inbox too, as an honest client would: what was made is then there for the tricks above.
    for subject, body in sent.items():
        await user.publish(subject, body, reply=f"{user._inbox_prefix.decode()}.own.x")
    await user.flush(timeout=20)


async def _listen(watched: Watched, user: RawClient, heard: list[str]) -> None:
    """Have the user listen to all that is for others, and the others send."""

    async def hear(message: Msg) -> None:
        heard.append(message.subject)

    for subject in OVERHEARD:
        await user.subscribe(subject, cb=hear)
    await user.flush()
    inboxes = [f"{roles(SUBJECTS)[name].inbox_prefix}.probe" for name in ("suite", "operator", "client")]
    for subject in (*inboxes, "suite.actor.box1.i.probe", "suite.probe"):
        await watched.log.connection.publish(subject, b"probe")
    await watched.log.connection.flush()
    await watched.copy.connection.request("$JS.API.STREAM.INFO.SUITE", timeout=5)
    await eventually(lambda: "suite.actor.box1.i.probe" in watched.actors)
    watched.actors.clear()


def _is_answer(data: bytes) -> bool:
    try:
        said = msgspec.json.decode(data, type=dict[str, Any])
    except msgspec.MsgspecError:
        return False
    return said.get("status") in ("success", "error") or str(said.get("type", "")).startswith("io.nats.micro")


async def _ignore(error: Exception) -> None:
    """Violations are what is expected."""
