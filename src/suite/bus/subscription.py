"""A subscription that survives reconnects."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeAlias

import nats.errors
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription as NatsSubscription

from suite.bus.nats_client import NatsClient
from suite.bus.wire import Message, message_of

log = logging.getLogger("suite.bus")

BUFFER_LIMIT = 65_536
"""How many messages may wait for one callback."""

Receive: TypeAlias = Callable[[Message], Awaitable[None]]
Forget: TypeAlias = "Callable[[Subscription], None]"


class Subscription:
    """A subscription to one subject. It lasts, across reconnects, until it is unsubscribed or drained."""

    def __init__(self, subject: str, queue: str, receive: Receive, forget: Forget) -> None:
        self.subject = subject
        self.queue = queue
        self._forget = forget
        self._receive = receive
        self._bound: tuple[NatsClient, NatsSubscription] | None = None
        self._waiting: asyncio.Queue[Message | None] | None = None

    async def unsubscribe(self) -> None:
        """End it now and drop the waiting messages."""
        self._forget(self)
        if self._waiting is not None:
            while not self._waiting.empty():
                self._waiting.get_nowait()
                self._waiting.task_done()
            self._waiting.put_nowait(None)
        await self._release(drain=False)

    async def drain(self) -> None:
        """Handle the messages that have arrived, then end it. Do not call this from its own callback."""
        self._forget(self)
        await self._release(drain=True)
        if self._waiting is not None:
            await self._waiting.join()
            self._waiting.put_nowait(None)

    async def _release(self, *, drain: bool) -> None:
        bound, self._bound = self._bound, None
        if bound is None:
            return
        try:
            if drain:
                await bound[1].drain()  # type: ignore[no-untyped-call]
            else:
                await bound[1].unsubscribe()
        except nats.errors.Error as error:
            log.debug("no need to unsubscribe from %s: %s", self.subject, error)

    async def bind(self, client: NatsClient) -> None:
        """Subscribe on this client, which replaces a lost one. Raises nats-py's errors."""
        if self._bound is not None and self._bound[0] is client:
            return
        receive = self._receive

        async def deliver(msg: Msg) -> None:
            await receive(message_of(msg))

        self._bound = (client, await client.subscribe(self.subject, queue=self.queue, cb=deliver))

    async def rebind(self, client: NatsClient) -> None:
        """Subscribe once more on this client, whose server has ended the subscription. As `bind`."""
        await self._release(drain=False)
        await self.bind(client)

    def buffer(self) -> Callable[[], Coroutine[Any, Any, None]]:
        """Put a bounded queue before the callback, so that a lost connection does not cancel it half-way.

        Returns the coroutine function that calls the callback; the caller has to run it.
        """
        callback, waiting = self._receive, asyncio.Queue[Message | None]()
        self._waiting = waiting

        async def receive(message: Message) -> None:
            if waiting.qsize() >= BUFFER_LIMIT:
                log.error("a message on %s is dropped: %d wait already", message.subject, BUFFER_LIMIT)
                return
            waiting.put_nowait(message)

        async def work() -> None:
            while (message := await waiting.get()) is not None:
                try:
                    await callback(message)
                except asyncio.CancelledError:
                    task = asyncio.current_task()
                    if task is not None and task.cancelling():
                        raise
                    log.warning("the callback for %s gave up", message.subject)
                except Exception:
                    log.exception("the callback for %s failed", message.subject)
                finally:
                    waiting.task_done()

        self._receive = receive
        return work
