"""list_models and get_model_status."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sized
from contextlib import suppress
from datetime import datetime

import msgspec
from msgspec.structs import replace

from suite.actions.best_effort import best_effort_read
from suite.actions.gathering import gathered
from suite.actions.id_pages import cursor_of, ids_after
from suite.actions.memories import memories
from suite.actions.merged_models import GENERATIONS_BYTES, merged_list, merged_status
from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.catalogue.variants import fitting
from suite.domain.footprint import NOTHING
from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.messages.actions.status import (
    GetModelStatusReply,
    GetModelStatusRequest,
    InstanceInfo,
    KvCacheInfo,
    ListModelsReply,
    ListModelsRequest,
    ModelInfo,
    ModelsPage,
    ModelStatus,
    QuarantineInfo,
    VariantInfo,
)
from suite.messages.events import ModelQuarantined
from suite.messages.times import parse_time, rfc3339
from suite.node.instance import Instance
from suite.node.node import Node
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.usage import last_used

_MIB = 2**20
_SPARE_BYTES = 4096
"""Of a message, for what a reply has beside models and warnings."""
_MAX_WARNINGS = 100
_AT_ONCE_SECONDS = 0.001


@action("list_models", route="each", is_lookup=True)
async def list_models(node: Node, request: ListModelsRequest, call: Call) -> ListModelsReply:
    """List the models of the catalogue; the warnings say which files were left out, and why."""
    reply = await _listed(node, request, call)
    return replace(reply, warnings=(*reply.warnings, *_more(request, reply.next_cursor, call)))


@gathered("list_models", merged_list)
async def _listed(node: Node, request: ListModelsRequest, _: Call) -> ListModelsReply:
    warnings = _warnings(node)
    models, next_cursor = await _page(node, request, other_bytes=len(msgspec.json.encode(warnings)))
    return ListModelsReply(models=models, next_cursor=next_cursor, warnings=warnings)


@action("get_model_status", route="each", is_lookup=True)
async def get_model_status(node: Node, request: GetModelStatusRequest, call: Call) -> GetModelStatusReply:
    """Get the status of one model, or of all by id."""
    reply = await _status_of(node, request, call)
    return replace(reply, warnings=(*reply.warnings, *_more(request, reply.next_cursor, call)))


@gathered("get_model_status", merged_status)
async def _status_of(node: Node, request: GetModelStatusRequest, _: Call) -> GetModelStatusReply:
    if request.model_id is None:
        running = await node.generations.running(None)
        generations = as_many_as_fit(running, room_bytes=GENERATIONS_BYTES)
        other_bytes = len(msgspec.json.encode(generations))
        models, next_cursor = await _page(node, request, other_bytes=other_bytes)
        return GetModelStatusReply(
            models={model.model_id: model for model in models},
            generations=generations,
            memories=memories(node.supervisor),
            eviction=node.learning.eviction,
            next_cursor=next_cursor,
            warnings=_not_told(running, generations),
        )
    model = node.model(request.model_id)
    name = node.catalogue.meant(request.model_id)
    used = await _last_used(node, list(dict.fromkeys((model.model_id, name))))
    running = await node.generations.running(model.model_id)
    generations = as_many_as_fit(running, room_bytes=GENERATIONS_BYTES)
    return GetModelStatusReply(
        model=_described(node, name if _is_variant(node, name) else model.model_id, used),
        generations=generations,
        memories=memories(node.supervisor),
        eviction=node.learning.eviction,
        warnings=_not_told(running, generations),
    )


def _not_told(running: Sized, told: Sized) -> tuple[str, ...]:
    return left_out(running, told, "unfinished generations")


async def _page(
    node: Node, request: ModelsPage, *, other_bytes: int = 0
) -> tuple[tuple[ModelInfo, ...], str | None]:
    """The models of one page, beside `other_bytes` in the reply, and the cursor of the next page or None.

    One page of all models at a time: between two of them, other requests get on.
    """
    if request.active:
        return await _read_page(node, request, other_bytes)
    async with node.listing:
        return await _read_page(node, request, other_bytes)


async def _read_page(
    node: Node, request: ModelsPage, other_bytes: int
) -> tuple[tuple[ModelInfo, ...], str | None]:
    used = await _last_used(node, None)
    models = _active(node) if request.active else {*node.models, *node.catalogue.variants}
    ids = ids_after(sorted(models), request.cursor)
    page = as_many_as_fit(
        (_described(node, id, used) for id in ids),
        limit=request.limit,
        room_bytes=node.connection.max_payload - _SPARE_BYTES - other_bytes,
        key=lambda model: model.model_id,
    )
    return page, cursor_of(page[-1].model_id) if len(page) < len(ids) else None


def _active(node: Node) -> set[str]:
    """The models that have a process, or that requests wait for."""
    supervisor = node.supervisor
    return {id for id in node.models if id in supervisor.instances or supervisor.admission.waiting(id)}


def _more(request: ModelsPage, next_cursor: str | None, call: Call) -> tuple[str, ...]:
    """A word to clients that do not know of pages."""
    if call.is_of_node or next_cursor is None or request.cursor is not None or request.limit is not None:
        return ()
    return ("there are more models than fit into one reply: ask again with next_cursor as cursor",)


def _warnings(node: Node) -> tuple[str, ...]:
    """The catalogue's warnings, as many as leave room for the models."""
    told = (*node.catalogue.problems, *node.catalogue.warnings)
    kept = told[:_MAX_WARNINGS]
    return kept + left_out(told, kept, "more warnings")


