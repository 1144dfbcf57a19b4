"""``suite models``, ``suite load``, ``suite unload``, ``suite pin``, ``suite release``, ``suite clear``."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, TypedDict, TypeVar, Unpack

import click

from suite.cli.completion import model_ids
from suite.cli.invocation import arguments
from suite.cli.model_ids import for_model
from suite.cli.nodes import named, nodes_of, tell_missing
from suite.cli.options import Target, client_command

KeepAlive: TypeAlias = float | Literal["forever", "now"] | None
_LONGEST_SECONDS = 1e9

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from suite.client import Client
    from suite.messages.actions.base import Reply
    from suite.messages.actions.generation import ClearKvCacheReply
    from suite.messages.actions.residency import LoadModelReply, UnloadModelReply
    from suite.messages.actions.status import ModelInfo

    _Reply = TypeVar("_Reply", bound=Reply)


class LoadOptions(TypedDict, total=False):
    """How a model is loaded; see `Client.load_model`."""

    wait: bool
    load_wait_ms: int | None
    keep_alive: KeepAlive


def _keep_alive(_: click.Context, __: click.Parameter, value: str | None) -> KeepAlive:
    """How long a model stays, as the service takes it. Raises BadParameter."""
    match value:
        case None | "forever" | "now":
            return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= _LONGEST_SECONDS:
        raise click.BadParameter(f"{value!r} is no number of seconds, and neither forever nor now")
    return seconds


@click.command()
@client_command
def models(target: Target) -> None:
    """List the models of the service.

    \b
    Examples:
      suite models
      suite models --json | jq -r '.models[] | select(.loaded) | .model_id'
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.list_models())
    if target.as_json:
        json_line(reply)
        return
    tell_missing(reply)
    if reply.models:
        show_models(reply.models)
    else:
        click.echo("no models: put *.gguf files into a directory that `suite serve --models-dir` names,")
        click.echo("or `suite pull` one into it")


def show_models(models: Iterable[ModelInfo]) -> None:
    """Print a table of models."""
    from suite.cli.output import parameters, table
    from suite.units import size

    models = tuple(models)
    is_fleet = len(nodes_of(models)) > 1
    folders = [str(Path(model.model_path).parent) for model in models if model.source == "directory"]
    rows = [
        (
            model.model_id,
            _state(model),
            *([named(model.nodes)] if is_fleet else []),
            model.architecture or "",
            parameters(model.parameters) if model.parameters else "",
            model.quantization or "",
            str(model.n_ctx or ""),
            size(model.file_bytes),
            size(model.estimate.total_bytes) if model.estimate else "",
            _remark(model, folders),
        )
        for model in models
    ]
    nodes = ["nodes"] if is_fleet else []
    columns = ["architecture", "parameters>", "quant", "context>", "file>", "needs>", ""]
    table(["model", "state", *nodes, *columns], rows)


def _state(model: ModelInfo) -> str:
    """The state of the model, and of its file where that is not as it should be."""
    if model.quarantine is not None:
        return "quarantined"
    if model.file_state == "present":
        loaded_on = [each.node for each in model.instances]
        return f"{model.status} on {named(loaded_on)}" if len(model.nodes) > 1 and loaded_on else model.status
    return model.file_state if model.instance is None else f"{model.status}, {model.file_state}"


def _remark(model: ModelInfo, folders: Sequence[str]) -> str:
    """Where a model is from, and what is wrong with it or its aliases."""
    source: str = _folder(model, folders) if model.source == "directory" else model.source
    if model.repository is not None and model.repository not in model.model_id:
        source = f"{source} {model.repository}"
    return ", ".join(filter(None, (source, _stands_for(model), model.error or ", ".join(model.aliases))))


def _stands_for(model: ModelInfo) -> str:
    """What a model with adapters consists of."""
    variant = model.variant
    if variant is None:
        return ""
    if variant.base is None:
        return f"adapter for {' or '.join(variant.fits)}" if variant.fits else ""
    others = [each.id for each in variant.adapters if each.id != model.model_id]
    return f"{variant.base} with {' and '.join(others)}" if others else f"adapter for {variant.base}"


def _folder(model: ModelInfo, folders: Sequence[str]) -> str:
    """The folder of a model's file, below the one that all have in common; nothing if it is that one."""
    common, own = os.path.commonpath(folders), str(Path(model.model_path).parent)
    if own == common:
        return ""
    return own if common == os.sep else f"{os.path.relpath(own, common)}{os.sep}"


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.option("--no-wait", is_flag=True, help="Return as soon as loading has started.")
@click.option(
    "--memory-wait",
    type=click.FloatRange(0, 86_400),
    metavar="SECONDS",
    help="How long to wait until there is memory for it.  [default: as the service is configured]",
)
@click.option(
    "--keep-alive",
    metavar="SECONDS|forever|now",
    callback=_keep_alive,
    help="How long it stays when nobody uses it: seconds, forever or now.  [default: as it is configured]",
)
@client_command
def load(
    target: Target,
    model: str,
    no_wait: bool,
    memory_wait: float | None,
    keep_alive: KeepAlive,
) -> None:
    """Load MODEL, with a progress bar until it is ready. Returns at once if it is loaded already.

    If there is no memory for it now, it waits for its turn.

    \b
    Examples:
      suite load smollm2
      suite load smollm2 --no-wait --json
      suite load smollm2 --keep-alive forever
    """
    wait_ms = None if memory_wait is None else round(memory_wait * 1000)
    reply = loaded(target, model, wait=not no_wait, load_wait_ms=wait_ms, keep_alive=keep_alive)
    _tell(target, reply, load_line(reply))


