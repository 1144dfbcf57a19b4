"""``suite status``, ``suite health``, ``suite stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.exit import REFUSED
from suite.cli.model_ids import for_model
from suite.cli.nodes import tell_missing
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from suite.client import Client
    from suite.messages.actions.status import (
        BreakerInfo,
        Confinement,
        EvictionInfo,
        GenerationInfo,
        GetModelStatusReply,
        GetStatsReply,
        HealthCheckReply,
        InstanceInfo,
        KvCacheInfo,
        LogServers,
        MemoryInfo,
        ModelInfo,
        QuarantineInfo,
        VariantInfo,
    )


_MEMORIES = {"ram": "memory"}


@click.command()
@click.argument("model", shell_complete=model_ids, required=False)
@client_command
def status(target: Target, model: str | None) -> None:
    """Show the details of MODEL, or a list of the loaded models, and the generations that are running.

    `suite cancel` ends a generation by its id.

    \b
    Examples:
      suite status
      suite status smollm2 --json
    """
    from suite.cli.output import folded, json_line

    async def work(client: Client) -> GetModelStatusReply:
        return await (
            client.get_model_status() if model is None else for_model(client, model, client.get_model_status)
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
        return
    tell_missing(reply)
    if reply.model is not None:
        _show_one(reply.model)
    else:
        show_instances((reply.models or {}).values())
        _show_waiting((reply.models or {}).values())
        show_memories(reply.memories)
        if reply.eviction is not None:
            where = f" on {reply.node}" if _is_of_several(reply.memories) else ""
            folded(f"who leaves first{where}: {_eviction(reply.eviction)}", indent=4)
        _show_quarantined((reply.models or {}).values())
    if reply.generations:
        click.echo()
        _show_generations(reply.generations)


def show_instances(models: Iterable[ModelInfo]) -> None:
    """Print a table of the loaded models."""
    from suite.cli.output import duration, fraction, table
    from suite.units import size

    rows = []
    for model, instance in _instances(models):
        state = instance_state(model, instance)
        state = f"loading {fraction(instance.load_progress)}" if state == "loading" else state
        state += ", pinned" if model.pinned and instance.node in (model.pinned_on or (instance.node,)) else ""
        rows.append(
            (
                *(
                    model.model_id,
                    state,
                    instance.node,
                    str(instance.pid or ""),
                    size(instance.resident_bytes),
                ),
                *(str(instance.running), duration(instance.idle_ms) if not instance.running else ""),
                duration(instance.load_ms) if instance.load_ms is not None else "",
            )
        )
    if rows:
        table(["model", "state", "node", "pid>", "resident>", "running>", "idle>", "loaded in>"], rows)
    else:
        click.echo("no model is loaded: `suite load MODEL` loads one, and so does the first generation")


def _instances(models: Iterable[ModelInfo]) -> Iterator[tuple[ModelInfo, InstanceInfo]]:
    """The processes of the models on all nodes."""
    for model in models:
        one = () if model.instance is None else (model.instance,)  # all that older nodes tell
        for instance in model.instances or one:
            yield model, instance


def instance_state(model: ModelInfo, instance: InstanceInfo) -> str:
    """The state of a model on one of its nodes."""
    if model.instance is None or instance.instance_id == model.instance.instance_id:
        return model.status
    return "loading" if instance.loaded_at is None else "loaded"


def _is_of_several(things: Iterable[MemoryInfo | GenerationInfo]) -> bool:
    return len({each.node for each in things}) > 1


def _show_waiting(models: Iterable[ModelInfo]) -> None:
    """Print which models wait for memory, in the order of their turns."""
    waiting = [model for model in models if model.place is not None]
    for model in sorted(waiting, key=lambda model: model.place or 0):
        click.echo(f"{model.model_id} {_waits(model)}")


def _eviction(eviction: EvictionInfo) -> str:
    policy = eviction.policy
    if eviction.follows:
        policy += f", which follows {eviction.follows} now"
    return policy + (f" (instead of {eviction.instead_of}, which has failed)" if eviction.instead_of else "")


def _show_quarantined(models: Iterable[ModelInfo]) -> None:
    """Print which models are left alone, because they failed again and again."""
    from suite.cli.output import folded

    for model in models:
        if model.quarantine is not None:
            folded(f"{model.model_id} is quarantined {_pause(model.quarantine)}", indent=4)


def _pause(quarantine: QuarantineInfo) -> str:
    from suite.cli.output import local_time
    from suite.domain.breaker import failed_with

    return f"until {local_time(quarantine.until)}: it {failed_with(quarantine.failures, quarantine.reason)}"


def _waits(model: ModelInfo) -> str:
    from suite.explanation.words import counted

    return f"waits for memory: place {model.place}, for {counted(model.waiting, 'request')}"


def _state(model: ModelInfo) -> str:
    """The state, and what is wrong; a quarantine says that by itself."""
    return model.status if model.error is None or model.quarantine else f"{model.status}: {model.error}"


def show_memories(memories: Iterable[MemoryInfo]) -> None:
    """Print what is used of each memory, by whom."""
    from suite.cli.output import folded

    memories = tuple(memories)
    is_of_several = _is_of_several(memories)
    for memory in memories:
        where = f"{memory.node}, " if is_of_several else ""
        folded(f"{where}{_MEMORIES.get(memory.name, memory.name)}: {_memory(memory)}", indent=4)


def _memory(memory: MemoryInfo) -> str:
    from suite.units import size

    text = f"{size(memory.reserved_bytes)} of {size(memory.limit_bytes)} reserved"
    text += f", {size(memory.measured_bytes)} measured"
    if memory.others_bytes is not None:
        text += f"; others use {size(memory.others_bytes)}"
    if memory.admissible_bytes < memory.limit_bytes:
        text += f" and leave {size(memory.admissible_bytes)}"
    return text


def _kv_cache(cache: KvCacheInfo, context_tokens: int) -> str:
    if cache.slots == 1:
        return f"1 slot of {context_tokens:,} tokens"
    if cache.form == "separate":
        return f"{cache.slots} streams of {context_tokens:,} tokens"
    return f"{cache.slots} slots that share {cache.tokens:,} tokens (unified)"


def _show_one(model: ModelInfo) -> None:
    from suite.cli.output import facts
    from suite.units import size

    lines = [
        ("state", _state(model)),
        ("stands for", _stands_for(model.variant) if model.variant is not None else ""),
        ("waiting", _waits(model) if model.place is not None else ""),
        ("quarantined", _pause(model.quarantine) if model.quarantine is not None else ""),
        ("pinned", _pinned(model)),
        ("file", f"{model.model_path}, {size(model.file_bytes)}"),
        ("sha256", model.sha256 or "not read yet"),
        ("architecture", model.architecture or ""),
        ("parameters", f"{model.parameters:,}" if model.parameters else ""),
        ("quantization", model.quantization or ""),
        ("context", _context(model)),
        *([("KV cache", _kv_cache(model.kv_cache, model.n_ctx))] if model.kv_cache else []),
        ("draft model", model.draft_model or ""),
        ("chat template", "yes" if model.has_chat_template else "no"),
        ("capabilities", ", ".join(model.capabilities)),
        ("aliases", ", ".join(model.aliases)),
    ]
    if model.estimate is not None:
        parts = model.estimate
        lines.append(
            (
                "needs",
                f"{size(parts.total_bytes)}: weights {size(parts.weights_bytes)}, "
                f"cache {size(parts.kv_bytes)}, compute {size(parts.compute_bytes)}",
            )
        )
    if model.is_measured:
        needed = _with_gpus(model.need_bytes, model.need_gpus)
        lines.append(("measured", f"{needed}, which its next load reserves"))
    elif model.need_gpus:
        lines.append(("reserves", _with_gpus(model.need_bytes, model.need_gpus)))
    if len(model.nodes) > 1:
        lines.append(("nodes", ", ".join(model.nodes)))
    for _, instance in _instances([model]):
        lines += [
            ("node", f"{instance.node}, process {instance.pid}"),
            ("resident", _resident(instance)),
            ("running", str(instance.running)),
            ("loaded at", instance.loaded_at or ""),
            ("last used at", instance.last_used_at or ""),
        ]
    facts(model.model_id, [line for line in lines if line[1]])


def _context(model: ModelInfo) -> str:
    """How long texts may be; nothing for a file that cannot be read."""
    if model.trained_context_tokens is None:
        return ""
    return f"{model.n_ctx} tokens of {model.trained_context_tokens} trained"


def _stands_for(variant: VariantInfo) -> str:
    """What a model with adapters consists of, and what is known of an adapter's file."""
    scaled = (each.id if each.scale == 1 else f"{each.id} x {each.scale:g}" for each in variant.adapters)
    parts = [
        f"{variant.base} with {' and '.join(scaled)}" if variant.base else "an adapter",
        f"rank {variant.rank}" if variant.rank else "",
        f"trained on {variant.trained_on}" if variant.trained_on else "",
        f"fits {' and '.join(variant.fits)}" if variant.fits and not variant.base else "",
    ]
    return ", ".join(filter(None, parts))


