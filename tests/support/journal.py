"""A log on a scratch server, and events to put into it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from suite.bus.connection import Connection
from suite.identity import new_id, utc_now
from suite.log import Log
from suite.messages.actor import NatsAccess
from suite.messages.events import Generated, InstanceLoaded, ModelRemoved, NodeStarted
from suite.messages.subjects import Subjects

SUBJECTS = Subjects()


@asynccontextmanager
async def open_log(
    access: NatsAccess, *, attempt_seconds: float = 5.0, settle_seconds: float = 20.0
) -> AsyncIterator[tuple[Connection, Log]]:
    """A connection of its own and the log on it."""
    async with (
        Connection.open(access, name="test") as connection,
        Log.open(
            connection,
            SUBJECTS,
            source="/node/test",
            new_id=new_id,
            now=utc_now,
            attempt_seconds=attempt_seconds,
            settle_seconds=settle_seconds,
        ) as log,
    ):
        yield connection, log


def generated(name: str, *, model_id: str = "m") -> Generated:
    """An event without an expectation."""
    return Generated(
        model_id=model_id,
        node="test",
        instance_id="i",
        generation_id=name,
        prompt_tokens=1,
        reused_tokens=0,
        completion_tokens=1,
        queue_ms=0.0,
        time_to_first_token_ms=None,
        generation_ms=0.0,
        outcome="stop",
    )


def removed(node: str, *, model_id: str = "m") -> ModelRemoved:
    """A fact of the aggregate ``model.m``."""
    return ModelRemoved(model_id=model_id, node=node)


def started(pid: int, *, node: str = "box1") -> NodeStarted:
    """A new epoch of a node."""
    return NodeStarted(node=node, version="0", host="h", pid=pid, memory_limit_bytes=0)


def loaded(pid: int, *, node: str = "box1", model_id: str = "m") -> InstanceLoaded:
    """A fact that an epoch of a node fences."""
    return InstanceLoaded(
        node=node, model_id=model_id, instance_id="i", pid=pid, resident_bytes=0, load_ms=0.0
    )
