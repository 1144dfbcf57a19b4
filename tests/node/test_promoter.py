"""The promoter looks after each promotion by itself: what becomes of one keeps none of the others."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import anyio
import anyio.lowlevel
import msgspec
import pytest

from suite.actions.versions import take_back_alias
from suite.domain.aliases import Promotion
from suite.domain.footprint import Footprint
from suite.domain.nodes import Hosted, Nodes, NodeView, Offered
from suite.errors import AliasNotFound, NotEnoughMemory, ReadModelUnavailable
from suite.explanation.promotions import told
from suite.identity import Clock, boot_clock
from suite.messages.actions.versions import TakeBackAliasRequest
from suite.messages.events import (
    AliasSet,
    CanaryStarted,
    Event,
    PromotionStarted,
    PromotionStopped,
)
from suite.messages.promotion import Finding, Gates
from suite.node import promoter
from suite.node.aliases import Aliases as AliasesOfNode
from suite.node.promoter import Promoter
from suite.node.versions import Names, VersionBook
from support.nats import eventually
from support.versions import NOON, book_of, names_of, recorded, registered

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
    fleet = SimpleNamespace(views=Nodes)
    async with looked_after(book, names, known, fleet, lease):
        yield


@asynccontextmanager
async def looked_after(
    book: VersionBook,
    names: Names,
    known: object,
    fleet: object,
    lease: Lease,
    *,
    now: datetime = NOON,
    clock: Clock = boot_clock,
) -> AsyncIterator[None]:
    node = SimpleNamespace(
        versions=book,
        names=names,
        aliases=known,
        fleet=fleet,
        name="box1",
        now=lambda: now,
        clock=clock,
    )
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


# --- what is waited for has an end --------------------------------------------------------------------------


class KnownAliases(AliasesOfNode):
    """What is known of promotions with gates is nothing yet; what is decided takes effect at once."""

    def __init__(self, book: VersionBook, names: Names, fleet: object) -> None:
        nothing = cast(Any, None)
        super().__init__(
            nothing, nothing, book, names, cast(Any, fleet), nothing, now=lambda: NOON, new_id=str
        )
        self.looks = 0
        self.ends: list[PromotionStopped] = []
        self.failure: Exception | None = None
        self.met: set[str] = set()
        """The promotions, by id, whose gates are met."""

    async def looked(self) -> None:
        """Wait until it was looked a few times more."""
        before = self.looks
        await eventually(lambda: self.looks > before + 4)

    async def findings(self, *given: Any, **_: Any) -> tuple[Finding, ...]:
        await anyio.lowlevel.checkpoint()
        self.looks += 1
        if self.failure is not None:
            raise self.failure
        is_open = Finding(gate="evaluations", verdict="open", needed=2.0, found=0.0)
        return () if given[1].gates is None or given[1].id in self.met else (is_open,)

    async def change(self, *given: Any) -> int | None:
        await anyio.lowlevel.checkpoint()
        name, decide, _ = given
        event = decide(self._book.aliases[name])
        assert isinstance(event, PromotionStopped)
        self.ends.append(event)
        self._book.apply(recorded(1000 + len(self.ends), event))
        return None


def canary(alias: str, id: str) -> tuple[Event, ...]:
    """A version of which nothing is asked: it has a share until somebody says more."""
    set_alias, begun = promotion(alias, id)
    assert isinstance(begun, PromotionStarted)
    begun = msgspec.structs.replace(begun, gates=None, canary_share=0.1)
    got = CanaryStarted(alias=alias, promotion_id=id, model_id="new", version=1, canary_share=0.1)
    return set_alias, begun, got


SIZES = {"old": 4, "new": 5, "kept": 3, "other": 2}
CROWD = [registered(id[:1] * 64, model_id=id) for id in SIZES]
LATER: tuple[Event, ...] = (
    AliasSet(alias="b", model_id="kept", version=1),
    PromotionStarted(
        alias="b",
        promotion_id="q",
        model_id="other",
        version=1,
        old_model_id="kept",
        old_version=1,
        gates=Gates(evaluations=2),
    ),
)
"""A promotion during which what serves keeps the memory that another one may need."""


def crowded() -> Any:
    """A fleet with room for the version and the one that serves, but not beside what serves elsewhere."""

    async def ask(*_: object, **__: object) -> None:
        await anyio.lowlevel.checkpoint()
        raise NotEnoughMemory("others use it")

    view = NodeView(
        node="box1",
        limits=Footprint(10),
        offered={id: Offered(footprint=Footprint(bytes_)) for id, bytes_ in SIZES.items()},
        hosted={id: Hosted(footprint=Footprint(SIZES[id])) for id in ("old", "kept")},
    )
    return SimpleNamespace(views=lambda: Nodes([view]), canonical=str, ask=ask)


async def test_a_canary_whose_memory_a_later_promotion_takes_for_good_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was checked when it began. What another promotion keeps it cannot have afterwards."""
    monkeypatch.setattr("suite.domain.promotion.SHARE_WAIT_SECONDS", 0.0, raising=False)
    book = book_of(*CROWD, *canary("a", "p"))
    names, fleet = names_of(book, tmp_path), crowded()
    known = KnownAliases(book, names, fleet)
    async with looked_after(book, names, known, fleet, Lease()):
        await eventually(lambda: known.looks > 3)
        assert not known.ends, "nobody keeps its memory: it comes back with the next request"
        for seq, event in enumerate(LATER, start=100):
            book.apply(recorded(seq, event))
        await eventually(lambda: known.ends)
    (end,) = known.ends
    assert (end.alias, end.reason) == ("a", "not_enough_memory")
    (sentence,) = told(end)
    assert sentence.startswith(
        "new@1 was not promoted to a: new@1 does not fit: with old@1, which serves until it is ready and "
        "kept, which may not leave (pinned, or another promotion runs), it needs 12 bytes, and the limit is"
    )
    assert book.aliases["a"].target == ("old", 1)
    assert book.aliases["b"].promotion is not None, "the later one goes on"


