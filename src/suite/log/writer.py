"""The queue before the stream: what carries no expectation may go in groups, a decision goes by itself."""

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
"""Single publishes on their way at a time: enough to keep the server busy."""
PIPELINED: Final = 4
"""From this many on their way, the time between two answers is what one costs."""


class Writer:
    """Takes appends and sees that each is delivered, whatever becomes of who waits for it.

    The senders run in `tasks`, not in the appender's task, and only while something waits: a cancelled
    appender neither takes others' events with it nor leaves its own half-way.
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
        """From now on try an append for so many seconds at most."""
        self._publisher.hurry(seconds)

    async def close(self, seconds: float) -> None:
        """Take nothing new and wait for what is queued, up to `seconds`."""
        self._open = False
        if self._messages:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds, shield=True):
                await self._idle.wait()
        for append in (*self._plain.waiting, *self._decisions.waiting):
            append.fail(Unavailable("the log was closed before the event went out: nothing was stored"))

    async def _send(self, appends: list[PendingAppend]) -> None:
        try:
            # What was given up before it went out is taken back: then it is certain that it is not stored.
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
    """Parcels in a row and the senders that take from it: each by itself, or many at once.

    Without a pace there are no groups. While a group is under way the next one gathers.
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
        """Have one more sender look, unless a group is under way, after which the senders look anyway."""
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
            # Who was answered now appends again: a turn of the loop, and that goes along in the next group.
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
