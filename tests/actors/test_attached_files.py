"""Files that senders attach to requests: fetched in parts, which are neither endless nor endlessly small."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from hashlib import sha256
from itertools import count
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.actors.attachments import LEAST_BYTES, Attachments
from suite.bus.connection import Connection, Message
from suite.errors import InvalidPicture, RequestTimeout
from suite.messages.attachments import AskForPart
from support.actors import SUBJECTS
from support.nats import running_nats

FILE = bytes(3 * LEAST_BYTES + 1)
DIGEST = sha256(FILE).hexdigest()


@asynccontextmanager
async def sending(directory: Path, length: int, *, pause: float = 0.0) -> AsyncIterator[Connection]:
    """Sends parts of this length at `suite.sender`, each after a pause."""
    async with running_nats(directory) as (_, connection):

        async def send(message: Message) -> None:
            ask = msgspec.json.decode(message.data, type=AskForPart)
            await anyio.sleep(pause)
            part = FILE[ask.offset : ask.offset + min(length, ask.length)]
            await connection.publish(ask.answer, part)

        await connection.listen("suite.sender", send)
        yield connection


def attachments(connection: Connection, *, file_seconds: float = 60.0) -> Attachments:
    ids = count()
    return Attachments(connection, SUBJECTS, lambda: str(next(ids)), file_seconds=file_seconds)


async def test_a_file_comes_in_parts_of_which_the_last_may_be_small(tmp_path: Path) -> None:
    async with sending(tmp_path, LEAST_BYTES) as connection:
        assert await attachments(connection).fetch("suite.sender", DIGEST) == FILE


async def test_small_parts_are_refused(tmp_path: Path) -> None:
    async with sending(tmp_path, 1) as connection:
        with pytest.raises(InvalidPicture, match="in parts of 1 bytes"):
            await attachments(connection).fetch("suite.sender", DIGEST)


async def test_a_file_has_to_come_within_a_time(tmp_path: Path) -> None:
    async with sending(tmp_path, LEAST_BYTES, pause=0.2) as connection:
        with pytest.raises(RequestTimeout, match="did not come"):
            await attachments(connection, file_seconds=0.3).fetch("suite.sender", DIGEST)
