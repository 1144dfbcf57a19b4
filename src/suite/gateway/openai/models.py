"""``/v1/models``: the catalogue as OpenAI's API lists it."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

from suite.messages.actions.status import ModelInfo, ModelStatus


class Model(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for."""

    id: str
    object: Literal["model"] = "model"
    created: int
    """When it was loaded last; 0 if it is not loaded."""
    owned_by: str
    """Where its file is from."""
    status: ModelStatus
    aliases: tuple[str, ...]
    capabilities: tuple[str, ...]
    context_length: int
    """In tokens."""
    architecture: str | None
    parameters: int | None
    quantization: str | None
    size: int
    """Of its file, in bytes."""
    sha256: str | None


class ModelList(msgspec.Struct, frozen=True, kw_only=True):
    """All models that can be asked for."""

    object: Literal["list"] = "list"
    data: tuple[Model, ...]


def model(info: ModelInfo) -> Model:
    """A model of the catalogue, as OpenAI's API shows it."""
    loaded_at = info.instance.loaded_at if info.instance is not None else None
    return Model(
        id=info.model_id,
        created=0 if loaded_at is None else int(datetime.fromisoformat(loaded_at).timestamp()),
        owned_by=info.repository or info.source,
        status=info.status,
        aliases=info.aliases,
        capabilities=info.capabilities,
        context_length=info.n_ctx,
        architecture=info.architecture,
        parameters=info.parameters,
        quantization=info.quantization,
        size=info.file_bytes,
        sha256=info.sha256,
    )