async def _last_used(node: Node, model_ids: list[str] | None) -> dict[str, datetime]:
    """When each model was last used; empty while the read model is unavailable, not to fail the rest."""
    with suppress(ReadModelBehind, ReadModelUnavailable):
        async with best_effort_read(node.projections.usage, node.last_seq) as db:
            if db is not None:
                return await last_used(db, model_ids)
    return {}


def _is_variant(node: Node, name: str) -> bool:
    model = node.catalogue.models.get(name)
    return name in node.catalogue.variants or (model is not None and model.adapter is not None)


def _described(node: Node, name: str, used: Mapping[str, datetime]) -> ModelInfo:
    """Describe a model, or a model with adapters, by its id."""
    if _is_variant(node, name):
        return _describe_variant(node, name, used)
    return describe(node, node.models[name], used.get(name))


def _describe_variant(node: Node, name: str, used: Mapping[str, datetime]) -> ModelInfo:
    """Describe a name that stands for a model with adapters, or an adapter whose model is not known."""
    variant, file = node.catalogue.variants.get(name), node.catalogue.models.get(name)
    base = None if variant is None else node.catalogue.models[variant.base]
    shown = base or file
    assert shown is not None, "it stands for a model, or is a file"
    log_aliases, last = node.versions.names_of(name), used.get(name)
    of_model = describe(node, shown, used.get(shown.model_id))
    info = replace(
        of_model,
        model_id=name,
        display_name=name,
        aliases=log_aliases,
        log_aliases=log_aliases,
        version=None if variant is None else node.names.number(name) or None,
        last_used=rfc3339(last) if last else None,
        idle_time=_idle_seconds(node, last, None) if last else None,
        pinned=False,
        pinned_on=(),
        instance=None,
        instances=(),
        estimate=None,
        need_bytes=0,
        need_gpus={},
        estimated_vram_mb=0,
        quarantine=_pause(node.supervisor.quarantine.pause_of_name(name)) or of_model.quarantine,
        variant=VariantInfo(
            base=None if variant is None else variant.base,
            adapters=() if variant is None else variant.adapters,
        ),
    )
    return info if file is None else _with_file(node, info, file)


def _with_file(node: Node, info: ModelInfo, file: Model) -> ModelInfo:
    """What is told of a name that is an adapter's file."""
    adapter, variant = file.adapter, info.variant
    if adapter is None or variant is None:
        return info
    fits = tuple(fitting(file, node.catalogue.models.values()))
    if fits and variant.base is None:  # there are several, which is nothing wrong
        info = replace(info, status="unloaded", error=None)
    return replace(
        info,
        display_name=file.display_name,
        aliases=(*file.settings.aliases, *info.log_aliases),
        model_path=str(file.path),
        file_state=file.file_state,
        file_bytes=adapter.file_bytes,
        sha256=file.sha256,
        architecture=adapter.architecture,
        parameters=None,
        quantization=None,
        source=file.file.entry.source,
        repository=file.file.entry.repository,
        variant=replace(variant, rank=adapter.rank, trained_on=adapter.base_name, fits=fits),
    )


