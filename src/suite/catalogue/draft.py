"""The draft model of a model: a small one of the same vocabulary, which is loaded with it (ADR 74). Pure."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from suite.catalogue.kv_cache import KvCache, estimated
from suite.catalogue.model import Draft, Model
from suite.engine.gguf.estimate import uses_flash_attention
from suite.engine.gguf.file import MOST_PADDING, GgufInfo
from suite.errors import DraftModelUnfit, SuiteError


def with_drafts(models: Mapping[str, Model]) -> dict[str, Model]:
    """The models of a catalogue, each with its draft model or the reason why it cannot have that.

    Without a draft model that is not there a model is only slower, so it is served all the same. One that is
    there and does not fit is a mistake, and refuses the model.
    """
    return {id: _with_draft(model, models) for id, model in models.items()}


def _with_draft(model: Model, models: Mapping[str, Model]) -> Model:
    name = model.settings.draft_model
    is_wanted = name is not None and model.settings.speculation == "auto"
    if not is_wanted or model.info is None or model.kv_cache is None:
        return model
    error = None if isinstance(model.error, DraftModelUnfit) else model.error
    other, draft = models.get(name or ""), None
    lack = _lack(model, other)
    if other is not None and not lack:
        try:
            draft = _draft(model, model.info, model.kv_cache, other)
        except DraftModelUnfit as unfit:
            error = error or unfit
    if draft == model.draft and lack == model.draft_lack and _is_same(error, model.error):
        return model  # who has seen it sees that nothing has changed
    return msgspec.structs.replace(model, draft=draft, draft_lack=lack, error=error)


def _lack(model: Model, other: Model | None) -> str:
    """Why the draft model that is configured is not there; empty if it is."""
    named = f"draft_model = {model.settings.draft_model!r} of {model.model_id}"
    served = f"{model.model_id} is served without it"
    if other is None:
        return f"{named}: there is no such model, so {served}: use an id of `suite models`, or leave it out"
    if other.error is not None or other.info is None:
        return f"{named} cannot be loaded, so {served}: {other.error}"
    return ""


def _is_same(error: SuiteError | None, other: SuiteError | None) -> bool:
    return type(error) is type(other) and str(error) == str(other)


def _draft(model: Model, info: GgufInfo, cache: KvCache, other: Model) -> Draft:
    """The draft model, with the slots and the context of the model. Raises DraftModelUnfit."""
    assert other.info is not None, "it can be loaded"
    _check_fit(f"draft_model = {model.settings.draft_model!r} of {model.model_id}", info, other.info)
    settings = model.settings
    flash_attention = uses_flash_attention(
        other.info, cache_tokens=cache.stream_tokens, batch_tokens=settings.batch_tokens
    )
    own = msgspec.structs.replace(cache, flash_attention=flash_attention)
    return Draft(
        model_id=other.model_id,
        file=other.file,
        fingerprint=other.fingerprint,
        info=other.info,
        flash_attention=flash_attention,
        estimate=estimated(own, settings, other.info),
    )


def _check_fit(named: str, info: GgufInfo, other: GgufInfo) -> None:
    """What headers say of it; that each token is the same is seen at the load."""
    if not other.generates:
        raise DraftModelUnfit(f"{named} generates no text: choose a small model of the same family")
    is_same = other.tokenizer == info.tokenizer and abs(other.vocabulary - info.vocabulary) <= MOST_PADDING
    if not is_same:
        raise DraftModelUnfit(
            f"{named} has another vocabulary ({other.tokenizer}, {other.vocabulary:,} tokens) than the model "
            f"({info.tokenizer}, {info.vocabulary:,} tokens): choose a small model of the same family"
        )