def _pinned(model: ModelInfo) -> str:
    if not model.pinned:
        return ""
    where = f" on {', '.join(model.pinned_on)}" if len(model.nodes) > 1 else ""
    return f"yes: it stays loaded{where}"


def _resident(instance: InstanceInfo) -> str:
    from suite.units import size

    if not instance.measured_bytes:
        return size(instance.resident_bytes)
    pages = f"{size(instance.file_bytes)} of it pages of files"
    reserved = _with_gpus(instance.reserved_bytes, instance.gpus)
    return f"{size(instance.measured_bytes)}, {pages}; {reserved} reserved"


def _with_gpus(count: int, gpus: Mapping[str, int]) -> str:
    """A number of bytes, with the parts of it on GPUs."""
    from suite.units import size

    on_gpus = ", ".join(f"{size(each)} on {name}" for name, each in gpus.items())
    return f"{size(count)} ({on_gpus})" if on_gpus else size(count)


def _show_generations(generations: Iterable[GenerationInfo]) -> None:
    from suite.cli.output import duration, table

    generations = tuple(generations)
    is_of_several = _is_of_several(generations)
    rows = [
        (
            each.generation_id,
            each.model_id,
            *([each.node] if is_of_several else []),
            each.state,
            duration(each.elapsed_ms),
            "" if each.completion_tokens is None else f"{each.completion_tokens:,}",
            each.conversation_id or "",
            each.client or "",
        )
        for each in generations
    ]
    node = ["node"] if is_of_several else []
    table(["generation", "model", *node, "state", "since>", "tokens>", "conversation", "client"], rows)


