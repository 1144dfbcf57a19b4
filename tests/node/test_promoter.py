"""The promoter looks after each promotion by itself: what becomes of one keeps none of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import pytest

from suite.actions.versions import take_back_alias
from suite.domain.aliases import Promotion
from suite.errors import AliasNotFound, ReadModelUnavailable
from suite.messages.actions.versions import TakeBackAliasRequest
from suite.messages.events import AliasSet, Event, PromotionStarted, PromotionStopped
from suite.messages.promotion import Gates
from suite.node import promoter
from suite.node.promoter import Promoter
from suite.node.versions import Names, VersionBook
from support.nats import eventually
from support.versions import book_of, names_of, recorded, registered

MODELS = (registered("a" * 64, model_id="old"), registered("b" * 64, model_id="new"))


def promotion(alias: str, id: str) -> tuple[Event, Event]:
    """An alias, and a promotion to it that waits for evaluations."""
    begun = PromotionStarted(
        alias=alias,
        promotion_id=id,
        model_id="new",
        version=1,
        old_model_id="old",
        old_version=1,
        gates=Gates(evaluations=2),
    )
    return AliasSet(alias=alias, model_id="old", version=1), begun


class Aliases:
    """What is known of promotions: `find` does what the look at the evaluations of one does."""

    def __init__(self, find: Callable[[str], Awaitable[None]]) -> None:
        self.waits: dict[str, str] = {}
        self.looked_at: list[str] = []
        self._find = find

    async def findings(self, *given: object, **_: object) -> tuple[()]:
        (found,) = [each for each in given if isinstance(each, Promotion)]
        self.looked_at.append(found.id)
        await anyio.lowlevel.checkpoint()
        await self._find(found.id)
        return ()

    def forget_all_but(self, promotion_ids: Collection[str]) -> None:
        for id in self.waits.keys() - set(promotion_ids):
            del self.waits[id]


class Lease:
    is_held = True


@asynccontextmanager
async def promoting(book: VersionBook, names: Names, known: Aliases, lease: Lease) -> AsyncIterator[None]:
    """A promoter at work that sees these aliases."""
    fleet = SimpleNamespace(views=lambda: SimpleNamespace(hosting=lambda _: ()))
    node = SimpleNamespace(versions=book, names=names, aliases=known, fleet=fleet)
    async with anyio.create_task_group() as tasks:
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(promoter, "LOOK_SECONDS", 0.01)
            tasks.start_soon(Promoter(cast(Any, node), cast(Any, lease)).run)
            yield
            tasks.cancel_scope.cancel()


async def test_one_promotion_that_fails_ends_neither_the_others_nor_the_node(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def find(id: str) -> None:
        await anyio.lowlevel.checkpoint()
        if id == "p":
            raise ZeroDivisionError("float division by zero")
        raise ReadModelUnavailable("the read model is away")

    book, known, lease = book_of(*MODELS, *promotion("a", "p"), *promotion("b", "q")), Aliases(find), Lease()
    async with promoting(book, names_of(book, tmp_path), known, lease):
        await eventually(lambda: min(known.looked_at.count("p"), known.looked_at.count("q")) > 2)
        assert "its node failed on it" in known.waits["p"]
        assert "the read model is away" in known.waits["q"]
        told = [each for each in caplog.records if each.name == "suite.promotions"]
        assert sorted((each.levelname, each.exc_info is not None) for each in told) == [
            ("ERROR", True),
            ("WARNING", False),
        ], "each is told once, though it is tried again and again"
        lease.is_held = False
        await eventually(lambda: not known.waits)


async def test_what_is_done_for_a_promotion_that_was_ended_does_not_keep_the_next_one(tmp_path: Path) -> None:
    async def find(_: str) -> None:
        await anyio.sleep_forever()

    book, known = book_of(*MODELS, *promotion("a", "p")), Aliases(find)
    async with promoting(book, names_of(book, tmp_path), known, Lease()):
        await eventually(lambda: known.looked_at)
        ended = PromotionStopped(alias="a", promotion_id="p", model_id="new", version=1, reason="requested")
        for seq, event in enumerate((ended, promotion("a", "q")[1]), start=100):
            book.apply(recorded(seq, event))
        await eventually(lambda: "q" in known.looked_at)


async def test_an_alias_that_is_removed_while_it_is_taken_back_is_not_found() -> None:
    fact = PromotionStopped(alias="chat", promotion_id="p", model_id="new", version=1, reason="requested")

    async def take_back(*_: object) -> tuple[Event, int]:
        await anyio.lowlevel.checkpoint()
        return fact, 9

    async def reach(seq: int) -> None:
        await anyio.lowlevel.checkpoint()
        assert seq == 9

    node = SimpleNamespace(
        aliases=SimpleNamespace(take_back=take_back), versions=SimpleNamespace(reach=reach, aliases={})
    )
    with pytest.raises(AliasNotFound, match="removed by somebody in the same moment"):
        await take_back_alias(cast(Any, node), TakeBackAliasRequest(alias="chat"), cast(Any, None))
