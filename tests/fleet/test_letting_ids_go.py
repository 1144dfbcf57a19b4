"""The id of a generation that has ended does not stay taken because NATS was away for a moment."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import pytest

from suite.bus.claims import Claims, Taken
from suite.errors import SuiteError, Unavailable
from suite.node.fleet import generation_ids
from suite.node.fleet.generation_ids import LET_GO_SECONDS, GenerationIds


class FailingClaims(Claims):
    """Fails to release with each of these errors, one after the other, and then does."""

    def __init__(self, errors: Iterable[SuiteError]) -> None:
        self._errors = iter(errors)
        self.tries = 0
        self.released: list[Taken] = []

    async def release(self, taken: Taken) -> None:
        self.tries += 1
        if (error := next(self._errors, None)) is not None:
            raise error
        self.released.append(taken)


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generation_ids, "LET_GO_PAUSE_SECONDS", 0.0)


async def test_it_is_let_go_when_nats_is_back() -> None:
    claims = FailingClaims([Unavailable(), Unavailable()])
    await GenerationIds(claims, "box1", 1, {}, clock=lambda: 0.0).let_go(Taken(7))
    assert (claims.released, claims.tries) == ([Taken(7)], 3)


async def test_that_has_an_end() -> None:
    claims, times = FailingClaims(itertools.repeat(Unavailable())), itertools.count(0.0, LET_GO_SECONDS / 3)
    await GenerationIds(claims, "box1", 1, {}, clock=lambda: next(times)).let_go(Taken(7))
    assert (claims.released, claims.tries) == ([], 3)