@click.command()
@client_command
def health(target: Target) -> int:
    """Check the health of the service. The exit code is 1 if it is degraded.

    \b
    Examples:
      suite health
      suite health --json | jq .status
    """
    from suite.cli.output import duration, folded, json_line

    reply = target.run(lambda client: client.health_check())
    if target.as_json:
        json_line(reply)
        return REFUSED if reply.status == "degraded" else 0
    if len(reply.node_health) > 1 or reply.missing_nodes or reply.stopping:
        _show_nodes(reply)
    else:
        folded(
            f"{reply.status}: node {reply.node}, version {reply.version}, "
            f"up {duration(reply.uptime * 1000)}, "
            f"{reply.models_loaded} of {reply.models_tracked} models loaded",
            indent=4,
        )
    if reply.log_servers is not None and reply.log_servers.leader is not None:
        folded(f"log: {_log_servers(reply.log_servers)}", indent=4)
    for problem in reply.problems:
        folded(f"problem: {problem}", indent=4)
    for breaker in reply.breakers:
        folded(_breaker(breaker), indent=4)
    for node in reply.node_health:
        if node.confinement is not None and node.confinement.off:
            folded(f"processes of models on {node.node}: {_unconfined(node.confinement)}", indent=4)
    if reply.foreign_messages:
        folded(f"skipped: {reply.foreign_messages} foreign messages; {reply.first_foreign_message}", indent=4)
    return REFUSED if reply.status == "degraded" else 0


def _breaker(breaker: BreakerInfo) -> str:
    """What is left alone, and until when."""
    from suite.cli.output import local_time
    from suite.domain.breaker import described, failed_with

    again = f"until {local_time(breaker.until)}" if breaker.until else "until its next use, which is a trial"
    return (
        f"{breaker.node} leaves alone {described(breaker.kind, breaker.name)} {again}: "
        f"it {failed_with(breaker.failures, breaker.reason)}"
    )


