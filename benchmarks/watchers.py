"""Open pages of the dashboard and terminals with `suite top`, as far as a service has to do with them.

They are in a process of their own, which reads what it is told and draws nothing::

    python benchmarks/watchers.py PORT PAGES TOPS    # the environment says where NATS is

It writes a line when each has been told something, and a line with how often they were when its stdin ends.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import DEVNULL, PIPE

import anyio
from anyio.streams.buffered import BufferedByteReceiveStream

import suite
from suite.cli.top.now import Watch
from suite.messages.actor import NatsAccess

READY_SECONDS = 60.0
LOOK_SECONDS = 1.0
"""As often as `suite top` looks by itself."""
LINE_BYTES = 1000


class Told:
    """How often watchers were told what the nodes do, and whether all have been."""

    def __init__(self, watchers: int) -> None:
        self.times = 0
        self.all_know = anyio.Event()
        self._missing = watchers
        self._note_if_none_is_missing()

    def hear(self, *, is_first: bool) -> None:
        self.times += 1
        self._missing -= is_first
        self._note_if_none_is_missing()

    def _note_if_none_is_missing(self) -> None:
        if not self._missing:
            self.all_know.set()


async def read_page(port: int, told: Told) -> None:
    """Read the stream of an open page."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 26)
    try:
        writer.write(f"GET /ui/live HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        assert b" 200 " in await reader.readline(), "the page is refused"
        is_first = True
        while line := await reader.readline():
            if line == b"event: fleet\n":
                told.hear(is_first=is_first)
                is_first = False
    finally:
        writer.close()


async def look(told: Told) -> None:
    """Look again and again, as `suite top` does."""
    async with suite.connect() as client:
        watch, is_first = Watch(client, clock=time.monotonic), True
        while True:
            await watch.look()
            told.hear(is_first=is_first)
            is_first = False
            await anyio.sleep(LOOK_SECONDS)


async def main(port: int, pages: int, tops: int) -> None:
    told = Told(pages + tops)
    async with anyio.create_task_group() as tasks:
        for _ in range(pages):
            tasks.start_soon(read_page, port, told)
        for _ in range(tops):
            tasks.start_soon(look, told)
        await told.all_know.wait()
        print("ready", flush=True)
        await anyio.to_thread.run_sync(sys.stdin.read)
        print(told.times, flush=True)
        tasks.cancel_scope.cancel()


@asynccontextmanager
async def watching(access: NatsAccess, port: int, *, pages: int, tops: int) -> AsyncIterator[None]:
    """So many pages and terminals, all of which show something, during the block."""
    if not pages + tops:
        yield
        return
    names = {"SUITE_NATS_URL": access.url, "SUITE_NATS_USER": access.user}
    names |= {"SUITE_NATS_PASSWORD": access.password}
    environ = os.environ | {name: value for name, value in names.items() if value is not None}
    command = [sys.executable, __file__, str(port), str(pages), str(tops)]
    async with await anyio.open_process(
        command, stdin=PIPE, stdout=PIPE, stderr=DEVNULL, env=environ
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        try:
            with anyio.fail_after(READY_SECONDS):
                assert await line_of(lines) == b"ready"
            yield
            await process.stdin.aclose()
            assert int(await line_of(lines)) > pages + tops, "they were told nothing more"
        finally:
            if process.returncode is None:
                process.kill()


async def line_of(lines: BufferedByteReceiveStream) -> bytes:
    return await lines.receive_until(b"\n", LINE_BYTES)


if __name__ == "__main__":
    port, pages, tops = map(int, sys.argv[1:])
    anyio.run(main, port, pages, tops)
