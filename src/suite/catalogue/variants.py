"""Models of their own name that are another model with adapters, found or configured (ADR 73).

A variant is a name, as an alias is: it loads its model, of which there is one however many variants it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from suite.catalogue.model import Model
from suite.config import ModelSettings
from suite.engine.gguf.adapter import misfit
from suite.errors import AdapterMismatch, AdapterNotFound, InvalidRequest
from suite.messages.actions.base import AdapterChoice

MOST_ADAPTERS: Final = 8
"""How many adapters are applied at once, at most."""


class Variant(msgspec.Struct, frozen=True, kw_only=True):
    """A model with adapters, under a name of its own."""

    base: str
    """The id of the model."""
    adapters: tuple[AdapterChoice, ...]

    @property
    def parts(self) -> tuple[str, ...]:
        """The ids of all that it is made of."""
        return (self.base, *(each.id for each in self.adapters))


def choices(asked: str | Sequence[str | AdapterChoice]) -> tuple[AdapterChoice, ...]:
    """Adapters as they stand in requests and settings: an id, or several, each with its scale or not."""
    several = (asked,) if isinstance(asked, str) else asked
    return tuple(AdapterChoice(id=each) if isinstance(each, str) else each for each in several)


def fitting(adapter: Model, models: Iterable[Model]) -> list[str]:
    """The ids of the models that an adapter can change."""
    return [each.model_id for each in models if each.info is not None and not _misfit(adapter, each)]


def check_fits(adapter: Model, model: Model) -> None:
    """Raises AdapterMismatch if an adapter cannot change a model, or is none."""
    if adapter.adapter is None:
        raise AdapterMismatch(f"{adapter.model_id} is no adapter, it is a model: send it as the model")
    if reason := _misfit(adapter, model):
        raise AdapterMismatch(
            f"the adapter {adapter.model_id} does not fit {model.model_id}: it {reason}; "
            f"choose a model that it was made for{_made_for(adapter)}"
        )


def found(models: Mapping[str, Model], settings: Mapping[str, ModelSettings]) -> dict[str, Variant]:
    """The variants by their names: those that settings make, and each adapter whose model is known.

    An adapter's model is the one of its settings, or else the only one that it fits, or of several the one
    that it says it was trained on.
    """
    variants: dict[str, Variant] = {}
    for name, model in models.items():
        if model.adapter is not None and (base := _base(model, models)) is not None:
            chosen = choices(model.settings.adapters) or (AdapterChoice(id=name),)
            variants[name] = Variant(base=base, adapters=chosen)
    for name, its in settings.items():
        if name not in models and its.base is not None and its.enabled:
            variants[name] = Variant(base=its.base, adapters=choices(its.adapters))
    return {name: each for name, each in variants.items() if _is_model(models.get(each.base))}


def _is_model(model: Model | None) -> bool:
    return model is not None and model.adapter is None


def problems(
    variants: Mapping[str, Variant], models: Mapping[str, Model], settings: Mapping[str, ModelSettings]
) -> Iterator[str]:
    """What is wrong with configured variants, and what to do."""
    for name, its in settings.items():
        if its.base is None or name in variants or not its.enabled:
            continue
        if _is_model(models.get(name)):
            yield f"{name} is a model and has a base in its settings, which only adapters and new names have"
        else:
            yield f"{name} has the base {its.base!r} in its settings, and there is no such model"
    for name, variant in variants.items():
        yield from lacks(name, variant, models)


def lacks(name: str, variant: Variant, models: Mapping[str, Model]) -> Iterator[str]:
    """Why a variant of this name cannot be computed."""
    for each in variant.adapters:
        if (adapter := models.get(each.id)) is None:
            yield f"{name} needs the adapter {each.id!r}, and there is none of this id"
        else:
            try:
                check_fits(adapter, models[variant.base])
            except AdapterMismatch as error:
                yield f"{name}: {error.message}"


def content_of(variant: Variant, models: Mapping[str, Model]) -> str | None:
    """The digest of all that a variant is made of, the same whatever its parts are called and in which order
    they are named; None until all files have been read.
    """
    applied = [each for each in variant.adapters if each.scale]
    found = (models.get(id) for id in (variant.base, *(each.id for each in applied)))
    digests = [each.sha256 for each in found if each is not None and each.sha256 is not None]
    if len(digests) <= len(applied):
        return None
    base, *adapters = digests
    return digest_of(base, ((digest, each.scale) for digest, each in zip(adapters, applied, strict=True)))


def digest_of(base: str, adapters: Iterable[tuple[str, float]]) -> str:
    """The digest of a model and adapters by theirs, each of the latter with its scale."""
    scaled = sorted(f"{digest} {scale!r}" for digest, scale in adapters if scale)
    return sha256("\n".join((base, *scaled)).encode()).hexdigest()


def applied(
    model: Model, chosen: Sequence[AdapterChoice], models: Mapping[str, Model]
) -> tuple[tuple[Model, float], ...]:
    """The adapters of a request for a model, each with its scale.

    Raises AdapterNotFound, AdapterMismatch, and InvalidRequest for one that is given twice, or too many.
    """
    ids = [each.id for each in chosen]
    if twice := next((id for id in ids if ids.count(id) > 1), None):
        raise InvalidRequest(
            f"field 'adapters' has {twice!r} twice: send it once, with the scale that it gets"
        )
    if len(ids) > MOST_ADAPTERS:
        raise InvalidRequest(f"{len(ids)} adapters are asked for at once: send at most {MOST_ADAPTERS}")
    return tuple((_adapter(each.id, model, models), each.scale) for each in chosen)


def _adapter(id: str, model: Model, models: Mapping[str, Model]) -> Model:
    adapter = models.get(id)
    if adapter is None:
        fit = fitting_adapters(model, models)
        there = f"those that fit {model.model_id} are {', '.join(fit)}" if fit else "none fits this model"
        raise AdapterNotFound(f"no adapter {id!r}: {there}; `suite models` lists them")
    check_fits(adapter, model)
    return adapter


def fitting_adapters(model: Model, models: Mapping[str, Model]) -> list[str]:
    """The ids of the adapters that can change a model."""
    return [id for id, each in models.items() if each.adapter is not None and not _misfit(each, model)]


def names_of(model: Model, adapters: Mapping[str, Model], variants: Mapping[str, Variant]) -> tuple[str, ...]:
    """Those of the adapters that can change a model, and the names that stand for it with only these."""
    fit = set(fitting_adapters(model, adapters))
    of_model = {name: each for name, each in variants.items() if each.base == model.model_id}
    standing = (name for name, each in of_model.items() if fit.issuperset(one.id for one in each.adapters))
    return tuple(sorted({*fit, *standing}))


def _base(adapter: Model, models: Mapping[str, Model]) -> str | None:
    """The id of the model that an adapter changes where a request names only the adapter; None: not known."""
    if adapter.settings.base is not None:
        return adapter.settings.base
    fit = fitting(adapter, models.values())
    if len(fit) > 1 and adapter.adapter is not None and adapter.adapter.base_name is not None:
        trained_on = adapter.adapter.base_name.casefold()
        fit = [id for id in fit if (models[id].info_name or "").casefold() == trained_on]
    return fit[0] if len(fit) == 1 else None


def _misfit(adapter: Model, model: Model) -> str:
    info = model.info
    if adapter.adapter is None or info is None:
        return "cannot be compared with it"
    return misfit(adapter.adapter, info.architecture, info.block_count, info.matrices)


def _made_for(adapter: Model) -> str:
    name = adapter.adapter.base_name if adapter.adapter is not None else None
    return f", which is {name} as its file says" if name else ""
