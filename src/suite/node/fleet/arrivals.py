"""The requests of other nodes that this one has: who sent them asks now and then which these are (ADR 59)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import anyio

from suite.messages.presence import Forwarded


class _Held:
    """One request, from its arrival to its last message."""

    __slots__ = ("handed_over", "is_withdrawn", "scope")

    def __init__(self) -> None:
        self.handed_over: Forwarded | None = None
        """Whose process may answer it; None while none does."""
        self.scope: anyio.CancelScope | None = None
        """What is cancelled to give it up; None while it waits for its turn, and when it is answered."""
        self.is_withdrawn = False
        """Whether it was given up, because others answer it."""


class Arrivals:
    """The requests that other nodes have handed over, by their tokens."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}
        self._tokens: dict[str, str] = {}
        """Those that a model's process answers, by the generation's id."""

    def take(self, token: str) -> None:
        """Note a request that has come. One without a token is nobody else's."""
        if token:
            self._held[token] = _Held()

    def known(self, tokens: Iterable[str]) -> dict[str, Forwarded | None]:
        """Those of these requests that are here, each with whose process may answer it."""
        return {token: self._held[token].handed_over for token in tokens if token in self._held}

    @contextmanager
    def withdrawable(self, token: str) -> Iterator[anyio.CancelScope]:
        """A block that works on a request, and is cancelled if that is withdrawn before it is answered."""
        held = self._held.setdefault(token, _Held())
        with anyio.CancelScope() as scope:
            held.scope = scope
            try:
                yield scope
            finally:
                held.scope = None

    def withdraw(self) -> None:
        """Give up what nobody answers yet."""
        for held in self._held.values():
            if held.scope is not None:
                held.scope.cancel()
            elif held.handed_over is None:
                held.is_withdrawn = True  # it waits for its turn

    def close(self, token: str) -> anyio.CancelScope | None:
        """Have a request not withdrawn any more. Returns what would have been cancelled, the first time."""
        held = self._held.get(token)
        if held is None:
            return None
        scope, held.scope = held.scope, None
        return scope

    def note_withdrawn(self, token: str) -> None:
        """Note that others answer a request that was given up."""
        if (held := self._held.get(token)) is not None:
            held.is_withdrawn = True

    def is_withdrawn(self, token: str) -> bool:
        """Whether others answer a request."""
        held = self._held.get(token)
        return held is not None and held.is_withdrawn

    def hand_over(self, token: str, told: Forwarded) -> None:
        """Note that a model's process is about to answer a request."""
        if (held := self._held.get(token)) is not None:
            self._forget_generation(held)
            held.handed_over = told
            self._tokens[told.generation_id] = token

    def is_handed_over(self, token: str) -> bool:
        """Whether a model's process may answer a request."""
        held = self._held.get(token)
        return held is not None and held.handed_over is not None

    def end(self, token: str) -> None:
        """Forget a request: it is answered, refused or given back."""
        if (held := self._held.pop(token, None)) is not None:
            self._forget_generation(held)

    def end_generation(self, generation_id: str) -> str | None:
        """Forget the request of a generation that has ended. Returns its token; None if it had none."""
        token = self._tokens.get(generation_id)
        if token is not None:
            self.end(token)
        return token

    def _forget_generation(self, held: _Held) -> None:
        if held.handed_over is not None:
            self._tokens.pop(held.handed_over.generation_id, None)
