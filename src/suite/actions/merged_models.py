"""What several nodes say about models, as one reply (ADR 58). Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from suite.actions.id_pages import cursor_of
from suite.domain.differences import different_files, different_settings
from suite.messages.actions.status import (
    GenerationInfo,
    GetModelStatusReply,
    GetModelStatusRequest,
    ListModelsReply,
    ListModelsRequest,
    ModelInfo,
    ModelsPage,
    ModelStatus,
)
from suite.projections.reply_size import as_many_as_fit, left_out

GENERATIONS_BYTES: Final = 256 * 1024
"""The most bytes of unfinished generations in a reply, which leaves room for models."""
_MODELS_BYTES: Final = 640 * 1024
"""The most bytes of the models of several nodes in a reply, which leaves room for the rest."""
_MAX_WARNINGS: Final = 100

_STATES: Final[tuple[ModelStatus, ...]] = ("loaded", "unloading", "loading", "unloaded", "invalid")
"""A model is told as it is on the node where it is in the first of these states."""


def merged_list(request: ListModelsRequest, replies: Mapping[str, ListModelsReply]) -> ListModelsReply:
    """One page of the models of all nodes, of the same page of each."""
    pages = [_Page(each.models, each.next_cursor) for each in replies.values()]
    page = _merged_page(request, pages)
    first = next(iter(replies.values()))
    return replace(first, models=page.models, next_cursor=page.next_cursor, warnings=page.differences)


def merged_status(
    request: GetModelStatusRequest, replies: Mapping[str, GetModelStatusReply]
) -> GetModelStatusReply:
    """The status of one model, or one page of the models, of all nodes."""
    first = next(iter(replies.values()))
    if first.model is not None:
        # An alias may stand for another model on another node: that is none of what was asked for.
        own_id = first.model.model_id
        about = {node: each for node, each in replies.items() if _is_about(each, own_id)}
        infos = [each.model for each in about.values() if each.model is not None]
        return _with_rest(about, differences(infos), model=merged_model(infos))
    pages = [_Page(tuple((each.models or {}).values()), each.next_cursor) for each in replies.values()]
    page = _merged_page(request, pages)
    models = {model.model_id: model for model in page.models}
    return _with_rest(replies, page.differences, models=models, next_cursor=page.next_cursor)


def merged_model(infos: Sequence[ModelInfo]) -> ModelInfo:
    """One model as several nodes have it, the node that answers first."""
    shown = min(infos, key=lambda info: _STATES.index(info.status))
    used = [info for info in infos if info.idle_time is not None]
    last = min(used, key=lambda info: info.idle_time or 0.0, default=shown)
    places = [info.place for info in infos if info.place is not None]
    return replace(
        shown,
        aliases=_every(info.aliases for info in infos),
        log_aliases=_every(info.log_aliases for info in infos),
        loaded=any(info.loaded for info in infos),
        pinned=any(info.pinned for info in infos),
        pinned_on=_every(info.pinned_on for info in infos),
        waiting=sum(info.waiting for info in infos),
        place=min(places, default=None),
        last_used=last.last_used,
        idle_time=last.idle_time,
        instances=tuple(chain.from_iterable(info.instances for info in infos)),
        nodes=_every(info.nodes for info in infos),
    )


def differences(infos: Iterable[ModelInfo]) -> tuple[str, ...]:
    """What is not the same on the nodes that have one model."""
    by_node = {node: info for info in infos for node in info.nodes}
    (model_id,) = {info.model_id for info in by_node.values()} or {""}
    found = (
        different_files(model_id, {node: info.sha256 or "" for node, info in by_node.items()}),
        different_settings(model_id, {node: info.settings for node, info in by_node.items()}),
    )
    return tuple(each for each in found if each is not None)


class _Page(msgspec.Struct, frozen=True):
    """One page of the models of one node, or of all."""

    models: tuple[ModelInfo, ...]
    next_cursor: str | None
    differences: tuple[str, ...] = ()

    @property
    def end(self) -> str | None:
        """The last id up to which it is complete; None if it goes up to the last model."""
        return None if self.next_cursor is None else self.models[-1].model_id


def _merged_page(request: ModelsPage, pages: Iterable[_Page]) -> _Page:
    """The models of pages that begin after the same id, as far as all pages go."""
    pages = tuple(pages)
    ends = [page.end for page in pages if page.end is not None]
    end = min(ends, default=None)
    infos: dict[str, list[ModelInfo]] = {}
    for model in chain.from_iterable(page.models for page in pages):
        if end is None or model.model_id <= end:
            infos.setdefault(model.model_id, []).append(model)
    models = as_many_as_fit(
        (merged_model(infos[id]) for id in sorted(infos)),
        limit=request.limit,
        room_bytes=_MODELS_BYTES,
        key=lambda model: model.model_id,
    )
    is_last = end is None and len(models) == len(infos)
    differing = tuple(chain.from_iterable(differences(infos[model.model_id]) for model in models))
    return _Page(
        models,
        None if is_last or not models else cursor_of(models[-1].model_id),
        (*differing[:_MAX_WARNINGS], *left_out(differing, differing[:_MAX_WARNINGS], "more differences")),
    )


def _is_about(reply: GetModelStatusReply, model_id: str) -> bool:
    return reply.model is not None and reply.model.model_id == model_id


def _with_rest(
    replies: Mapping[str, GetModelStatusReply], warnings: tuple[str, ...], **models: Any
) -> GetModelStatusReply:
    """The reply with these models, and the generations and the memories of all nodes."""
    running: list[GenerationInfo] = []
    for each in replies.values():
        running += each.generations
    running.sort(key=lambda each: -each.elapsed_ms)
    generations = as_many_as_fit(running, room_bytes=GENERATIONS_BYTES)
    return replace(
        next(iter(replies.values())),
        generations=generations,
        memories=tuple(chain.from_iterable(each.memories for each in replies.values())),
        warnings=(*warnings, *left_out(running, generations, "unfinished generations")),
        **models,
    )


def _every(tuples: Iterable[tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(chain.from_iterable(tuples)))