def describe(node: Node, model: Model, used: datetime | None) -> ModelInfo:
    """Describe a model for clients."""
    instance = node.supervisor.instances.get(model.model_id)
    info = model.info
    need = node.supervisor.need_bytes(model) if model.error is None else NOTHING
    place = node.supervisor.admission.place(model.model_id)
    is_pinned = node.supervisor.is_pinned(model.model_id)
    described = _describe_instance(node, instance) if instance else None
    log_aliases = node.versions.names_of(model.model_id)
    configured = (each for each in model.settings.aliases if each not in node.versions.aliases)
    if instance is not None and instance.last_used_at is not None:
        here = parse_time(instance.last_used_at, "last_used")
        used = here if used is None else max(used, here)
    return ModelInfo(
        model_id=model.model_id,
        display_name=model.display_name,
        aliases=(*configured, *log_aliases),
        log_aliases=log_aliases,
        version=node.versions.number(model) or None,
        capabilities=model.capabilities,
        model_path=str(model.path),
        projector=None if model.projector is None else str(model.projector.path),
        file_state="gone" if model.model_id not in node.catalogue.models else model.file_state,
        file_bytes=info.file_bytes if info else model.file.signature.size,
        sha256=model.sha256,
        architecture=info.architecture if info else None,
        parameters=info.parameters if info else None,
        quantization=info.quantization if info else None,
        trained_context_tokens=info.context_tokens if info else None,
        n_ctx=model.context_tokens,
        kv_cache=_kv_cache_info(model),
        draft_model=model.draft.model_id if model.draft else None,
        n_gpu_layers=model.settings.n_gpu_layers,
        n_threads=node.threads(model),
        priority=model.settings.priority,
        idle_timeout_seconds=_idle_timeout(node, model, instance),
        pinned=is_pinned,
        pinned_on=(node.name,) if is_pinned else (),
        waiting=node.supervisor.admission.waiting(model.model_id),
        place=place.place if place is not None else None,
        quarantine=_pause(node.supervisor.quarantine.pause_of(model)) if instance is None else None,
        has_chat_template=model.has_chat_template,
        estimate=model.estimate,
        need_bytes=need.total,
        need_gpus=dict(need.gpus),
        is_measured=node.supervisor.sizes.is_measured(model),
        estimated_vram_mb=-(-model.need_bytes // _MIB),
        loaded=instance is not None and instance.phase == "loaded",
        status=_status(model, instance),
        error=_error(node, model),
        last_used=rfc3339(used) if used else None,
        idle_time=_idle_seconds(node, used, instance) if used else None,
        instance=described,
        instances=() if described is None else (described,),
        nodes=(node.name,),
        settings=model.settings_key,
        source=model.file.entry.source,
        repository=model.file.entry.repository,
        defaults=dict(model.file.entry.parameters),
    )


def _pause(found: ModelQuarantined | None) -> QuarantineInfo | None:
    if found is None:
        return None
    return QuarantineInfo(until=rfc3339(found.until), failures=found.failures, reason=found.reason)


def _idle_timeout(node: Node, model: Model, instance: Instance | None) -> float:
    """The seconds after which it is unloaded if nobody uses it; 0 stands for never, as it always did."""
    own = instance.keep_alive if instance is not None else None
    seconds = node.keep_alive(model) if own is None else own
    if math.isinf(seconds):
        return 0.0
    return max(seconds, _AT_ONCE_SECONDS)


def _error(node: Node, model: Model) -> str | None:
    if model.model_id not in node.catalogue.models:
        return f"{model.file_name} was deleted: the model is unloaded as soon as nothing generates"
    if model.outage is not None:
        return str(model.outage)
    return model.error.message if model.error else node.supervisor.lifecycle.load_errors.get(model.model_id)


def _idle_seconds(node: Node, used: datetime, instance: Instance | None) -> float:
    """Since the last use, by the clocks that there are: other nodes' may differ, and any of them jump."""
    idle = max(0.0, (node.now() - used).total_seconds())
    return idle if instance is None else min(idle, node.clock() - instance.last_used)


def _kv_cache_info(model: Model) -> KvCacheInfo | None:
    """None also for a model without such a cache: an encoder, or one of recurrent layers only."""
    cache, need = model.kv_cache, model.estimate
    if cache is None or need is None or not need.kv_bytes:
        return None
    return KvCacheInfo(form=cache.form, slots=cache.slots, tokens=cache.cache_tokens)


def _status(model: Model, instance: Instance | None) -> ModelStatus:
    if instance is None:
        return "invalid" if model.error else "unloaded"
    if instance.unloading is not None or instance.phase == "ending":
        return "unloading"
    return "loaded" if instance.phase == "loaded" else "loading"


def _describe_instance(node: Node, instance: Instance) -> InstanceInfo:
    resident = node.supervisor.residency.residents.get(instance.model.model_id)
    reserved = resident.reserved_bytes if resident else NOTHING
    return InstanceInfo(
        node=node.name,
        instance_id=instance.instance_id,
        pid=instance.process.pid if instance.process else None,
        sha256=instance.sha256,
        resident_bytes=instance.resident_bytes,
        reserved_bytes=reserved.total,
        gpus=dict(reserved.gpus),
        measured_bytes=instance.memory.resident_bytes,
        file_bytes=instance.memory.file_bytes,
        peak_bytes=instance.peak.total,
        load_progress=instance.progress,
        load_ms=instance.load_ms,
        running=instance.running,
        threads=node.supervisor.cores.threads(instance.seat),
        loaded_at=instance.loaded_at,
        last_used_at=instance.last_used_at,
        idle_ms=0.0 if instance.holds else (node.clock() - instance.last_used) * 1000,
    )
