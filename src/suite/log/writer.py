"""The queue before the stream: what carries no expectation goes in groups, a decision goes by itself."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Final

import anyio
from anyio.abc import TaskGroup

from suite.errors import Overloaded, Unavailable
from suite.log.delivery import Delivery, Parcel

QUEUE_MESSAGES: Final = 8192
QUEUE_BYTES: Final = 64 * 1024 * 1024
GROUP_MESSAGES: Final = 256
GROUP_BYTES: Final = 4 * 1024 * 1024
GROUPS_AT_ONCE: Final = 2
"""While the server syncs one group to disk, the next one is put together and sent."""
DECISIONS_AT_ONCE: Final = 32


class Writer:
    """Takes parcels and sees that each is delivered, whatever becomes of who waits for it.

    The senders run in `tasks`, not in the appender's task, and only while something waits: a cancelled
    appender neither takes others' events with it nor leaves its own half-way.
    """

    def __init__(self, delivery: Delivery, tasks: TaskGroup) -> None:
        self._delivery = delivery
        self._plain = _Lane(tasks, GROUPS_AT_ONCE, self._send_group)
        self._decisions = _Lane(tasks, DECISIONS_AT_ONCE, self._send_decision)
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

    async def _send_group(self, waiting: deque[Parcel]) -> None:
        group: list[Parcel] = []
        messages = size = 0
        while waiting:
            messages += len(waiting[0].messages)
            size += waiting[0].size
            if group and (messages > GROUP_MESSAGES or size > GROUP_BYTES):
                break
            group.append(waiting.popleft())
        await self._send(group)

    async def _send_decision(self, waiting: deque[Parcel]) -> None:
        await self._send([waiting.popleft()])

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
    """Parcels in a row, and up to `width` senders that take from it while something waits."""

    def __init__(
        self, tasks: TaskGroup, width: int, send: Callable[[deque[Parcel]], Awaitable[None]]
    ) -> None:
        self.waiting: deque[Parcel] = deque()
        self._tasks = tasks
        self._width = width
        self._send = send
        self._senders = 0

    def put(self, parcel: Parcel) -> None:
        self.waiting.append(parcel)
        if self._senders < self._width:
            self._senders += 1
            self._tasks.start_soon(self._run)

    async def _run(self) -> None:
        try:
            while self.waiting:
                await self._send(self.waiting)
        finally:
            self._senders -= 1
