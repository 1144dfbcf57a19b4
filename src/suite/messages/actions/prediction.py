"""Predicting which models are needed next, preloading them, and selecting a model."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from suite.messages.actions.base import FleetReply, Limit, LoadWait, ModelId, Name, Query, Request


class PredictModelsRequest(Query, frozen=True, kw_only=True):
    """Predict which models will be used next."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 3
    detail: bool = False
    """Whether to tell the chances of use as well."""


class ModelChance(msgspec.Struct, frozen=True, kw_only=True):
    """How likely it is that a model is used."""

    model_id: str
    chance: float
    """That it is used within `horizon_seconds`: 0 to 1."""
    loaded: bool


class PredictModelsReply(FleetReply, frozen=True, kw_only=True):
    """The predicted models, the likeliest first; fewer than requested if fewer were used."""

    predicted_models: tuple[str, ...]
    """The models that were used most in the last hour."""
    policy: str
    chances: tuple[ModelChance, ...] | UnsetType = UNSET
    """With `detail`: the models that are likeliest to be used, by all that was used so far. Another rule than
    that of `predicted_models` orders them, so they may be others."""
    horizon_seconds: float | UnsetType = UNSET
    """With `detail`: the time within which a use counts."""


class GetPredictionsRequest(Query, frozen=True, kw_only=True):
    """Show how likely models are to be used, and what became of those that were loaded for it."""

    limit: Limit = 100


BetState: TypeAlias = Literal["open", "hit", "waste"]


class BetInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The last bet on a model: it was loaded before anybody asked for it."""

    made_at: str
    chance: float
    """As it was told then."""
    state: BetState
    """`hit`: it was in memory when it was used."""
    reason: str
    """Why it is settled so: `used`, `not_used` within the horizon, `left` memory before, or `failed` to load;
    empty while it is open."""
    detail: str
    """Why it left, or the code of the error with which it was not loaded."""


class ModelPrediction(msgspec.Struct, frozen=True, kw_only=True):
    """A model, its chance of being used, and the bets on it."""

    model_id: str
    chance: float
    """That it is used within `horizon_seconds`: 0 to 1."""
    loaded: bool
    last_bet: BetInfo | None
    won: int
    lost: int
    saved_seconds: float
    """Of loading, which nobody had to wait for."""
    byte_seconds: float
    """The memory that bets had, times how long, until the models were used or the bets were lost."""


class ReliabilityBin(msgspec.Struct, frozen=True, kw_only=True):
    """The chances of about the same size that are settled: a point of the reliability curve."""

    count: int
    predicted: float
    """The mean of the chances."""
    observed: float
    """The share of them that came true."""


class CalibrationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How good chances were that are settled."""

    count: int
    brier: float | None
    """The mean squared error: 0 is best. Null: none is settled."""
    brier_of_base_rate: float | None
    """That of one who always tells the share that came true: a useful forecast is below it."""
    curve: tuple[ReliabilityBin, ...]
    """In ten bins by the size of the chance; empty ones are left out."""


class GetPredictionsReply(FleetReply, frozen=True, kw_only=True):
    """The models that were ever used or bet on, the likeliest first."""

    horizon_seconds: float
    predictions: tuple[ModelPrediction, ...]
    bets: CalibrationInfo
    """Of the chances that bets were taken with."""
    chances: CalibrationInfo
    """Of chances of all models, told at moments spread over time."""


class PreloadModelsRequest(Request, frozen=True, kw_only=True):
    """Load models before they are needed."""

    model_ids: Annotated[tuple[ModelId, ...], Meta(min_length=1, max_length=100)]
    load_wait_ms: LoadWait = 0
    """0: only what can be loaded now is. Once one of them is loaded, the others do not wait: it stays."""


class PreloadOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of preloading one model."""

    loaded: bool
    message: str
    node: str = ""
    """The node that it is loaded on, or that refused it."""
    code: str | None = None
    """The error code, if it could not be loaded."""
    seq: int | None = None


class PreloadModelsReply(FleetReply, frozen=True, kw_only=True):
    """The outcome of each model, by the id that was sent."""

    message: str
    results: dict[str, PreloadOutcome]


class SelectModelRequest(Query, frozen=True, kw_only=True):
    """Select a model with a capability: loaded models come first, then the most trusted."""

    capability: Name | None = None
    """One of the ``capabilities`` in list_models; null: any."""


class SelectableModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that could be selected, as one node sees it."""

    model_id: str
    loaded: bool = False
    quarantined: bool = False
    trust: float | None = None


class SelectModelReply(FleetReply, frozen=True, kw_only=True):
    """The selected model, and the others in order."""

    model_id: str
    loaded: bool
    trust: float | None
    """Null: nothing is known about it."""
    others: tuple[str, ...]
    candidates: tuple[SelectableModel, ...] | UnsetType = UNSET
    """All of them; only nodes tell that, to each other."""
