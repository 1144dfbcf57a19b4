"""What a name still lacks on a node that has all its files by now: settings, which are not copied. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from suite.catalogue import Catalogue, Model
from suite.catalogue.variants import fitting, lacks


def lacks_of(name: str, last: Model, catalogue: Catalogue, node: str, *, has_draft: bool) -> Iterator[str]:
    """What a name lacks on this node, and what to do.

    `last`: what came last for it. `has_draft`: whether its model has a draft model where it came from.
    """
    models, variant = catalogue.models, catalogue.variants.get(name)
    if variant is not None:
        yield from lacks(name, variant, models)
    elif last.adapter is not None or name != last.model_id:
        yield _stands_for_nothing(name, last, catalogue, node)
    model = last if variant is None else models[variant.base]
    if has_draft and model.draft is None and model.adapter is None:
        if model.settings.draft_model is None:
            yield (
                f"{model.model_id} has no draft model there, as settings are not copied: set draft_model in "
                f'models."{model.model_id}" of {node}'
            )
        else:
            yield model.draft_lack  # empty if its settings switch it off


def _stands_for_nothing(name: str, last: Model, catalogue: Catalogue, node: str) -> str:
    """Why a name stands for no model with adapters."""
    if name != last.model_id:
        return (
            f"{name} is no name there, as settings are not copied: set base and adapters in "
            f'models."{name}" of {node}'
        )
    if fit := fitting(last, catalogue.models.values()):
        return f'{name} fits {" and ".join(fit)} there: set base in models."{name}" of {node}'
    return f"{name} fits no model there: push one that it was made for"
