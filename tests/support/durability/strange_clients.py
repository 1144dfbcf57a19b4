"""Clients that do what no client should: ask and never read, vanish in the middle of an answer."""

from __future__ import annotations

import asyncio
import json
import random
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Final

import anyio

import suite
from suite.config import ConnectionFile
from suite.errors import SuiteError
from suite.messages.actor import NatsAccess
from support.durability.system import System
from support.faults import LossyWire

CLIENTS: Final = 6
TOKENS: Final = 200
ASKED_FOR_LISTS: Final = 500
SILENT_SECONDS: Final = 2.0
STREAM_SECONDS: Final = 20.0
"""A stream whose connection was cut has ended by then, one way or another."""


async def read_nothing(system: System, model_id: str) -> None:
    """Ask over NATS and HTTP, read nothing for a while, and vanish."""
    sockets = [_deaf_socket(system.port) for _ in range(CLIENTS)]
    access = ConnectionFile.read(system.data_dir).access
    nats_port = int(access.url.rpartition(":")[2])
    sockets += [_deaf_socket(nats_port) for _ in range(CLIENTS)]
    try:
        for number, each in enumerate(sockets):
            asked = _http_request(model_id) if number < CLIENTS else _nats_requests(access, model_id, number)
            with suppress(OSError):  # a buffer that is full: it has sent enough
                each.sendall(asked)
        await anyio.sleep(SILENT_SECONDS)
    finally:
        for each in sockets:
            each.close()


def _deaf_socket(port: int) -> socket.socket:
    """A connection that can hold as good as nothing that nobody has read."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1024)
    made.settimeout(1.0)
    made.connect(("127.0.0.1", port))
    return made


def _http_request(model_id: str) -> bytes:
    body = json.dumps({"model": model_id, "prompt": "Once", "max_tokens": TOKENS, "stream": True})
    return (
        "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n{body}"
    ).encode()


def _nats_requests(access: NatsAccess, model_id: str, number: int) -> bytes:
    """One stream, and many lists whose answers nobody takes."""
    inbox = f"{access.inbox_prefix}.deaf{number}"
    login = {"user": access.user, "pass": access.password, "verbose": False, "headers": True}
    stream = {"model_id": model_id, "prompt": "Once", "max_tokens": TOKENS, "stream": True}
    return b"".join(
        (
            b"CONNECT " + json.dumps(login).encode() + b"\r\n",
            f"SUB {inbox}.> 1\r\n".encode(),
            _published("suite.action.generate_text", f"{inbox}.stream", stream),
            _published("suite.action.list_models", f"{inbox}.list", {}) * ASKED_FOR_LISTS,
        )
    )


def _published(subject: str, reply: str, body: Mapping[str, object]) -> bytes:
    data = json.dumps(body).encode()
    return f"PUB {subject} {reply} {len(data)}\r\n".encode() + data + b"\r\n"


async def cut_streams(system: System, model_id: str, chance: random.Random) -> None:
    """Cut connections to NATS and to the gateway while answers come. Each client hears an end."""
    access = ConnectionFile.read(system.data_dir).access
    async with (
        LossyWire.open(int(access.url.rpartition(":")[2])) as nats,
        LossyWire.open(system.port) as http,
        suite.connect(
            nats.access.url,
            user=access.user,
            password=access.password,
            request_seconds=STREAM_SECONDS / 4,
            silence_seconds=STREAM_SECONDS / 4,
        ) as client,
    ):
        with anyio.fail_after(STREAM_SECONDS):
            async with anyio.create_task_group() as clients:
                for _ in range(CLIENTS):
                    clients.start_soon(_read_stream, client, model_id)
                    clients.start_soon(_read_http_stream, http.port, model_id)
                await anyio.sleep(chance.uniform(0.05, 0.3))
                nats.deaf = http.deaf = chance.random() < 0.5
                await anyio.sleep(chance.uniform(0.0, 0.3))
                nats.cut()
                http.cut()


async def _read_stream(client: suite.Client, model_id: str) -> None:
    with suppress(SuiteError):
        async for _ in client.generate(model_id, "Once", max_tokens=TOKENS):
            pass


async def _read_http_stream(port: int, model_id: str) -> None:
    with suppress(OSError):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(_http_request(model_id))
        while await reader.read(4096):
            pass
        writer.transport.abort()
