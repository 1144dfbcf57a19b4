"""Somebody else who publishes under the suite's subjects: bytes as they are, past every client library."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio

MEGABYTE = 2**20


class Strange(NamedTuple):
    """A message that no suite has written. Headers are bytes, from `NATS/1.0` on."""

    headers: bytes
    body: bytes


def headers(*lines: bytes) -> bytes:
    return b"".join(b"%b\r\n" % line for line in (b"NATS/1.0", *lines)) + b"\r\n"


def cloud_event(kind: bytes, *, time: bytes = b"2026-03-01T12:00:00Z", id: bytes = b"x") -> bytes:
    return headers(b"ce-id: " + id, b"ce-source: s", b"ce-type: " + kind, b"ce-time: " + time)


USED = b"suite.usage.recorded.v1"
SAMPLE = b'{"metric_id":"m","agent_name":"a","metric_name":"m","value":1,"timestamp":"%b"}'
STRANGE = [
    Strange(b"", b""),
    Strange(b"", random.Random(9).randbytes(300)),
    Strange(b"", b"\0" * MEGABYTE),
    Strange(headers(b"\xff\xfe: \x00", b"no colon", b": no name", b"ce-type"), b"{}"),
    Strange(b"NATS/1.0 503 Nobody\r\n\r\n", b""),
    Strange(b"NATS/1.0 100 Idle Heartbeat\r\nStatus: 409\r\n\r\n", b"x"),
    Strange(b"NATS/1.0", b"x"),
    Strange(b"NATS/1.0 \xff\xfe\xfd \xff\r\n\r\n", b"x"),
    Strange(b"\xff" * 40, b"x"),
    Strange(headers(b"KV-Operation: DEL", b"Nats-Marker-Reason: MaxAge"), b""),
    Strange(cloud_event(USED), b"{}"),
    Strange(cloud_event(USED), b"[" * 100_000),
    Strange(cloud_event(USED), b'{"model_id":"m","usage_type":"t","more":' + b"[" * 100_000),
    Strange(cloud_event(USED), b'{"model_id":"elsewhere","usage_type":"t"}'),
    Strange(cloud_event(USED), b'{"model_id":"","usage_type":"t"}'),
    Strange(cloud_event(USED), b'{"model_id":"m","usage_type":"\\ud800"}'),
    Strange(cloud_event(USED, time=b"2026-03-01T12:00:00"), b'{"model_id":"m","usage_type":"t"}'),
    Strange(cloud_event(USED, time=b"0001-01-01T00:00:00+14:00"), b'{"model_id":"m","usage_type":"t"}'),
    Strange(cloud_event(b"suite.metric.logged.v1"), SAMPLE % b"2026-03-01T12:00:00"),
    Strange(cloud_event(b"suite.metric.logged.v1"), SAMPLE % b"9999-12-31T23:59:59-14:00"),
    Strange(
        cloud_event(b"suite.instance.loaded.v1"),
        b'{"node":"box1","model_id":"m","instance_id":"i","pid":99999999999999999999,'
        b'"resident_bytes":1,"load_ms":1}',
    ),
    Strange(cloud_event(b"com.example.paid.v1"), b"{}"),
    Strange(cloud_event(b"suite.car.parked.v1"), b"{}"),
    Strange(cloud_event(b"suite.node.started.v1"), b'{"node":"another"}'),
]


class Stranger:
    """A connection that may publish anywhere."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    @asynccontextmanager
    async def connected(cls, port: int) -> AsyncIterator[Stranger]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b'CONNECT {"verbose":false,"pedantic":false,"headers":true}\r\n')
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def publish(self, subject: str, message: Strange, *, reply: str = "") -> None:
        """Send it; the server has it when this returns. Surrogates stand for bytes that are no UTF-8."""
        sizes = b"%d" % (len(message.headers) + len(message.body))
        if message.headers:
            sizes = b"%d %b" % (len(message.headers), sizes)
        verb = b"HPUB" if message.headers else b"PUB"
        self._writer.write(
            b"%b %b %b\r\n" % (verb, f"{subject} {reply}".encode("utf-8", "surrogateescape"), sizes)
        )
        self._writer.write(message.headers + message.body + b"\r\nPING\r\n")
        await self._writer.drain()
        with anyio.fail_after(20):
            while not (line := await self._reader.readline()).startswith(b"PONG"):
                assert line and not line.startswith(b"-ERR"), line
