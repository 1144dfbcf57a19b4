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
from suite.log.delivery import Delivery, Parcel
from suite.log.pace import Pace

QUEUE_MESSAGES: Final = 8192
QUEUE_BYTES: Final = 64 * 1024 * 1024
GROUP_MESSAGES: Final = 512
GROUP_BYTES: Final = 4 * 1024 * 1024
SENT_AT_ONCE: Final = 32
"""Single publishes on their way at a time: enough to keep the server busy."""
PIPELINED: Final = 4
"""From this many on their way, the time between two answers is what one costs."""


class Writer:
    """Takes parcels and sees that each is delivered, whatever becomes of who waits for it.

    The senders run in `tasks`, not in the appender's task, and only while something waits: a cancelled
    appender neither takes others' events with it nor leaves its own half-way.
    """

    def __init__(self, delivery: Delivery, tasks: TaskGroup) -> None:
        self._delivery = delivery
        self._plain = _Lane(tasks, self._send, Pace())
        self._decisions = _Lane(tasks, self._send, None)
        self._messages = 0
        self._bytes = 0
        self._open = True
        self._idle = anyio.Event()

    def submit(self, parcel: Parcel) -> None:
        """Queue a parcel. Raises Overloaded when the queue is full, Unavailable when the log is closed."""
        if not self._open:
            raise Unavailable("the log is closed: nothing was stored")
        count, size = self._messages + len(parcel.messages), self._bytes + parcel.size
        if self._messages and (count > QUEUE_MESSAGES or size > QUEUE_BYTES):
            raise Overloaded(f"{self._messages} events wait to be stored: try again later")
        self._messages, self._bytes = count, size
        (self._plain if parcel.expect is None else self._decisions).put(parcel)

    async def close(self, seconds: float) -> None:
        """Take nothing new and wait for what is queued, up to `seconds`."""
        self._open = False
        if self._messages:
            self._idle = anyio.Event()
            with anyio.move_on_after(seconds, shield=True):
                await self._idle.wait()
        for parcel in (*self._plain.waiting, *self._decisions.waiting):
            parcel.fail(Unavailable("the log was closed before the event went out: nothing was stored"))

    async def _send(self, parcels: list[Parcel]) -> None:
        try:
            # What was given up before it went out is taken back: then it is certain that it is not stored.
            wanted = [parcel for parcel in parcels if not parcel.result.done()]
            if wanted:
                await self._delivery.deliver(wanted)
        finally:
            for parcel in parcels:
                self._messages -= len(parcel.messages)
                self._bytes -= parcel.size
            if not self._messages:
                self._idle.set()


class _Lane:
    """Parcels in a row and the senders that take from it: each by itself, or many at once.

    Without a pace there are no groups. While a group is under way the next one gathers.
    """

    def __init__(
        self, tasks: TaskGroup, send: Callable[[list[Parcel]], Awaitable[None]], pace: Pace | None
    ) -> None:
        self.waiting: deque[Parcel] = deque()
        self._tasks = tasks
        self._send = send
        self._pace = pace
        self._senders = 0
        self._resting: list[asyncio.Future[None]] = []
        self._in_flight = 0
        self._answered = 0.0
        self._several = 0
        self._messages = 0
        self._grouping = False

    def put(self, parcel: Parcel) -> None:
        self.waiting.append(parcel)
        self._messages += len(parcel.messages)
        self._several += len(parcel.messages) > 1
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
            elif self._pace is not None and self._pace.prefers_batch(
                singles=len(self.waiting) - self._several, several=self._several, messages=self._messages
            ):
                await self._send_group(self._pace)
            else:
                await self._send_one()

    async def _send_one(self) -> None:
        parcel = self._take()
        self._in_flight += 1
        pipelined = self._in_flight >= PIPELINED
        try:
            await self._send([parcel])
        finally:
            self._in_flight -= 1
        before, self._answered = self._answered, time.monotonic()
        if self._pace is not None and pipelined and len(parcel.messages) == 1:
            self._pace.note_single(self._answered - before)

    async def _send_group(self, pace: Pace) -> None:
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
                pace.note_batch(time.monotonic() - since, messages=messages)
            # Who was answered now appends again: a turn of the loop, and that goes along in the next group.
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        finally:
            self._grouping = False
            for _ in range(len(self.waiting) - 1):
                self._wake()

    def _take(self) -> Parcel:
        parcel = self.waiting.popleft()
        self._messages -= len(parcel.messages)
        self._several -= len(parcel.messages) > 1
        return parcel
