"""A bet on a model and what became of it, in sentences."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from suite.explanation.words import listed, span
from suite.messages.events import Loser, PredictionMade, PredictionSettled
from suite.units import size

_GIB_HOUR: Final = 3600 * 2**30


def made(event: PredictionMade) -> Iterator[str]:
    """What was expected of the bet, and of those that were not taken."""
    yield (
        f"{event.node} expected with a chance of {_percent(event.chance)} that {event.model_id} would be "
        f"used within {span(event.horizon_seconds)}, and so loads it before anybody asks."
    )
    yield (
        f"That was expected to save {span(event.saves_seconds)} of waiting and to cost "
        f"{span(event.costs_seconds)}; it takes {size(event.bytes)}."
    )
    if event.evicting:
        yield f"If there was no room, {listed(event.evicting)} could have left for it."
    if event.losers:
        yield f"Not loaded were {listed([_loser(each) for each in event.losers])}."


def _loser(loser: Loser) -> str:
    cost = "there was no room for it"
    if loser.costs_seconds is not None:
        cost = f"would have saved {span(loser.saves_seconds)} and cost {span(loser.costs_seconds)}"
    return f"{loser.model_id} ({_percent(loser.chance)}, {cost})"


def settled(event: PredictionSettled) -> str:
    """Whether it was won, and what it has brought."""
    memory = f"{event.byte_seconds / _GIB_HOUR:.2g} GiB hours of memory"
    match event.reason:
        case "used":
            told = f"it was used, and {span(event.saved_seconds)} of its load were saved"
        case "not_used":
            told = "nobody used it in time"
        case "left":
            told = f"it left memory before anybody used it ({event.detail})"
        case "failed":
            told = f"it was not loaded ({event.detail})"
    won = "won" if event.outcome == "hit" else "lost"
    return f"The bet on {event.model_id} on {event.node} was {won}: {told}. It took {memory}."


def _percent(chance: float) -> str:
    return f"{chance:.0%}" if chance >= 0.01 else f"{chance:.1%}"
