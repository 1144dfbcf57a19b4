"""Matches answers to waiting requests, by the last token of the inbox subject."""

from __future__ import annotations

import asyncio
from typing import TypeAlias

from nats.aio.msg import Msg

from suite.errors import AccessDenied, RequestTimeout, SuiteError

Answer: TypeAlias = "asyncio.Future[Msg | SuiteError]"


class Replies:
    """The waiting requests of one connection.

    All answers arrive on one wildcard subject, so that a request needs no subscription of its own.
    """

    def __init__(self, inbox: str) -> None:
        self._prefix = f"{inbox}."
        self._count = 0
        self._waiting: dict[str, tuple[Answer, str]] = {}

    @property
    def subject(self) -> str:
        """The wildcard subject that the connection must subscribe to."""
        return f"{self._prefix}*"

    def new_inbox(self) -> str:
        """The reply subject for the next request."""
        self._count += 1
        return f"{self._prefix}{self._count}"

    async def wait(self, inbox: str, subject: str, timeout: float) -> Msg:
        """Wait up to ``timeout`` seconds for the answer to a request on ``subject``.

        Raises RequestTimeout, AccessDenied after `deny`, and the error that is passed to `fail`.
        """
        loop = asyncio.get_running_loop()
        answer: Answer = loop.create_future()
        self._waiting[inbox] = (answer, subject)
        timer = loop.call_later(timeout, _expire, answer, subject, timeout)
        try:
            msg = await answer
        finally:
            timer.cancel()
            del self._waiting[inbox]
        if isinstance(msg, SuiteError):
            raise msg
        return msg

    async def deliver(self, msg: Msg) -> None:
        """Pass an answer to the request that waits for it. An answer that comes too late is dropped."""
        if (waiter := self._waiting.get(msg.subject)) is not None:
            _settle(waiter[0], msg)

    def fail(self, error: SuiteError) -> None:
        """End all waiting requests with an error: no more answers will come."""
        for answer, _ in self._waiting.values():
            _settle(answer, error)

    def deny(self, subject: str) -> bool:
        """Fail the requests to a subject that the server did not let this user publish to.

        The server reports the subject in lower case. Returns whether there were any.
        """
        denied = [(answer, asked) for answer, asked in self._waiting.values() if asked.lower() == subject]
        for answer, asked in denied:
            _settle(answer, AccessDenied(f"this user may not send to {asked}: use one that may"))
        return bool(denied)


def _settle(answer: Answer, outcome: Msg | SuiteError) -> None:
    if not answer.done():
        answer.set_result(outcome)


def _expire(answer: Answer, subject: str, timeout: float) -> None:
    _settle(answer, RequestTimeout(f"no answer on {subject} within {timeout:g} s: allow more time"))
