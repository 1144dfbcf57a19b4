"""What a node has to have so that it serves a name: a model with its draft model, and its adapters. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import msgspec

from suite.catalogue import Model
from suite.catalogue.projectors import UNPAIRED


class Needs(NamedTuple):
    """What is copied for one name."""

    name: str
    own: Model
    """What has the name: a model or an adapter; of a name that only settings make, the model."""
    models: tuple[Model, ...]
    """All of it, in the order in which it is copied: what has the name is there when all else is."""
    draft: Model | None = None
    """The draft model among them: the name can be served without it."""


def needs_of_model(name: str, model: Model, adapters: Sequence[Model], models: Mapping[str, Model]) -> Needs:
    """What is copied of a model, with the adapters that the name says, of all models of this node."""
    draft = models.get(model.draft.model_id) if model.draft is not None else None
    if draft is not None:  # it reads no pictures, and nobody guesses for it
        draft = msgspec.structs.replace(draft, draft=None, pairing=UNPAIRED)
    own = next((each for each in adapters if each.model_id == name), model)
    ordered = sorted(adapters, key=lambda each: each is own)
    return Needs(name, own, (*([draft] if draft is not None else []), model, *ordered), draft)
