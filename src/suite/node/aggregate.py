"""Appends a decision about an aggregate that several nodes write, and decides again on a conflict."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from suite.errors import Conflict
from suite.log import Attempts, Expectation, Log
from suite.messages.events import Event

S = TypeVar("S")


async def settle(
    log: Log,
    aggregate: str,
    what: str,
    state: S,
    *,
    evolve: Callable[[S, Event], S],
    decide: Callable[[S], Event | None],
    correlation_id: str | None = None,
) -> int | None:
    """Append what is decided on the newest state. Returns its sequence; None if there is nothing to append.

    `aggregate` is its subject filter, `what` names the decision in errors, `state` is that of an empty log.
    Raises what `Log.append` and `decide` raise, and Conflict when others write without an end.
    """
    attempts = Attempts(what)
    last_seq = 0
    while True:
        read_up_to, last_seq = last_seq, await log.last_seq(aggregate)
        async for recorded in log.read(aggregate, after=read_up_to):
            state, last_seq = evolve(state, recorded.data), max(last_seq, recorded.seq)
        fact = decide(state)
        if fact is None:
            return None
        try:
            return await log.append(
                fact,
                expect=Expectation(subject=aggregate, last_seq=last_seq),
                correlation_id=correlation_id,
            )
        except Conflict as conflict:
            await attempts.again(conflict)
