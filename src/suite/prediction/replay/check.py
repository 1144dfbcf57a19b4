"""Checks that the decisions of a log come out again as they were made, and says in sentences whether."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from suite.explanation.words import counted, listed, moment
from suite.messages.envelope import Recorded
from suite.messages.events import InstanceLoadStarted
from suite.prediction.replay.decisions import DecidedAgain, decide_again


class Checked(msgspec.Struct, frozen=True, kw_only=True):
    """What came of making the decisions of a node again."""

    node: str
    decisions: int
    """How many were made again: all, or those up to the first difference."""
    left_out: int
    """How many loads besides, of which the log does not have all that they were decided from."""
    difference: DecidedAgain | None = None
    """The first decision that came out differently; None: none did."""


def check(events: Sequence[Recorded], node: str) -> Checked:
    """Make the decisions of a node again, up to the first that comes out differently.

    `events` are those of instances and usage, in their order: the whole log, or all of it that is left.
    Raises InvalidRequest for a policy of somebody's own that cannot be made here.
    """
    decisions, difference = 0, None
    for again in decide_again(events, node):
        decisions += 1
        if not again.agrees:
            difference = again
            break
    last = math.inf if difference is None else difference.seq
    loads = sum(each.seq <= last and _node_of(each) == node for each in events)
    return Checked(node=node, decisions=decisions, left_out=loads - decisions, difference=difference)


def nodes_of(events: Iterable[Recorded]) -> list[str]:
    """The nodes that have loaded models, by name."""
    return sorted({node for event in events if (node := _node_of(event)) is not None})


def _node_of(event: Recorded) -> str | None:
    """The node of a load; None for any other event."""
    return event.data.node if isinstance(event.data, InstanceLoadStarted) else None


def sentences(checked: Checked) -> Iterator[str]:
    """What came of it, for people."""
    again = counted(checked.decisions, "decision")
    if not checked.decisions:
        yield f"{checked.node}: the log has no decision that can be made again"
    elif checked.difference is None:
        yield f"{checked.node}: made {again} again, and each came out as it stands in the log"
    else:
        yield f"{checked.node}: made {again} again, and the last came out differently"
        yield f"  {_difference(checked.difference)}"
        yield (
            "  either this version decides otherwise than the one that made it, or its policy does not decide"
            " the same from the same history, or the log has lost events"
        )
    if checked.left_out:
        yield (
            f"  left out: {counted(checked.left_out, 'load')}, of which the log does not have all that they "
            "were decided from"
        )


def _difference(again: DecidedAgain) -> str:
    return f"event {again.seq}, {moment(again.time)}: for {again.model_id}, {_what_differs(again)}"


def _what_differs(again: DecidedAgain) -> str:
    if again.evicting is None:
        return f"{_leaving(again.recorded)} left; now it would not be loaded at all"
    if again.recorded != again.evicting:
        return f"{_leaving(again.recorded)} left; now {_leaving(again.evicting)} would leave"
    was, now = again.recorded_worth, again.worth
    id = next(id for id in sorted({*was, *now}) if was.get(id) != now.get(id))
    return (
        f"the same models leave, but the memory of {id} was worth {_number(was.get(id))} and is worth "
        f"{_number(now.get(id))} now"
    )


def _number(worth: float | None) -> str:
    """With all its digits; None: nobody asked the policy."""
    return "nothing that is known" if worth is None else repr(float(worth))


def _leaving(model_ids: Sequence[str]) -> str:
    return listed(model_ids) if model_ids else "nobody"
