"""A whole stream as a sequence of bytes: taken out of a server, and put into another one.

    async with snapshot(jetstream) as (info, chunks):
        async for chunk in chunks: file.write(chunk)

    await restore(jetstream, config, read=file_in_chunks)

The server itself packs and unpacks the stream (its backups of streams), so that sequences, times and gaps are
those of before. A snapshot of a mirror can become the stream that it mirrors: the name counts, and the
configuration is given anew.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final, TypeAlias

import anyio
import msgspec

from suite.bus.connection import Message
from suite.bus.jetstream import STREAM_NOT_FOUND, JetStream, NoAnswer, NotSent, Refused, StreamInfo
from suite.errors import NoService, RequestTimeout, Unavailable

logger = logging.getLogger("suite.bus")

Read: TypeAlias = Callable[[], AsyncGenerator[bytes, None]]
"""Reads the chunks of a snapshot, from the first on."""

CHUNK_BYTES: Final = 128 * 1024
_WINDOW_CHUNKS: Final = 8
"""How many chunks the server sends before it waits for one to be acknowledged."""
SILENCE_SECONDS: Final = 30.0
"""How long nothing may come. A server reads and packs a block of the stream for each few chunks."""
CHUNK_SECONDS: Final = 60.0
"""How long the server may take to store a chunk."""
UNPACK_SECONDS: Final = 600.0
"""How long the server may take, once it has all chunks, to read the whole stream."""
ATTEMPTS: Final = 3
RETRY_SECONDS: Final = 1.0
REACH_SECONDS: Final = 30.0
"""How long a connection that was lost amid a restore may take to be back."""
RESTORE_FAILED: Final = 10062
"""The server's code when it gave up, and removed what it had unpacked."""


@asynccontextmanager
async def snapshot(jetstream: JetStream) -> AsyncIterator[tuple[StreamInfo, AsyncGenerator[bytes, None]]]:
    """The stream as it is now: what it has, and its chunks.

    What is stored meanwhile may be in it or not, but nothing is left out before something that is in it.
    Iterating raises Unavailable when it breaks off. Raises Refused, NotSent, NoAnswer, AccessDenied.
    """
    connection = jetstream.connection
    inbox = connection.new_inbox()
    send, receive = anyio.create_memory_object_stream[Message](2 * _WINDOW_CHUNKS)
    subscription = await connection.subscribe(inbox, send.send)
    try:
        info = await jetstream.begin_snapshot(
            inbox=inbox, chunk_bytes=CHUNK_BYTES, window_bytes=_WINDOW_CHUNKS * CHUNK_BYTES
        )
        async with receive, aclosing(_chunks(jetstream, receive)) as chunks:
            yield info, chunks
    finally:
        send.close()
        with anyio.CancelScope(shield=True):
            await subscription.unsubscribe()


async def _chunks(jetstream: JetStream, arriving: AsyncIterable[Message]) -> AsyncGenerator[bytes, None]:
    """The chunks in order. All but the last are acknowledged, by which the server goes on."""
    connection, number = jetstream.connection, 0
    life = connection.connections
    messages = aiter(arriving)
    while True:
        try:
            with anyio.fail_after(SILENCE_SECONDS):
                message = await anext(messages)
        except TimeoutError:
            raise Unavailable(f"NATS has sent no more of the stream for {SILENCE_SECONDS:g} s") from None
        if connection.connections != life:
            raise Unavailable("the connection to NATS was lost while the stream was copied: try again")
        if not message.data:
            _require_whole(message)
            return
        number += 1
        if message.reply:
            if message.reply.rpartition(".")[2] != str(number):
                raise Unavailable(f"chunk {number} of the stream did not arrive: try again")
            await connection.publish(message.reply)
        yield message.data


def _require_whole(end: Message) -> None:
    """Raises Unavailable if the server has ended before it had sent everything."""
    status = end.headers.get("Status", "")
    if status not in ("", "204"):
        why = end.headers.get("Description", "")
        raise Unavailable(f"NATS has broken off copying the stream ({status} {why}): try again")


async def restore(jetstream: JetStream, config: Mapping[str, Any], read: Read) -> StreamInfo:
    """Make the stream, with this configuration, from the chunks of a snapshot. Returns it as it is then.

    It is there as a whole or not at all. ``config`` has metadata that no other stream has, by which `made`
    knows it. ``read`` begins anew at each attempt: the server gives up when its disk takes more than five
    seconds for a chunk (2.15.1). Raises Refused if it cannot be made, also because there is one of this name,
    NotSent, NoAnswer, AccessDenied, Unavailable.
    """
    for attempt in range(1, ATTEMPTS + 1):
        try:
            return await _restore_once(jetstream, config, read)
        except (Refused, NotSent, NoAnswer) as error:
            # Only the answer may be lost; then another attempt would find the name taken.
            if (info := await _made_meanwhile(jetstream, config)) is not None:
                return info
            gave_up = not isinstance(error, Refused) or error.code == RESTORE_FAILED
            if not gave_up or attempt == ATTEMPTS:
                raise
            logger.info("restoring the stream %s again: %s", jetstream.stream, error)
            await anyio.sleep(RETRY_SECONDS)
    raise AssertionError("the last attempt returns or raises")


async def made(jetstream: JetStream, config: Mapping[str, Any]) -> StreamInfo | None:
    """The stream, if it was made with this configuration's metadata. Raises Refused, NotSent, NoAnswer."""
    try:
        info = await jetstream.info()
    except Refused as refused:
        if refused.code == STREAM_NOT_FOUND:
            return None
        raise
    metadata: Mapping[str, str] = info.config.get("metadata") or {}
    return info if config["metadata"].items() <= metadata.items() else None


async def _made_meanwhile(jetstream: JetStream, config: Mapping[str, Any]) -> StreamInfo | None:
    """The same once the connection is back; None also if that cannot be known."""
    try:
        await jetstream.connection.wait_connected(REACH_SECONDS)
        return await made(jetstream, config)
    except (Refused, NotSent, NoAnswer, Unavailable):
        return None


async def _restore_once(jetstream: JetStream, config: Mapping[str, Any], read: Read) -> StreamInfo:
    subject = await jetstream.begin_restore(config)
    async with aclosing(read()) as chunks:
        async for chunk in chunks:
            await _hand_over(jetstream, subject, chunk, CHUNK_SECONDS)
    return msgspec.json.decode(await _hand_over(jetstream, subject, b"", UNPACK_SECONDS), type=StreamInfo)


async def _hand_over(jetstream: JetStream, subject: str, chunk: bytes, seconds: float) -> bytes:
    """Send a chunk; an empty one is the end. Returns the answer, which is empty but for the last one."""
    try:
        answer = await jetstream.connection.request(subject, chunk, timeout=seconds)
    except (NoService, RequestTimeout, Unavailable) as error:
        raise NoAnswer(f"restoring broke off: {error.message}") from error
    if answer.data and (reply := msgspec.json.decode(answer.data, type=StreamInfo)).error is not None:
        raise Refused(reply.error.err_code, reply.error.description)
    return answer.data
