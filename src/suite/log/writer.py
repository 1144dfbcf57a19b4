"""The queue of appends. Those without an expectation may be sent in groups; a decision is sent by itself."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from suite.errors import Overloaded, Unavailable
from suite.log.group_commit import GroupCommit
from suite.log.publisher import PendingAppend, Publisher

QUEUE_MESSAGES: Final = 8192
QUEUE_BYTES: Final = 64 * 1024 * 1024
GROUP_MESSAGES: Final = 512
GROUP_BYTES: Final = 4 * 1024 * 1024
SENT_AT_ONCE: Final = 32
"""How many single publishes may be in flight: enough to keep the server busy."""
PIPELINED: Final = 4
"""With at least this many in flight, the time between two answers is the cost of one publish."""


class Writer:
    """Queues appends and sends them. One that was sent is delivered even if its appender is cancelled.

    The senders run in `tasks`, not in the appender's task. So a cancelled appender neither cancels the
    events of others nor interrupts the delivery of its own.
    """

    def __init__(self, publisher: Publisher, tasks: TaskGroup) -> None:
        self._publisher = publisher
        self._plain = _Lane(tasks, self._send, GroupCommit())
        self._decisions = _Lane(tasks, self._send, None)
        self._messages = 0
        self._bytes = 0
        self._open = True
        self._idle = anyio.Event()

    def submit(self, append: PendingAppend) -> None:
        """Queue an append. Raises Overloaded when the queue is full, Unavailable when the log is closed."""
        if not self._open:
            raise Unavailable("the log is closed: nothing was stored")
        count, size = self._messages + len(append.messages), self._bytes + append.size
        if self._messages and (count > QUEUE_MESSAGES or size > QUEUE_BYTES):
            raise Overloaded(f"{self._messages} events wait to be stored: try again later")
        self._messages, self._bytes = count, size
        (self._plain if append.expect is None else self._decisions).put(append)

    def hurry(self, seconds: float) -> None:
        """From now on, try each append for at most ``seconds``."""
        self._publisher.hurry(seconds)

    async def close(self, seconds: float) -> None:
        """Accept no new appends, and wait up to `seconds` for the queued ones."""
        self._open = False
        if self._messages:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds, shield=True):
                await self._idle.wait()
        for append in (*self._plain.waiting, *self._decisions.waiting):
            append.fail(Unavailable("the log was closed before the event went out: nothing was stored"))

    async def _send(self, appends: list[PendingAppend]) -> None:
        try:
            # An append that was cancelled before it was sent is dropped: so it is certainly not stored.
            wanted = [append for append in appends if not append.result.done()]
            if wanted:
                await self._publisher.publish(wanted)
        finally:
            for append in appends:
                self._messages -= len(append.messages)
                self._bytes -= append.size
            if not self._messages:
                self._idle.set()


class _Lane:
    """A queue of appends and its senders, which send each append by itself or many in a group.

    Without a ``group_commit`` there are no groups. While one group is being sent, the next one collects.
    """

    def __init__(
        self,
        tasks: TaskGroup,
        send: Callable[[list[PendingAppend]], Awaitable[None]],
        group_commit: GroupCommit | None,
    ) -> None:
        self.waiting: deque[PendingAppend] = deque()
        self._tasks = tasks
        self._send = send
        self._group_commit = group_commit
        self._senders = 0
        self._resting: list[asyncio.Future[None]] = []
        self._in_flight = 0
        self._answered = 0.0
        self._several = 0
        self._messages = 0
        self._grouping = False

    def put(self, append: PendingAppend) -> None:
        self.waiting.append(append)
        self._messages += len(append.messages)
        self._several += len(append.messages) > 1
        self._wake()

    def _wake(self) -> None:
        """Wake or start one more sender, unless a group is being sent: its end wakes the senders."""
        if self._grouping:
            return
        while self._resting:
            rest = self._resting.pop()
            if not rest.done():
                rest.set_result(None)
                return
        if self._senders < SENT_AT_ONCE:
            self._senders += 1
            self._tasks.start_soon(self._run)

    async def _run(self) -> None:
        while True:
            if not self.waiting or self._grouping:
                rest: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self._resting.append(rest)
                await rest
            elif self._group_commit is not None and self._group_commit.prefers_batch(
                singles=len(self.waiting) - self._several, several=self._several, messages=self._messages
            ):
                await self._send_group(self._group_commit)
            else:
                await self._send_one()

    async def _send_one(self) -> None:
        append = self._take()
        self._in_flight += 1
        pipelined = self._in_flight >= PIPELINED
        try:
            await self._send([append])
        finally:
            self._in_flight -= 1
        before, self._answered = self._answered, time.monotonic()
        if self._group_commit is not None and pipelined and len(append.messages) == 1:
            self._group_commit.note_single(self._answered - before)

    async def _send_group(self, group_commit: GroupCommit) -> None:
        group = [self._take()]
        messages, size = len(group[0].messages), group[0].size
        while self.waiting:
            size += self.waiting[0].size
            if messages + len(self.waiting[0].messages) > GROUP_MESSAGES or size > GROUP_BYTES:
                break
            messages += len(self.waiting[0].messages)
            group.append(self._take())
        alone, since = not self._in_flight, time.monotonic()
        self._grouping = True
        try:
            await self._send(group)
            if alone:
                group_commit.note_batch(time.monotonic() - since, messages=messages)
            # Appenders that got their answer now append again. Two turns of the event loop let those appends
            # join the next group.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self._grouping = False
            for _ in range(len(self.waiting) - 1):
                self._wake()

    def _take(self) -> PendingAppend:
        append = self.waiting.popleft()
        self._messages -= len(append.messages)
        self._several -= len(append.messages) > 1
        return append
