"""A process that stands ready for the next load, with all imported that every load needs.

    standby = Standby()
    tasks.start_soon(standby.keep, has_room)
    async with ActorProcess.start(spec, standby.take()) as process: ...

What a load then costs is the load. Nothing waits for the process: where there is none, a load starts its own.
It ends with its node, as every model's process does, when its standard input ends.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import anyio
import anyio.abc

from suite.node.process import end_process, open_process

logger = logging.getLogger("suite.actor")

PAUSE_SECONDS = 1.0
"""From the node's start, and from one use to the next process: its imports are not to slow down that load."""
LONGEST_PAUSE_SECONDS = 60.0
"""While processes die that nobody has used, the pause is doubled each time up to this."""
_LAST_WORDS = 4096


class Standby:
    """One process in reserve, or none."""

    def __init__(self) -> None:
        self._process: anyio.abc.Process | None = None
        self._watch = anyio.CancelScope()

    def take(self) -> anyio.abc.Process | None:
        """The process, which is the caller's to end from now on. It may have died without anyone's notice."""
        process, self._process = self._process, None
        if process is not None:
            self._watch.cancel()
        return process

    async def keep(self, has_room: Callable[[], bool]) -> None:
        """Have a process ready again and again, until this is cancelled; none is left then."""
        pause = PAUSE_SECONDS
        while True:
            await anyio.sleep(pause)
            if has_room():
                pause = PAUSE_SECONDS if await self._stand() else min(2 * pause, LONGEST_PAUSE_SECONDS)

    async def _stand(self) -> bool:
        """Start a process and keep it until it is taken; False when it is not to be had or has died."""
        try:
            with anyio.CancelScope(shield=True):  # so that none is started and then forgotten
                self._process = process = await open_process()
        except OSError as error:
            logger.warning("no process can stand ready: %s", error)
            return False
        try:
            with anyio.CancelScope() as self._watch:
                await process.wait()
            if self._process is None:
                return True
            logger.warning(
                "the process that stood ready ended with exit code %s: %s",
                process.returncode,
                await _last_words(process),
            )
            return False
        finally:
            if self._process is not None:
                self._process = None
                await end_process(process)


async def _last_words(process: anyio.abc.Process) -> str:
    assert process.stderr is not None
    try:
        text = (await process.stderr.receive(_LAST_WORDS)).decode(errors="replace")
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return "it said nothing"
    return text.strip().rpartition("\n")[2]
