"""Makes the log of a backup where there is none."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, Final

import anyio

from suite.backup.archive import STREAM, Archive
from suite.bus import stream_snapshot
from suite.bus.connection import Connection
from suite.bus.jetstream import (
    LOG_RESTORED,
    STREAM_NOT_FOUND,
    JetStream,
    NoAnswer,
    NotSent,
    Refused,
    StreamInfo,
)
from suite.errors import BackupUnusable, LogExists, Unavailable
from suite.identity import NewId
from suite.log.stream import wanted_config

logger = logging.getLogger("suite.backup")

_REMOVE_SECONDS: Final = 30.0
_NAME_TAKEN: Final = 10130
"""The server's code for a restore where there is a stream of the name."""


async def restore(connection: Connection, archive: Archive, *, new_id: NewId) -> StreamInfo:
    """Make the log as the backup has it, with the sequences and times that its events have.

    It has one replica; nodes raise that. Raises LogExists, Unavailable, and BackupUnusable if the server
    cannot read it or it ends before its last event; then there is no log, as before.
    """
    async with restored(connection, archive, new_id=new_id) as info:
        return info


@asynccontextmanager
async def restored(connection: Connection, archive: Archive, *, new_id: NewId) -> AsyncIterator[StreamInfo]:
    """Make the log, as `restore` does, for a block that examines it. If that raises, the log is removed."""
    subjects = archive.subjects
    jetstream = JetStream(connection, subjects.stream, new_id=new_id)
    await require_none(jetstream)
    config = wanted_config(subjects.stream, subjects.events) | {"metadata": {LOG_RESTORED: new_id()}}
    try:
        yield await _made(jetstream, archive, config)
    except BaseException:
        with anyio.CancelScope(shield=True):
            await _remove(jetstream, config)
        raise


async def _made(jetstream: JetStream, archive: Archive, config: Mapping[str, Any]) -> StreamInfo:
    try:
        info = await stream_snapshot.restore(jetstream, config, partial(archive.read, STREAM))
    except Refused as refused:
        if refused.code == _NAME_TAKEN:
            raise _exists(jetstream) from refused
        raise BackupUnusable(f"nats-server cannot restore {archive.path}: {refused}") from refused
    except (NotSent, NoAnswer) as error:
        raise Unavailable(f"the log was not restored: {error}; try again") from error
    if info.state.last_seq < archive.manifest.last_seq:
        raise BackupUnusable(
            f"{archive.path} ends at event {info.state.last_seq}, not at {archive.manifest.last_seq}: "
            "take another backup"
        )
    return info


async def _remove(jetstream: JetStream, config: Mapping[str, Any]) -> None:
    """Remove the stream that was made with this configuration, and no other one."""
    try:
        if await stream_snapshot.made(jetstream, config) is not None:
            await jetstream.delete(timeout=_REMOVE_SECONDS)
    except (Refused, NotSent, NoAnswer) as error:
        logger.warning(
            "the stream %s may be there all the same (%s): remove it before you try again",
            jetstream.stream,
            error,
        )


async def require_none(jetstream: JetStream) -> None:
    """Raises LogExists if there is a log already, and Unavailable if that cannot be known."""
    try:
        await jetstream.info()
    except Refused as refused:
        if refused.code == STREAM_NOT_FOUND:
            return
        raise Unavailable(f"NATS does not say whether there is a log: {refused}") from refused
    except (NotSent, NoAnswer) as error:
        raise Unavailable(f"JetStream does not answer: {error}") from error
    raise _exists(jetstream)


def _exists(jetstream: JetStream) -> LogExists:
    return LogExists(
        f"{jetstream.connection.url} has a stream {jetstream.stream} already, and nothing was changed: "
        "restore into an empty data directory, or a NATS that has none"
    )
