"""What became of bets: the fold of the facts that settle them, and of the bets that are settled.

    book.fold(event)                                            # each event of the log, in order
    for settled in book.due(node, now=now, in_use=in_use): ...  # append these: their outcome is known

A bet is open from `prediction.made` to `prediction.settled`. It is bound to the first load of its model after
it was made. It is a hit if that instance was used within the horizon. It is waste if the horizon has passed,
or if the model left memory before anybody used it. All that is learned from the log, so a bet that was open
when its node stopped is settled by the node's next start as what it was by then. A use that a client reported
says of no instance that it was used.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import ClassVar, Final

import msgspec

from suite.domain.sizes import ready_bytes
from suite.errors import (
    LoadCancelled,
    ModelNotFound,
    NodeStopping,
    NotEnoughMemory,
    Overloaded,
    Unavailable,
    UnknownOutcome,
)
from suite.messages.envelope import Recorded
from suite.messages.events import (
    BetReason,
    Generated,
    InstanceCrashed,
    InstanceEvent,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    NodeLost,
    NodeStarted,
    NodeStopped,
    PredictionMade,
    PredictionSettled,
    UsageRecorded,
)
from suite.prediction.chance import Calibration
from suite.prediction.recent import RecentIds
from suite.prediction.uses import seconds_of

LOADED_ALREADY: Final = "loaded_already"
"""The detail of a bet that came too late: somebody else had the model loaded meanwhile."""
_PASSING: Final = (
    LOADED_ALREADY,
    LoadCancelled.code,
    ModelNotFound.code,
    NodeStopping.code,
    NotEnoughMemory.code,
    Overloaded.code,
    Unavailable.code,
    UnknownOutcome.code,
)
"""Details of failures that say nothing about the model."""


class Fate(msgspec.Struct, frozen=True):
    """How a bet has ended."""

    reason: BetReason
    at: float
    """Seconds since 1970, as all times here."""
    detail: str = ""


class OpenBet(msgspec.Struct, kw_only=True):
    """A bet that is not settled yet."""

    made: PredictionMade
    at: float
    bytes: int
    """Of its load: estimated, or measured if that was more."""
    instance_id: str = ""
    """Of its load; empty: it has not begun."""
    load_at: float = 0.0
    ready_at: float | None = None
    fate: Fate | None = None
    traceparent: str | None = None
    """Of the bet, to which its end is linked."""

    @property
    def until(self) -> float:
        """When the horizon ends."""
        return self.at + self.made.horizon_seconds

    def by(self, fate: Fate) -> Fate:
        """A fate, if it came within the horizon: what comes later changes nothing."""
        return fate if fate.at <= self.until else Fate("not_used", self.until)

    def settled(self, fate: Fate) -> PredictionSettled:
        """The event that ends the bet."""
        is_hit = fate.reason == "used"
        end = min(fate.at, self.until)
        there = max(end - self.load_at, 0.0) if self.instance_id else 0.0
        load = self.ready_at - self.load_at if self.ready_at is not None else there
        return PredictionSettled(
            model_id=self.made.model_id,
            node=self.made.node,
            prediction_id=self.made.prediction_id,
            outcome="hit" if is_hit else "waste",
            reason=fate.reason,
            detail=fate.detail,
            chance=self.made.chance,
            used={"used": True, "not_used": False}.get(fate.reason),
            saved_seconds=round(min(load, there), 3) if is_hit else 0.0,
            byte_seconds=round(self.bytes * there, 1),
        )


class Record(msgspec.Struct, kw_only=True):
    """The bets on one model, all nodes together."""

    last: PredictionMade
    last_at: float
    """When the last one was made."""
    last_settled: PredictionSettled | None = None
    """How the last one has ended; None: it is open."""
    failed_at: float | None = None
    """When one was settled because the model itself could not be loaded; None if a later one could."""
    won: int = 0
    lost: int = 0
    saved_seconds: float = 0.0
    byte_seconds: float = 0.0


class BetBook:
    """A fold of the log: the open bets of all nodes, and the record of those that are settled."""

    name: ClassVar[str] = "bet_book"
    aggregates: ClassVar[tuple[str, ...]] = ("prediction", "instance", "usage", "node")

    def __init__(self, node: str) -> None:
        """`node` settles its bets itself, however late; those of others are dropped in time."""
        self._node = node
        self.open: dict[str, OpenBet] = {}
        """By prediction id, in the order in which they were made."""
        self._of_model: dict[str, dict[str, OpenBet]] = {}
        """The same, by model."""
        self._ended = RecentIds()
        """The predictions that are settled: a copy does not open them again."""
        self.records: dict[str, Record] = {}
        """By model."""
        self.calibration = Calibration()
        """Of the chances that were told with bets."""
        self._of_estimates = Calibration()
        """Of what the history of uses alone said, by which the next bets are corrected."""

    def corrected(self, estimate: float) -> float:
        """The chance that a bet is told with: bets are taken on the highest estimates, which are too high."""
        return self._of_estimates.corrected(estimate)

    def is_open(self, model_id: str, *, now: float) -> bool:
        """Whether any node has a bet on the model that may still be won."""
        return any(bet.until >= now for bet in self._undecided(model_id))

    def due(self, node: str, *, now: float, in_use: Collection[str] = ()) -> Iterator[PredictionSettled]:
        """What ends those bets of a node whose outcome is known at a time.

        `in_use` are the models that answer at this moment: what they do is not in the log yet, so no horizon
        passes for them.
        """
        for bet in self.open.values():
            if bet.made.node != node:
                continue
            if bet.fate is not None:
                yield bet.settled(bet.fate)
            elif bet.until < now and bet.made.model_id not in in_use:
                yield bet.settled(Fate("not_used", bet.until))

    # --- the fold -----------------------------------------------------------------------------------------

    def fold(self, event: Recorded) -> None:
        """Learn of one more event."""
        at = event.time.timestamp()
        match event.data:
            case PredictionMade() as made:
                self._made(made, at, event.traceparent)
            case PredictionSettled() as settled:
                self._settled(settled, at)
            case InstanceEvent() as fact:
                self._instance(fact, at)
            case Generated() as use:
                self._used(use.model_id, at - seconds_of(use), use.node, instance_id=use.instance_id)
            case UsageRecorded(node=node) as use if node:
                self._used(use.model_id, at, node)
            case NodeStarted(node=node):
                self._gone(node, Fate("left", at, "restart"))
            case NodeStopped(node=node):
                self._gone(node, Fate("left", at, "shutdown"))
            case NodeLost(node=node):
                self._gone(node, Fate("left", at, "node_lost"))
            case _:
                pass

    def _made(self, made: PredictionMade, at: float, traceparent: str | None) -> None:
        if made.prediction_id in self.open or made.prediction_id in self._ended:
            return
        self._drop_abandoned(at)
        bet = self.open[made.prediction_id] = OpenBet(
            made=made, at=at, bytes=made.bytes, traceparent=traceparent
        )
        self._of_model.setdefault(made.model_id, {})[made.prediction_id] = bet
        record = self.records.setdefault(made.model_id, Record(last=made, last_at=at))
        record.last, record.last_at, record.last_settled = made, at, None

    def _settled(self, settled: PredictionSettled, at: float) -> None:
        self._ended.use(settled.prediction_id, None)
        bet = self._close(settled.prediction_id)
        if bet is None:
            return
        record = self.records[bet.made.model_id]
        if record.last.prediction_id == settled.prediction_id:
            record.last_settled = settled
        if settled.reason != "failed":
            record.failed_at = None
        elif settled.detail not in _PASSING:
            record.failed_at = at
        record.won += settled.outcome == "hit"
        record.lost += settled.outcome == "waste"
        record.saved_seconds += settled.saved_seconds
        record.byte_seconds += settled.byte_seconds
        if settled.used is not None:
            self.calibration.settle(bet.made.chance, settled.used)
            self._of_estimates.settle(bet.made.estimate, settled.used)

    def _close(self, prediction_id: str) -> OpenBet | None:
        bet = self.open.pop(prediction_id, None)
        if bet is not None:
            of_model = self._of_model[bet.made.model_id]
            del of_model[prediction_id]
            if not of_model:
                del self._of_model[bet.made.model_id]
        return bet

    def _drop_abandoned(self, now: float) -> None:
        """Forget the bets of other nodes that have not settled them: they may never come back."""
        for prediction_id, bet in tuple(self.open.items()):
            if bet.made.node != self._node and bet.until + bet.made.horizon_seconds < now:
                self._close(prediction_id)

    def _instance(self, fact: InstanceEvent, at: float) -> None:
        for bet in self._undecided(fact.model_id):
            if bet.made.node != fact.node:
                continue
            if isinstance(fact, InstanceLoadStarted) and not bet.instance_id:
                bet.instance_id, bet.load_at = fact.instance_id, at
            elif bet.instance_id == fact.instance_id:
                self._happened(bet, fact, at)

    def _happened(self, bet: OpenBet, fact: InstanceEvent, at: float) -> None:
        match fact:
            case InstanceLoaded():
                bet.ready_at, bet.bytes = at, max(bet.bytes, ready_bytes(fact).total)
            case InstanceLoadFailed():
                bet.fate = Fate("failed", at, fact.code)
            case InstanceUnloaded():
                bet.fate = bet.by(Fate("left", at, fact.reason))
            case InstanceCrashed():
                bet.fate = bet.by(Fate("left", at, "crashed"))
            case _:
                pass

    def _used(self, model_id: str, at: float, node: str, *, instance_id: str | None = None) -> None:
        for bet in self._undecided(model_id):
            if bet.made.node == node and bet.instance_id and instance_id in (None, bet.instance_id):
                bet.fate = bet.by(Fate("used", at))

    def _gone(self, node: str, fate: Fate) -> None:
        for bet in self.open.values():
            if bet.fate is None and bet.made.node == node:
                bet.fate = bet.by(fate)

    def _undecided(self, model_id: str) -> Iterator[OpenBet]:
        return (bet for bet in self._of_model.get(model_id, {}).values() if bet.fate is None)


def not_loaded(made: PredictionMade, why: str) -> PredictionSettled:
    """What ends a bet whose load has not begun. `why` is the code of an error, or `LOADED_ALREADY`."""
    return OpenBet(made=made, at=0.0, bytes=made.bytes).settled(Fate("failed", 0.0, why))
