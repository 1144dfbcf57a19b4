"""What became of requests that did not get their model at once, as few events for many requests (ADR 46).

A thousand requests that wait for one model are one wait: one event says that it has begun, one that it has
ended. Of refusals of one kind the first is told at once, and those of each minute after it are counted. So
neither many clients nor one that asks again and again can fill the log, and no request is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple, TypeAlias

from suite.domain.turns import Place, Request
from suite.errors import SuiteError
from suite.messages.decisions import Decision, Purpose
from suite.messages.events import AdmissionEvent, RequestsRefused, WaitEnded, WaitStarted

LEAST_WAIT_SECONDS: Final = 1.0
"""A wait that is shorter has no event of its own: the load that ends it says how long it was."""
MOST_WEIGHED: Final = 1
"""So many waits at once: to weigh one takes some milliseconds, for which nothing else is done."""
QUIET_SECONDS: Final = 10.0
"""A wait in vain has ended when nobody has waited for so long: clients that are refused ask again."""
REFUSALS_SECONDS: Final = 60.0
"""In each such period, refusals of one kind are one event."""

End: TypeAlias = Literal["served", "refused", "withdrawn"]
Weigh: TypeAlias = Callable[[], Decision]
WeighWait: TypeAlias = Callable[[str], tuple[Place | None, Decision]]
"""Says of a model that is waited for where it stands, and what is weighed."""


class _Wait:
    """The requests that wait for one model, or have just waited."""

    def __init__(self, since: float) -> None:
        self.since = since
        self.is_told = False
        self.waiting = 0
        self.ends: dict[End, int] = {"served": 0, "refused": 0, "withdrawn": 0}
        self.longest_seconds = 0.0
        self.quiet_since = since

    def ended(self, node: str, model_id: str) -> WaitEnded:
        longest_seconds = round(self.longest_seconds, 3)
        return WaitEnded(node=node, model_id=model_id, longest_seconds=longest_seconds, **self.ends)


class _Kind(NamedTuple):
    """What refusals that are counted together have in common."""

    model_id: str
    code: str
    purpose: Purpose


class _Refusals:
    """The refusals of one kind since the last event about them."""

    def __init__(self) -> None:
        self.told_at: float | None = None
        self._restart()

    def _restart(self) -> None:
        self.requests = 0
        self.since = 0.0
        self.message = ""
        self.waited_seconds = 0.0
        self.decision: Decision | None = None

    def add(self, error: SuiteError, now: float, waited_seconds: float, weigh: Weigh | None) -> None:
        if not self.requests:
            self.since = now
            self.decision = weigh() if weigh is not None else None
        self.requests += 1
        self.message = error.message
        self.waited_seconds = max(self.waited_seconds, waited_seconds)

    def is_due(self, now: float) -> bool:
        return self.requests > 0 and (self.told_at is None or now - self.told_at >= REFUSALS_SECONDS)

    def is_over(self, now: float) -> bool:
        return not self.requests and self.told_at is not None and now - self.told_at >= REFUSALS_SECONDS

    def event(self, node: str, kind: _Kind, now: float) -> RequestsRefused:
        return RequestsRefused(
            node=node,
            model_id=kind.model_id,
            code=kind.code,
            purpose=kind.purpose,
            message=self.message,
            requests=self.requests,
            within_seconds=round(now - self.since, 3) if self.requests > 1 else 0.0,
            waited_seconds=round(self.waited_seconds, 3),
            decision=self.decision,
        )

    def told(self, now: float) -> None:
        self.told_at = now
        self._restart()


class Outcomes:
    """The waits and refusals of one node that are not in the log yet. At most a few for each model."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._waits: dict[str, _Wait] = {}
        self._refusals: dict[_Kind, _Refusals] = {}
        self._ended: list[WaitEnded] = []

    def queued(self, request: Request) -> None:
        """A request begins to wait."""
        wait = self._waits.setdefault(request.model_id, _Wait(request.since))
        if not wait.waiting and not wait.is_told:
            wait.since = request.since
        wait.waiting += 1

    def ended(self, request: Request, end: End, now: float) -> None:
        """A request does not wait any longer."""
        model_id = request.model_id
        wait = self._waits[model_id]
        wait.waiting -= 1
        wait.ends[end] += 1
        wait.longest_seconds = max(wait.longest_seconds, now - request.since)
        wait.quiet_since = now
        if wait.waiting:
            return
        if not wait.is_told:
            del self._waits[model_id]
        elif end == "served":
            del self._waits[model_id]
            self._ended.append(wait.ended(self._node, model_id))

    def refused(
        self,
        model_id: str,
        error: SuiteError,
        now: float,
        *,
        purpose: Purpose = "request",
        waited_seconds: float = 0.0,
        weigh: Weigh | None,
    ) -> None:
        """A request is refused. `weigh` is asked for the first of several."""
        refusals = self._refusals.setdefault(_Kind(model_id, error.code, purpose), _Refusals())
        refusals.add(error, now, waited_seconds, weigh)

    def take(self, now: float, weigh: WeighWait, *, is_last: bool = False) -> list[AdmissionEvent]:
        """Events that are due now, which are given out once. `is_last`: the node stops.

        Of waits that have to be weighed there is one: the next comes with the next call.
        """
        ended, self._ended = self._ended, []
        return [*ended, *self._waits_due(now, weigh, is_last), *self._refusals_due(now, is_last)]

    def _waits_due(self, now: float, weigh: WeighWait, is_last: bool) -> Iterator[AdmissionEvent]:
        weighed = 0
        for model_id, wait in tuple(self._waits.items()):
            if wait.is_told:
                if is_last or (not wait.waiting and now - wait.quiet_since >= QUIET_SECONDS):
                    del self._waits[model_id]
                    yield wait.ended(self._node, model_id)
            elif now - wait.since >= LEAST_WAIT_SECONDS and weighed < MOST_WEIGHED:
                wait.is_told = True
                weighed += 1
                place, decision = weigh(model_id)
                yield WaitStarted(
                    node=self._node,
                    model_id=model_id,
                    place=place.place if place is not None else 1,
                    waits_for=place.waits_for if place is not None else (),
                    decision=decision,
                )

    def _refusals_due(self, now: float, is_last: bool) -> Iterator[AdmissionEvent]:
        for kind, refusals in tuple(self._refusals.items()):
            if refusals.is_due(now) or (is_last and refusals.requests):
                yield refusals.event(self._node, kind, now)
                refusals.told(now)
            elif refusals.is_over(now):
                del self._refusals[kind]
