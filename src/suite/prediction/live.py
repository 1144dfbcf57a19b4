"""Keeps folds of the log up with it, in memory::

    live = LiveFolds(log, [evictions, bets], on_problem=report)
    tasks.start_soon(live.run)
    ...
    live.seq     # every event up to this one has been folded, and none after it

A fold gets the events of its aggregates in the order of the log, each once, without those of later versions
and without copies.
It learns of time only from them. So whoever reads the same events again gets the same state, at any sequence.
It begins with the newest `REMEMBERED_USES` uses and what happened since, because older ones hardly count any
more (ADR 44).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import Final, Protocol

import anyio

from suite.errors import SuiteError
from suite.log import Log
from suite.log.follower import Follower
from suite.messages.envelope import Recorded
from suite.messages.events import UnknownEvent
from suite.prediction.recent import RecentIds

logger = logging.getLogger("suite.prediction")

REMEMBERED_USES: Final = 100_000
"""How many uses are folded at the start; what is older has decayed."""
BATCH_EVENTS: Final = 100
"""How many events are decoded at one go: one or two milliseconds."""
SLICE_SECONDS: Final = 0.002
"""After so long whatever else the process does has its turn, for as long: this takes half a core at most."""
RETRY_SECONDS: Final = 2.0


class Fold(Protocol):
    """Learns from the events of some aggregates."""

    @property
    def name(self) -> str:
        """What it is called in problems."""

    @property
    def aggregates(self) -> tuple[str, ...]:
        """The aggregates whose events it gets."""

    def fold(self, event: Recorded) -> None:
        """Learn of one more event. It must not wait, and take no longer than some 0.1 ms."""


class LiveFolds:
    """Hands each event to the folds that want it. A fold that raises is left behind; the others go on."""

    def __init__(
        self,
        log: Log,
        folds: Sequence[Fold],
        *,
        remembered_uses: int = REMEMBERED_USES,
        lasting: Sequence[str] = (),
        on_problem: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`lasting` are aggregates with few events, which are folded from the beginning of the log."""
        self._log = log
        self._aggregates = tuple(sorted({each for fold in folds for each in fold.aggregates}))
        self._folds = {each: [fold for fold in folds if each in fold.aggregates] for each in self._aggregates}
        """By aggregate: who gets its events."""
        self._remembered_uses = remembered_uses
        self._lasting = tuple(lasting)
        self._on_problem = on_problem
        self.after: int | None = None
        """The sequence after which it began to fold; None until it has begun."""
        self.seq = 0
        """Every event up to this one has been folded."""
        self.pending = 0
        """How many events it has still to fold, as last reported by the log."""
        self.problems: list[str] = []
        """What went wrong with folds since the start."""
        self._follower: Follower | None = None
        self._seen = RecentIds()
        self._news = anyio.Event()

    async def reach(self, seq: int) -> None:
        """Wait until every event up to this one has been folded."""
        while self.seq < seq:
            if self._follower is not None:
                self._follower.settle()
            await self._news.wait()

    async def run(self) -> None:
        """Follow the log until cancelled, whatever happens to the connection."""
        told = ""
        while True:
            try:
                await self._follow()
            except SuiteError as error:
                if error.message != told:
                    logger.warning("predictions learn nothing from the log at the moment: %s", error.message)
                told = error.message
            await anyio.sleep(RETRY_SECONDS)

    async def _follow(self) -> None:
        if self.after is None:
            after = await self._log.place_of_newest(["usage"], self._remembered_uses)
            await self._recall(after)
            self.after = self.seq = after
        try:
            async with self._log.follow(
                self._aggregates, after=self.seq, batch=BATCH_EVENTS
            ) as self._follower:
                while True:
                    batch = await self._follower.next()
                    self.pending = batch.pending + len(batch.events)
                    worked = await self._fold(batch.events)
                    self.seq, self.pending = batch.seq, batch.pending
                    self._tell()
                    if batch.pending:  # they may be here already, so that nothing would be waited for
                        await anyio.sleep(worked)
        finally:
            self._follower = None

    async def _recall(self, until: int) -> None:
        """Fold the lasting events up to a sequence: all of them, or none if the log cannot be read."""
        if not until or not self._lasting:
            return
        events: list[Recorded] = []
        async with self._log.follow(self._lasting, after=0, batch=BATCH_EVENTS) as follower:
            reached = 0
            while reached < until:
                follower.settle()
                batch = await follower.next()
                events += [event for event in batch.events if event.seq <= until]
                reached = batch.seq
                await anyio.sleep(SLICE_SECONDS if batch.events else 0.0)
        await self._fold(events)

    def _tell(self) -> None:
        self._news.set()
        self._news = anyio.Event()

    async def _fold(self, events: Sequence[Recorded]) -> float:
        """Fold them in slices. Returns how long the last one took, in seconds."""
        began = time.perf_counter()
        for event in events:
            if not isinstance(event.data, UnknownEvent) and not self._seen.is_copy(event.id):
                for fold in tuple(self._folds[event.data.aggregate]):
                    self._hand(event, fold)
            self.seq = event.seq
            worked = time.perf_counter() - began
            if worked >= SLICE_SECONDS:
                await anyio.sleep(worked)
                began = time.perf_counter()
        return time.perf_counter() - began

    def _hand(self, event: Recorded, fold: Fold) -> None:
        try:
            fold.fold(event)
        except Exception as error:
            logger.exception("%s failed at event %d", fold.name, event.seq)
            for each in fold.aggregates:
                self._folds[each].remove(fold)
            problem = (
                f"{fold.name} learns nothing any more: event {event.seq} raised {type(error).__name__}: "
                f"{error}; restart the service to try again"
            )
            self.problems.append(problem)
            self._on_problem(problem)
