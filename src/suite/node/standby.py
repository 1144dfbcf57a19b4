"""Keeps a standby process for the next load, which has already imported what every load needs.

    standby = Standby()
    tasks.start_soon(standby.keep, may_start)
    async with ActorProcess.start(spec, await standby.take()) as process: ...

A load then does not have to wait for the imports. It never waits for the standby process either: if there is
none, it starts its own. Like every model's process it ends with its node, when its stdin is closed.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress

import anyio
import anyio.abc

from suite.node.process import end_process, open_process

logger = logging.getLogger("suite.actor")

PAUSE_SECONDS = 0.5
"""The pause after the node's start, and after a standby process was taken, before another one is started: its
imports must not slow down the load that is running."""
IMPORT_SECONDS = 5.0
"""How long models leave a core to the imports of a standby process, at most."""
LONGEST_PAUSE_SECONDS = 60.0
"""The limit of the pause, which doubles each time a standby process dies unused."""
_LAST_WORDS = 4096


class Standby:
    """Holds one standby process, or none."""

    def __init__(
        self,
        inherited: Sequence[int] = (),
        leave_core: Callable[[], AbstractContextManager[object]] = nullcontext,
        *,
        exports_spans: bool = False,
    ) -> None:
        """`inherited` and `exports_spans`: see `open_process`.

        `leave_core` is entered while it imports: models then compute with a thread less.
        """
        self._inherited = inherited
        self._exports_spans = exports_spans
        self._leave_core = leave_core
        self._process: anyio.abc.Process | None = None
        self._watch = anyio.CancelScope()
        self._unwatched = anyio.Event()

    @property
    def pid(self) -> int | None:
        """The id of the process that stands ready; None if there is none."""
        return None if self._process is None else self._process.pid

    async def take(self) -> anyio.abc.Process | None:
        """Take the process if there is one. The caller must end it. It may have died already."""
        process, self._process = self._process, None
        if process is not None:
            self._watch.cancel()
            with anyio.CancelScope(shield=True):  # until then its output is read by the watch
                await self._unwatched.wait()
        return process

    async def end(self) -> None:
        """End the process if there is one. Cancellation does not interrupt this."""
        with anyio.CancelScope(shield=True):  # whoever takes the process must end it
            if (process := await self.take()) is not None:
                await end_process(process)

    async def keep(self, may_start: Callable[[], bool]) -> None:
        """Keep a process ready until cancelled, then end it. Starts none while ``may_start`` is False."""
        pause = PAUSE_SECONDS
        while True:
            await anyio.sleep(pause)
            if may_start():
                pause = PAUSE_SECONDS if await self._stand() else min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _stand(self) -> bool:
        """Start a process and keep it until it is taken. Returns False if it cannot be started or dies."""
        try:
            with anyio.CancelScope(shield=True):  # so that a started process is never lost
                self._process = process = await open_process(
                    self._inherited, exports_spans=self._exports_spans
                )
        except OSError as error:
            logger.warning("no process can stand ready: %s", error)
            return False
        self._unwatched = anyio.Event()
        try:
            with anyio.CancelScope() as self._watch:
                with self._leave_core(), anyio.move_on_after(IMPORT_SECONDS):
                    await _imported(process)
                await process.wait()
            if self._process is None:
                return True
            # A Ctrl-C reaches it until it has its own session, just before it becomes Python: the node stops.
            if process.returncode != -signal.SIGINT:
                words = await _last_words(process)
                logger.warning(
                    "the process that stood ready ended with exit code %s: %s", process.returncode, words
                )
            return False
        finally:
            self._unwatched.set()
            if self._process is not None:
                self._process = None
                await end_process(process)


async def _imported(process: anyio.abc.Process) -> None:
    """Wait for the only thing that a process says before it has its spec, or for its end."""
    assert process.stdout is not None
    with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
        await process.stdout.receive()


async def _last_words(process: anyio.abc.Process) -> str:
    assert process.stderr is not None
    try:
        text = (await process.stderr.receive(_LAST_WORDS)).decode(errors="replace")
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return "it said nothing"
    return text.strip().rpartition("\n")[2]
