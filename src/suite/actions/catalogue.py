"""list_models and get_model_status."""

from __future__ import annotations

from suite.actors.instance import Instance
from suite.actors.node import Node
from suite.bus.service import Call, action
from suite.catalogue import Model
from suite.messages.actions import (
    GetModelStatusReply,
    GetModelStatusRequest,
    InstanceInfo,
    ListModelsReply,
    ListModelsRequest,
    ModelInfo,
    ModelState,
)


@action("list_models")
async def list_models(node: Node, _: ListModelsRequest, __: Call) -> ListModelsReply:
    """Every model of the catalogue; the warnings say which files were left out, and why."""
    models = tuple(describe(node, model) for model in node.catalogue.models.values())
    return ListModelsReply(models=models, warnings=node.catalogue.warnings)


@action("get_model_status")
async def get_model_status(node: Node, request: GetModelStatusRequest, _: Call) -> GetModelStatusReply:
    """One model, or all by id."""
    if request.model_id is None:
        models = {model.model_id: describe(node, model) for model in node.catalogue.models.values()}
        return GetModelStatusReply(models=models)
    return GetModelStatusReply(model=describe(node, node.catalogue.resolve(request.model_id)))


def describe(node: Node, model: Model) -> ModelInfo:
    """A model as clients see it."""
    instance = node.supervisor.instances.get(model.model_id)
    info = model.info
    return ModelInfo(
        model_id=model.model_id,
        display_name=model.display_name,
        aliases=model.settings.aliases,
        capabilities=model.capabilities,
        file_name=model.file_name,
        file_bytes=info.file_bytes if info else 0,
        sha256=model.sha256,
        architecture=info.architecture if info else None,
        parameters=info.parameters if info else None,
        quantization=info.quantization if info else None,
        trained_context_tokens=info.context_tokens if info else None,
        context_tokens=model.context_tokens,
        gpu_layers=model.settings.n_gpu_layers,
        threads=node.threads(model),
        idle_timeout_seconds=node.idle_timeout(model),
        has_chat_template=bool(info and info.chat_template),
        estimate=model.estimate,
        loaded=instance is not None and instance.phase == "loaded",
        state=_state(model, instance),
        error=model.error.message if model.error else node.supervisor.load_errors.get(model.model_id),
        instance=_describe_instance(node, instance) if instance else None,
    )


def _state(model: Model, instance: Instance | None) -> ModelState:
    if instance is None:
        return "invalid" if model.error else "unloaded"
    if instance.unloading is not None or instance.phase == "ending":
        return "unloading"
    return "loaded" if instance.phase == "loaded" else "loading"


def _describe_instance(node: Node, instance: Instance) -> InstanceInfo:
    resident = node.supervisor.residency.residents.get(instance.model.model_id)
    return InstanceInfo(
        node=node.name,
        instance_id=instance.instance_id,
        pid=instance.process.pid if instance.process else None,
        resident_bytes=instance.resident_bytes,
        reserved_bytes=resident.reserved_bytes if resident else 0,
        load_progress=instance.progress,
        load_ms=instance.load_ms,
        running=instance.running,
        loaded_at=instance.loaded_at,
        last_used_at=instance.last_used_at,
        idle_ms=0.0 if instance.holds else (node.clock() - instance.last_used) * 1000,
    )