async def test_the_hour_of_a_load_begins_when_it_is_due_and_not_while_gates_are_open(tmp_path: Path) -> None:
    book = book_of(*CROWD, *LATER, *promotion("a", "p"))
    names, fleet, now = names_of(book, tmp_path), crowded(), [0.0]
    known = KnownAliases(book, names, fleet)
    async with looked_after(book, names, known, fleet, Lease(), clock=lambda: now[0]):
        await known.looked()
        now[0] += 7200
        await known.looked()
        known.met.add("p")
        await eventually(lambda: "others use it" in known.waits.get("p", ""))
        assert not known.ends
        now[0] += 3600
        await eventually(lambda: known.ends)
    (end,) = known.ends
    assert (end.alias, end.reason) == ("a", "not_enough_memory")


@pytest.mark.parametrize("failure", [None, ReadModelUnavailable("the read model is away"), KeyError("new")])
async def test_what_nobody_ever_says_ends_a_promotion_after_a_month(
    tmp_path: Path, failure: Exception | None
) -> None:
    """Also if its gates can never be read."""
    book = book_of(*MODELS, *canary("a", "p"), *promotion("b", "q"))
    names = names_of(book, tmp_path)
    fleet = SimpleNamespace(views=Nodes, canonical=str)
    known = KnownAliases(book, names, fleet)
    known.failure = failure
    async with looked_after(book, names, known, fleet, Lease(), now=NOON + timedelta(days=29)):
        await eventually(lambda: known.looks > 3)
    assert not known.ends
    async with looked_after(book, names, known, fleet, Lease(), now=NOON + timedelta(days=30)):
        await eventually(lambda: len(known.ends) == 2)
    ends = {each.alias: each for each in known.ends}
    assert {each.reason for each in known.ends} == {"waited_too_long"}
    if failure is None:
        assert ends["a"].detail.startswith("it waited 30 d for a node that has new@1; until then old@1 gets")
        assert ends["b"].detail == (
            "it waited 30 d for evaluations of new@1, for evaluations; promote it again to go on"
        )


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
