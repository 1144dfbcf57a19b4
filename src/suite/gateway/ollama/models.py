"""``/api/tags``, ``/api/ps`` and ``/api/show``: the catalogue as Ollama lists it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import msgspec

from suite.messages.actions.status import InstanceInfo, ModelInfo

FOREVER: Final = datetime(9999, 12, 31, tzinfo=UTC)


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of its model."""

    parent_model: str = ""
    format: str = "gguf"
    family: str
    families: tuple[str, ...]
    parameter_size: str
    quantization_level: str

    @classmethod
    def of(cls, info: ModelInfo) -> Details:
        """The details of a model of the catalogue."""
        family = info.architecture or ""
        return cls(
            family=family,
            families=(family,) if family else (),
            parameter_size=_parameter_size(info.parameters),
            quantization_level=info.quantization or "",
        )


class Tag(msgspec.Struct, frozen=True, kw_only=True):
    """A model that can be asked for."""

    name: str
    model: str
    modified_at: str
    size: int
    digest: str
    details: Details


class Tags(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/tags``."""

    models: tuple[Tag, ...]


class LoadedModel(msgspec.Struct, frozen=True, kw_only=True):
    """A model that is loaded."""

    name: str
    model: str
    size: int
    """The memory that it counts for, in bytes."""
    digest: str
    details: Details
    expires_at: str
    size_vram: int
    context_length: int


class LoadedModels(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/ps``."""

    models: tuple[LoadedModel, ...]


class ShowRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A request to ``/api/show``."""

    model: str = ""
    name: str = ""
    """What older clients call ``model``."""

    def __post_init__(self) -> None:
        if not (self.model or self.name):
            raise ValueError("model is missing: send its id")
        msgspec.structs.force_setattr(self, "model", self.model or self.name)


class Shown(msgspec.Struct, frozen=True, kw_only=True):
    """The answer of ``/api/show``."""

    modelfile: str
    parameters: str
    template: str
    details: Details
    model_info: dict[str, Any]
    capabilities: tuple[str, ...]
    modified_at: str


def tag(info: ModelInfo, *, now: datetime) -> Tag:
    """A model as ``/api/tags`` lists it. Its time is that of its last use: the catalogue has no other."""
    return Tag(
        name=info.model_id,
        model=info.model_id,
        modified_at=info.last_used or now.isoformat(),
        size=info.file_bytes,
        digest=info.sha256 or "",
        details=Details.of(info),
    )


def loaded(info: ModelInfo, instance: InstanceInfo, *, now: datetime) -> LoadedModel:
    """A loaded model as ``/api/ps`` lists it."""
    stays = info.idle_timeout_seconds and not info.pinned
    left = timedelta(seconds=max(0.0, info.idle_timeout_seconds - instance.idle_ms / 1000))
    return LoadedModel(
        name=info.model_id,
        model=info.model_id,
        size=instance.reserved_bytes,
        digest=instance.sha256 or "",
        details=Details.of(info),
        expires_at=(now + left if stays else FOREVER).isoformat(),
        size_vram=sum(instance.gpus.values()),
        context_length=info.n_ctx,
    )


def shown(info: ModelInfo, *, now: datetime) -> Shown:
    """A model as ``/api/show`` describes it."""
    family = info.architecture or "unknown"
    return Shown(
        modelfile="",
        parameters="\n".join(f"{name} {value}" for name, value in info.defaults.items()),
        template="",
        details=Details.of(info),
        model_info={
            "general.architecture": family,
            "general.parameter_count": info.parameters,
            f"{family}.context_length": info.trained_context_tokens or info.n_ctx,
        },
        capabilities=_capabilities(info),
        modified_at=info.last_used or now.isoformat(),
    )


def _capabilities(info: ModelInfo) -> tuple[str, ...]:
    embeds, chats = "embedding" in info.capabilities, info.has_chat_template
    sees = "vision" in info.capabilities
    completes = chats or not embeds
    return ("embedding",) * embeds + ("completion",) * completes + ("tools",) * chats + ("vision",) * sees


def _parameter_size(parameters: int | None) -> str:
    if not parameters:
        return ""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.1f}B"
    return f"{parameters / 1e6:.2f}M"
