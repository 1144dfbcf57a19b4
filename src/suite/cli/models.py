"""``suite models``, ``suite load``, ``suite unload``, ``suite clear``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.model_ids import for_model
from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.client import Client
    from suite.messages.actions.generation import ClearKvCacheReply
    from suite.messages.actions.residency import LoadModelReply, UnloadModelReply
    from suite.messages.actions.status import ModelInfo


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
    elif reply.models:
        show_models(reply.models)
    else:
        click.echo("no models: put *.gguf files into a directory that `suite serve --models-dir` names,")
        click.echo("or `suite pull` one into it")


def show_models(models: Iterable[ModelInfo]) -> None:
    """Print a table of models."""
    from suite.cli.output import parameters, table
    from suite.units import size

    rows = [
        (
            model.model_id,
            _state(model),
            model.architecture or "",
            parameters(model.parameters) if model.parameters else "",
            model.quantization or "",
            str(model.n_ctx),
            size(model.file_bytes),
            size(model.estimate.total_bytes) if model.estimate else "",
            _remark(model),
        )
        for model in models
    ]
    columns = ["model", "state", "architecture", "parameters>", "quant", "context>", "file>", "needs>", ""]
    table(columns, rows)


def _state(model: ModelInfo) -> str:
    """The state of the model, and of its file where that is not as it should be."""
    if model.file_state == "present":
        return model.status
    return model.file_state if model.instance is None else f"{model.status}, {model.file_state}"


def _remark(model: ModelInfo) -> str:
    """The program that a model is from, and what is wrong with it or its aliases."""
    source: str = "" if model.source == "directory" else model.source
    if model.repository is not None and model.repository not in model.model_id:
        source = f"{source} {model.repository}"
    return ", ".join(filter(None, (source, model.error or ", ".join(model.aliases))))


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.option("--no-wait", is_flag=True, help="Return as soon as loading has started.")
@client_command
def load(target: Target, model: str, no_wait: bool) -> None:
    """Load MODEL, with a progress bar until it is ready. Returns at once if it is loaded already.

    \b
    Examples:
      suite load smollm2
      suite load smollm2 --no-wait --json
    """
    from suite.cli.output import Bar, duration, json_line
    from suite.units import size

    async def work(client: Client) -> LoadModelReply:
        with Bar(f"loading {model}", shown=not target.as_json) as bar:
            return await for_model(
                client, model, lambda id: client.load_model(id, wait=not no_wait, on_progress=bar.advance)
            )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.loaded:
        figures = f"{duration(reply.load_ms)}, {size(reply.resident_bytes)} resident"
        click.echo(f"{reply.message} ({figures})")
    else:
        click.echo(reply.message)


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
    """Unload MODEL and return when its memory is freed.

    \b
    Examples:
      suite unload smollm2
      suite unload smollm2 --drain 0
    """
    from suite.cli.output import json_line
    from suite.units import size

    async def work(client: Client) -> UnloadModelReply:
        return await for_model(
            client, model, lambda id: client.unload_model(id, drain_ms=round(drain * 1000))
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        freed = f" ({size(reply.freed_bytes)} freed)" if reply.freed_bytes else ""
        click.echo(f"{reply.message}{freed}")


@click.command()
@click.option("--model", shell_complete=model_ids, help="Only tokens of this model.")
@click.option("--conversation", help="Only tokens of this conversation.")
@client_command
def clear(target: Target, model: str | None, conversation: str | None) -> None:
    """Clear the tokens that models keep for reuse: of a model, of a conversation, of both together, or all.

    This empties the KV cache and removes snapshots. Running generations go on, and their tokens are cleared
    when they end.

    \b
    Examples:
      suite clear
      suite clear --model smollm2 --conversation support-42 --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> ClearKvCacheReply:
        if model is None:
            return await client.clear_kv_cache(conversation_id=conversation)
        return await for_model(
            client, model, lambda id: client.clear_kv_cache(model_id=id, conversation_id=conversation)
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(reply.message)
