"""The operating-system process of one loaded model, as its node sees it."""

from __future__ import annotations

import logging
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from subprocess import PIPE

import anyio
import anyio.abc
import msgspec
import psutil
from anyio.streams.buffered import BufferedByteReceiveStream

from suite.messages.actor import ActorSpec, AnyReport
from suite.tasks import background

logger = logging.getLogger("suite.actor")

STOP_SECONDS = 5.0
"""How long an actor that was told to end may take before it is killed."""
_REPORT_LIMIT = 64 * 1024
_ERROR_LINES = 20

_decoder = msgspec.json.Decoder(AnyReport)


class ActorProcess:
    """A running ``python -m suite.actors.model``; leaving its context leaves no process behind."""

    def __init__(self, process: anyio.abc.Process) -> None:
        self._process = process
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)

    @classmethod
    @asynccontextmanager
    async def start(cls, spec: ActorSpec) -> AsyncIterator[ActorProcess]:
        """Start the process in a session of its own, so that Ctrl-C reaches the node alone."""
        process = await anyio.open_process(
            [sys.executable, "-m", "suite.actors.model"],
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            env={**os.environ, "GGML_NO_BACKTRACE": "1"},  # else an abort waits for a debugger to print one
            start_new_session=True,
        )
        actor = cls(process)
        try:
            async with background() as tasks:
                tasks.start_soon(actor._collect_errors)
                try:
                    assert process.stdin is not None
                    await process.stdin.send(msgspec.json.encode(spec) + b"\n")
                except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                    pass  # it died at once; the end of its reports says so
                yield actor
        finally:
            with anyio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
                await process.aclose()

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def last_errors(self) -> str:
        """The last lines that it wrote to its standard error."""
        return "; ".join(self._errors)

    def resident_bytes(self) -> int:
        """Its resident set at this moment, mapped weights included; 0 when it is gone."""
        try:
            return int(psutil.Process(self.pid).memory_info().rss)
        except psutil.Error:
            return 0

    async def reports(self) -> AsyncIterator[AnyReport]:
        """What it reports, until it ends; one that reports nonsense is ended."""
        assert self._process.stdout is not None
        lines = BufferedByteReceiveStream(self._process.stdout)
        while True:
            try:
                report = _decoder.decode(await lines.receive_until(b"\n", _REPORT_LIMIT))
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return
            except (anyio.DelimiterNotFound, msgspec.MsgspecError) as error:
                logger.error("process %d reports what nobody understands: %s", self.pid, error)
                self.kill()
                return
            yield report

    async def exit_code(self) -> int:
        """Wait for its end."""
        return await self._process.wait()

    def kill(self) -> None:
        """End it at once."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self) -> None:
        """Ask it to end, and kill it when it does not."""
        if self._process.returncode is None:
            self._process.terminate()
        with anyio.move_on_after(STOP_SECONDS):
            await self._process.wait()
            return
        self.kill()

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        async for block in self._process.stderr:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                text = line.decode(errors="replace")
                self._errors.append(text[:500])
                logger.info("%s", text)
            rest = rest[-_REPORT_LIMIT:]
