"""Which model somebody means by what stands in an address: as the command line takes it (ADR 31)."""

from __future__ import annotations

import msgspec

from suite.client import Client
from suite.domain.model_names import meant_by
from suite.errors import ModelNotFound
from suite.messages.actions.base import Name


class ModelWanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was typed: the parameter of the address."""

    name: Name


class ModelMeant(msgspec.Struct, frozen=True, kw_only=True):
    """The model that is meant."""

    model_id: str


async def model_meant(client: Client, wanted: ModelWanted) -> ModelMeant:
    """The model with this name or alias, or the only one that begins like this.

    Raises ModelNotFound, with the models that may be meant or with names that are similar.
    """
    models = (await client.list_models()).models
    model_id = meant_by(wanted.name, {each.model_id: (each.model_id, *each.aliases) for each in models})
    status = await client.get_model_status(model_id)
    if status.model is None:
        raise ModelNotFound
    return ModelMeant(model_id=model_id)
