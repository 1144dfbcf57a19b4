"""Predicting which models are needed next, preloading them, and selecting a model."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from suite.messages.actions.base import LoadWait, ModelId, Name, Query, Reply, Request


class PredictModelsRequest(Query, frozen=True, kw_only=True):
    """Predict which models will be used next."""

    limit: Annotated[int, Meta(ge=1, le=100)] = 3


class PredictModelsReply(Reply, frozen=True, kw_only=True):
    """The predicted models, the likeliest first; fewer than requested if fewer were used."""

    predicted_models: tuple[str, ...]
    policy: str


class PreloadModelsRequest(Request, frozen=True, kw_only=True):
    """Load models before they are needed."""

    model_ids: Annotated[tuple[ModelId, ...], Meta(min_length=1, max_length=100)]
    load_wait_ms: LoadWait = 0
    """0: only what can be loaded now is."""


class PreloadOutcome(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The outcome of preloading one model."""

    loaded: bool
    message: str
    code: str | None = None
    """The error code, if it could not be loaded."""
    seq: int | None = None


class PreloadModelsReply(Reply, frozen=True, kw_only=True):
    """The outcome of each model, by the id that was sent."""

    message: str
    results: dict[str, PreloadOutcome]


class SelectModelRequest(Query, frozen=True, kw_only=True):
    """Select a model with a capability: loaded models come first, then the most trusted."""

    capability: Name | None = None
    """One of the ``capabilities`` in list_models; null: any."""


class SelectModelReply(Reply, frozen=True, kw_only=True):
    """The selected model, and the others in order."""

    model_id: str
    loaded: bool
    trust: float | None
    """Null: nothing is known about it."""
    others: tuple[str, ...]
