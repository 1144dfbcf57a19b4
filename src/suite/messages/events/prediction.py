"""Facts about bets: models that are loaded before anybody asks, and what came of it."""

from __future__ import annotations

from typing import Literal

import msgspec

from suite.messages.events.base import Event, event


class PredictionEvent(Event, frozen=True, kw_only=True):
    """A fact about a bet: a node expects that a model will be used soon, and loads it before anybody asks."""

    model_id: str
    node: str
    prediction_id: str

    @property
    def ids(self) -> tuple[str, ...]:  # noqa: D102 - as the base says
        return (self.model_id,)


class Loser(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model on which no bet was taken, though there was a chance that it is used."""

    model_id: str
    chance: float
    saves_seconds: float
    costs_seconds: float | None = None
    """None: it has no room, even if all leave that may."""


@event("prediction", "made")
class PredictionMade(PredictionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """A bet was taken: the model is loaded next, into free memory or into that of less likely models."""

    chance: float
    """That the model is used within the horizon, corrected by what became of earlier bets."""
    estimate: float
    """What the history of uses alone says."""
    horizon_seconds: float
    saves_seconds: float
    """Expected: the chance times the seconds that a load takes."""
    costs_seconds: float
    """The work of the load, and what is expected to be lost with the models that leave for it."""
    bytes: int
    """The memory that it takes, as estimated before its load."""
    evicting: tuple[str, ...] = ()
    """The models that may have to leave for it."""
    losers: tuple[Loser, ...] = ()
    """The most promising models on which no bet was taken at that moment."""


BetOutcome = Literal["hit", "waste"]
BetReason = Literal["used", "not_used", "left", "failed"]


@event("prediction", "settled")
class PredictionSettled(PredictionEvent, frozen=True, kw_only=True, omit_defaults=True):
    """It is known what a bet was worth: a hit was in memory when it was first used, all else is waste."""

    outcome: BetOutcome
    reason: BetReason
    """`not_used`: the horizon has passed; `left`: it left memory before it was used; `failed`: it was not
    loaded."""
    detail: str = ""
    """Why it left, or the code of the error with which it was not loaded."""
    chance: float
    """As it was told when the bet was taken."""
    used: bool | None = None
    """Whether the model was used within the horizon; None: nobody can know, as it was gone before that."""
    saved_seconds: float
    """The part of its load that was done when the first request came."""
    byte_seconds: float
    """The memory that it had, times the time until it was used, had left, or the horizon had passed."""
