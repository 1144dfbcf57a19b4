"""``suite models``, ``suite load``, ``suite unload``, ``suite clear``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.options import Target, client_command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.client import Client
    from suite.messages.actions.residency import LoadModelReply
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
        click.echo("no models: put *.gguf files into a directory that `suite serve --models-dir` names")


def show_models(models: Iterable[ModelInfo]) -> None:
    """Print a table of models."""
    from suite.cli.output import size, table

    rows = [
        (
            model.model_id,
            model.status if model.file_state == "present" else model.file_state,
            model.architecture or "",
            f"{model.parameters / 1e6:,.0f} M" if model.parameters else "",
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


def _remark(model: ModelInfo) -> str:
    """The program that a model is from, and its aliases or what is wrong with it."""
    source: str = "" if model.source == "directory" else model.source
    if model.repository is not None and model.repository not in model.model_id:
        source = f"{source} {model.repository}"
    return ", ".join(filter(None, (source, ", ".join(model.aliases) or model.error)))


@click.command()
@click.argument("model")
@click.option("--no-wait", is_flag=True, help="Return as soon as loading has started.")
@client_command
def load(target: Target, model: str, no_wait: bool) -> None:
    """Load MODEL, with a progress bar until it is ready. Returns at once if it is loaded already.

    \b
    Examples:
      suite load smollm2
      suite load smollm2 --no-wait --json
    """
    from suite.cli.output import Bar, duration, json_line, size

    async def work(client: Client) -> LoadModelReply:
        with Bar(f"loading {model}", shown=not target.as_json) as bar:
            return await client.load_model(model, wait=not no_wait, on_progress=bar.advance)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.loaded:
        figures = f"{duration(reply.load_ms)}, {size(reply.resident_bytes)} resident"
        click.echo(f"{reply.message} ({figures})")
    else:
        click.echo(reply.message)


@click.command()
@click.argument("model")
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
    from suite.cli.output import json_line, size

    reply = target.run(lambda client: client.unload_model(model, drain_ms=round(drain * 1000)))
    if target.as_json:
        json_line(reply)
    else:
        freed = f" ({size(reply.freed_bytes)} freed)" if reply.freed_bytes else ""
        click.echo(f"{reply.message}{freed}")


@click.command()
@click.option("--model", help="Only tokens of this model.")
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

    reply = target.run(lambda client: client.clear_kv_cache(model_id=model, conversation_id=conversation))
    if target.as_json:
        json_line(reply)
    else:
        click.echo(reply.message)