def loaded(target: Target, model: str, **options: Unpack[LoadOptions]) -> LoadModelReply:
    """Load a model with a progress bar. The load goes on after Ctrl-C, which says so."""
    from suite.cli.output import Bar

    begun: set[str] = set()

    async def work(client: Client, model_id: str) -> LoadModelReply:
        with Bar(f"loading {model_id}", shown=not target.as_json) as bar:

            def advance(fraction: float) -> None:
                begun.add(model_id)
                bar.advance(fraction)

            return await client.load_model(model_id, on_progress=advance, on_waiting=bar.wait, **options)

    try:
        return target.run(lambda client: for_model(client, model, partial(work, client)))
    except KeyboardInterrupt as interrupt:
        for model_id in begun:
            stop = arguments("unload", model_id)
            interrupt.add_note(f"{model_id} is still loading; `suite {stop}` stops it")
        raise


@click.command()
@click.argument("model", shell_complete=model_ids)
@client_command
def pin(target: Target, model: str) -> None:
    """Keep MODEL loaded, also after a restart: it is not unloaded for another model, nor when it is idle.

    Of several nodes the best one keeps it, and another one when that drains or is lost; with --on, that node
    alone. `suite unpin` ends it.

    \b
    Examples:
      suite pin smollm2
      suite pin smollm2 --json
    """
    reply = _asked(target, model, lambda client, id: client.pin_model(id))
    _tell(target, reply, reply.message)


@click.command()
@click.argument("model", shell_complete=model_ids)
@client_command
def unpin(target: Target, model: str) -> None:
    """Stop keeping MODEL loaded, on all nodes. It stays until it is idle or another one needs its memory.

    \b
    Examples:
      suite unpin smollm2
      suite unpin smollm2 --json
    """
    reply = _asked(target, model, lambda client, id: client.unpin_model(id))
    _tell(target, reply, reply.message)


@click.command()
@click.argument("model", shell_complete=model_ids)
@client_command
def release(target: Target, model: str) -> None:
    """End the quarantine of MODEL on all nodes, so that the next request loads it.

    A model that failed twice in a row, at its load or soon after, is left alone for a while, and longer each
    time. So is a name for a model with adapters, if the model crashed while nothing else was computed. A new
    file, or other settings, end that as well. `suite status MODEL` shows until when, and why.

    \b
    Examples:
      suite release smollm2
      suite release smollm2 --json
    """
    reply = _asked(target, model, lambda client, id: client.release_model(id))
    _tell(target, reply, reply.message)


def _asked(target: Target, model: str, ask: Callable[[Client, str], Awaitable[_Reply]]) -> _Reply:
    """The reply to a request about a model."""

    async def work(client: Client) -> _Reply:
        return await for_model(client, model, partial(ask, client))

    return target.run(work)


def _tell(target: Target, reply: Reply, line: str) -> None:
    """Print a reply, or a line about it."""
    from suite.cli.output import json_line
    from suite.messages.actions.base import FleetReply

    if isinstance(reply, FleetReply) and not target.as_json:
        tell_missing(reply)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(line)


def load_line(reply: LoadModelReply) -> str:
    """What a load came to, on one line."""
    from suite.cli.output import duration
    from suite.units import size

    if not reply.loaded:
        return reply.message
    return f"{reply.message} ({duration(reply.load_ms)}, {size(reply.resident_bytes)} resident)"


def unload_line(reply: UnloadModelReply) -> str:
    """What unloading came to, on one line."""
    from suite.units import size

    return f"{reply.message} ({size(reply.freed_bytes)} freed)" if reply.freed_bytes else reply.message


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.option(
    "--drain",
    type=click.FloatRange(0, 600),
    default=30.0,
    show_default=True,
    help="Seconds to wait for running generations to end.",
)
@client_command
def unload(target: Target, model: str, drain: float) -> None:
    """Unload MODEL on all nodes, and return when its memory is freed.

    \b
    Examples:
      suite unload smollm2
      suite unload smollm2 --drain 0
    """
    drain_ms = round(drain * 1000)
    reply = _asked(target, model, lambda client, id: client.unload_model(id, drain_ms=drain_ms))
    _tell(target, reply, unload_line(reply))


@click.command()
@click.argument("only", metavar="[MODEL]", shell_complete=model_ids, required=False)
@click.option("--model", shell_complete=model_ids, help="Only tokens of this model, as MODEL says it.")
@click.option("--conversation", help="Only tokens of this conversation.")
@client_command
def clear(target: Target, only: str | None, model: str | None, conversation: str | None) -> None:
    """Clear the tokens that models keep for reuse: of MODEL, of a conversation, of both together, or all.

    This empties the KV cache and removes snapshots, on all nodes. Running generations go on, and their
    tokens are cleared when they end.

    \b
    Examples:
      suite clear
      suite clear smollm2
      suite clear --model smollm2 --conversation support-42 --json
    """
    if only is not None and model is not None:
        raise click.UsageError("MODEL and --model are both given: use one of them")
    model = only or model

    async def work(client: Client) -> ClearKvCacheReply:
        if model is None:
            return await client.clear_kv_cache(conversation_id=conversation)
        return await for_model(
            client, model, lambda id: client.clear_kv_cache(model_id=id, conversation_id=conversation)
        )

    reply = target.run(work)
    _tell(target, reply, reply.message)