def _show_nodes(reply: HealthCheckReply) -> None:
    """Print the health of each node of a fleet."""
    from suite.cli.output import duration, table
    from suite.explanation.words import counted

    count = len(reply.node_health) + len(reply.missing_nodes) + len(reply.stopping)
    click.echo(f"{reply.status}: {counted(count, 'node')}, {counted(reply.models_tracked, 'model')}")
    rows: list[tuple[str, ...]] = [
        (
            each.node,
            each.status + (", draining" if each.node in reply.draining else ""),
            each.version,
            duration(each.uptime * 1000),
            f"{each.models_loaded} of {each.models_tracked}",
        )
        for each in reply.node_health
    ]
    rows += [(name, "does not answer", "", "", "") for name in reply.missing_nodes]
    rows += [(name, "stopping", "", "", "") for name in reply.stopping]
    table(["node", "health", "version", "up>", "models loaded>"], sorted(rows))


def _unconfined(confinement: Confinement) -> str:
    """What is not confined, by why."""
    parts: dict[str, list[str]] = {}
    for part, reason in confinement.off.items():
        parts.setdefault(reason, []).append(part.replace("_", " "))
    return "; ".join(f"{', '.join(each)} not confined, as {reason}" for reason, each in parts.items())


def _log_servers(servers: LogServers) -> str:
    leader, *others = servers.current
    there = ", ".join((f"{leader} (leader)", *others))
    missing = f", not on {', '.join(servers.missing)}" if servers.missing else ""
    loss = "survives" if servers.survives_loss else "would not survive"
    return f"on {there}{missing}; it {loss} the loss of a server now"


@click.command()
@client_command
def stats(target: Target) -> None:
    """Show the nodes' counts since their start, and their memory use.

    \b
    Examples:
      suite stats
      suite stats --json | jq .memory_reserved_bytes
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.get_stats())
    if target.as_json:
        json_line(reply)
        return
    tell_missing(reply)
    if len(reply.node_stats) > 1:
        _show_stats_of_nodes(reply)
    else:
        _show_stats(reply)


def _show_stats_of_nodes(reply: GetStatsReply) -> None:
    """Print the counts of each node of a fleet, and their sums."""
    from suite.cli.output import duration, table
    from suite.messages.actions.status import COUNTS
    from suite.units import size

    rows = [
        (
            each.node,
            duration(each.uptime_ms),
            f"{each.models_loaded} of {each.models_tracked}",
            f"{size(each.memory_reserved_bytes)} of {size(each.memory_limit_bytes)}",
            *(f"{getattr(each, name):,}" for name in COUNTS),
        )
        for each in sorted(reply.node_stats, key=lambda each: each.node)
    ]
    rows.append(
        (
            "all",
            "",
            f"{reply.models_loaded:,}",
            f"{size(reply.memory_reserved_bytes)} of {size(reply.memory_limit_bytes)}",
            *(f"{getattr(reply, name):,}" for name in COUNTS),
        )
    )
    names = [f"{name.replace('_', ' ')}>" for name in COUNTS]
    table(["node", "up>", "models loaded>", "memory reserved>", *names], rows)


def _stats_memory(reply: GetStatsReply) -> list[tuple[str, str]]:
    from suite.units import size

    if reply.memories:
        return [(_MEMORIES.get(each.name, each.name), _memory(each)) for each in reply.memories]
    # A node of an earlier version does not measure.
    return [("memory", f"{size(reply.memory_reserved_bytes)} of {size(reply.memory_limit_bytes)} reserved")]


def _show_stats(reply: GetStatsReply) -> None:
    from suite.cli.output import duration, facts, table
    from suite.messages.actions.status import COUNTS

    rows = [
        ("up", duration(reply.uptime_ms)),
        ("models", f"{reply.models_loaded} of {reply.models_tracked} loaded"),
        *_stats_memory(reply),
        *((name.replace("_", " "), f"{getattr(reply, name):,}") for name in COUNTS),
        ("last event", str(reply.last_seq)),
    ]
    facts(reply.node, rows, numbers=True)
    lags = [
        (
            each.name,
            str(each.seq),
            f"{each.lag_events:,}",
            "rebuilding" if each.rebuilding else each.problem or "",
        )
        for each in reply.projections
    ]
    if lags:
        click.echo()
        table(["read model", "event>", "behind>", ""], lags)
