"""Starts, observes and ends the operating-system process of a loaded model."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from subprocess import PIPE
from typing import Final

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from suite.errors import SuiteError
from suite.gpus import DEVICE_ORDER
from suite.messages.actor import ActorSpec, AnyReport, End, Imported
from suite.process_log import Entry
from suite.process_memory import ProcessMemory, process_memory
from suite.tasks import background

logger = logging.getLogger("suite.actor")

STOP_SECONDS = 5.0
"""How long an actor that was told to end may take before it is killed."""
TAKE_SECONDS = 5.0
"""How long a standby process may take to confirm its spec before a new process is started instead."""
_REPORT_LIMIT = 64 * 1024
_ERROR_LINES = 20

# Else an abort waits for a debugger's backtrace, and threads of OpenBLAS, which nothing here needs, run
# before the process is confined.
_ENVIRONMENT: Final = {"GGML_NO_BACKTRACE": "1", "OPENBLAS_NUM_THREADS": "1"}
_OF_EXPORTERS: Final = "OTEL_EXPORTER_"
_is_secret: Final = re.compile(r"TOKEN|PASSW|SECRET|CREDENTIAL|_KEY\b|^SUITE_NATS_", re.IGNORECASE).search

_decoder = msgspec.json.Decoder(AnyReport)


async def open_process(inherited: Sequence[int] = (), *, exports_spans: bool = False) -> anyio.abc.Process:
    """Start ``python -m suite.actors.entry``, which waits for its spec, and ends when its stdin is closed.

    It runs in its own session, so that Ctrl-C reaches only the node. `inherited`: file descriptors that it
    has too. `exports_spans`: it gets the variables for sending spans to a collector. Raises OSError.
    """
    return await anyio.open_process(
        [sys.executable, "-m", "suite.actors.entry"],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
        env={**DEVICE_ORDER, **_without_secrets(os.environ, exports_spans=exports_spans), **_ENVIRONMENT},
        start_new_session=True,
        pass_fds=inherited,
    )


async def _opened_for(spec: ActorSpec) -> anyio.abc.Process:
    inherited = () if spec.cores is None else (spec.cores.descriptor,)
    return await open_process(inherited, exports_spans=spec.tracing.mode == "otlp")


def _without_secrets(environ: Mapping[str, str], *, exports_spans: bool) -> dict[str, str]:
    """What a model's process may know of the node's variables: it gets its own password in its spec.

    What is sent along to a collector, often a token, is for those who send it something.
    """
    return {
        name: value
        for name, value in environ.items()
        if (exports_spans if name.startswith(_OF_EXPORTERS) else not _is_secret(name))
    }


async def end_process(process: anyio.abc.Process) -> None:
    """Kill a process if it still runs, and wait until it has ended. Cancellation does not interrupt this."""
    with anyio.CancelScope(shield=True):
        if process.returncode is None:
            process.kill()
        await process.wait()
        await process.aclose()


class ActorProcess:
    """A running ``python -m suite.actors.entry``. The process is killed when its context is left."""

    def __init__(self, process: anyio.abc.Process, model_id: str) -> None:
        assert process.stdout is not None
        self._process = process
        self._model_id = model_id
        self._lines = BufferedByteReceiveStream(process.stdout)
        self._errors: deque[str] = deque(maxlen=_ERROR_LINES)
        self.is_loading = False
        """Whether it has reported already that its load has begun: it was a standby process."""

    @classmethod
    @asynccontextmanager
    async def start(
        cls, spec: ActorSpec, standby: anyio.abc.Process | None = None
    ) -> AsyncIterator[ActorProcess]:
        """Have a process load a model according to the spec: the standby process, or else a new one.

        This context owns `standby` from the call on, and ends it. If it has died or does not answer, a new
        process is started. Raises OSError when no process can be started.
        """
        if standby is not None:
            async with cls._owning(standby, spec.model_id) as actor:
                if await actor._takes(spec):
                    yield actor
                    return
            logger.warning("process %d stood ready and did not answer: a new one is started", standby.pid)
        async with cls._owning(await _opened_for(spec), spec.model_id) as actor:
            await actor._write(spec)
            yield actor

    @classmethod
    @asynccontextmanager
    async def _owning(cls, process: anyio.abc.Process, model_id: str) -> AsyncIterator[ActorProcess]:
        try:
            actor = cls(process, model_id)
            async with background() as tasks:
                tasks.start_soon(actor._collect_errors)
                yield actor
        finally:
            await end_process(process)

    async def _write(self, message: ActorSpec | End) -> None:
        assert self._process.stdin is not None
        # If the process has died already, its reports end, which the caller notices.
        with suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
            await self._process.stdin.send(msgspec.json.encode(message) + b"\n")

    async def _takes(self, spec: ActorSpec) -> bool:
        """Send the spec. Returns whether the first report, always the start of the load, comes in time."""
        with anyio.move_on_after(TAKE_SECONDS):
            await self._write(spec)
            self.is_loading = await self._next_report() is not None
            return self.is_loading
        return False

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def last_errors(self) -> str:
        """The last lines that the process wrote to stderr."""
        return "; ".join(self._errors)

    def memory(self) -> ProcessMemory:
        """The memory that it has with its helpers; nothing if it has ended. Blocks, for a millisecond."""
        return process_memory(self.pid)

    async def reports(self) -> AsyncIterator[AnyReport]:
        """The reports of the load and of what follows it, until the process ends.

        A process that sends an invalid report is killed.
        """
        while (report := await self._next_report()) is not None:
            yield report

    async def _next_report(self) -> AnyReport | None:
        while True:
            try:
                report: AnyReport = _decoder.decode(await self._lines.receive_until(b"\n", _REPORT_LIMIT))
            except (anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                return None
            except (anyio.DelimiterNotFound, msgspec.MsgspecError) as error:
                logger.error("process %d reports what nobody understands: %s", self.pid, error)
                self.kill()
                return None
            if not isinstance(report, Imported):
                return report

    async def exit_code(self) -> int:
        """Wait until the process has ended. Returns its exit code."""
        return await self._process.wait()

    def kill(self) -> None:
        """Kill the process if it still runs."""
        if self._process.returncode is None:
            self._process.kill()

    async def stop(self, reason: SuiteError | None = None, *, seconds: float = STOP_SECONDS) -> None:
        """End the process in order, and kill it if it has not ended after ``seconds``.

        Its clients get the ``reason``, which only a process that has loaded its model takes.
        """
        with anyio.move_on_after(seconds):
            if reason is not None:
                await self._write(End(code=reason.code, message=reason.message))
            elif self._process.returncode is None:
                self._process.terminate()
            await self._process.wait()
            return
        self.kill()

    async def _collect_errors(self) -> None:
        assert self._process.stderr is not None
        rest = b""
        async for block in self._process.stderr:
            *lines, rest = (rest + block).split(b"\n")
            for line in lines:
                self._hear(line)
            rest = rest[-_REPORT_LIMIT:]

    def _hear(self, line: bytes) -> None:
        """Log a line of its stderr: an event that it has logged, or what a library has written there."""
        entry = Entry.of_line(line)
        text = line.decode(errors="replace") if entry is None else entry.message
        self._errors.append(text[:500])
        if entry is None:
            # For which request it was written is not known: the trace here is that of the load.
            logger.info("%s", text, extra={"model_id": self._model_id, "trace_id": "", "span_id": ""})
        else:
            entry.log_again(self._model_id)
