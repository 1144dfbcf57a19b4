"""``suite models``, ``suite load``, ``suite unload``, ``suite clear``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.options import Where, client_command

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.client import Client
    from suite.messages.actions.residency import LoadModelReply
    from suite.messages.actions.status import ModelInfo


@click.command()
@client_command
def models(where: Where) -> None:
    """List the models of the service.

    \b
    Examples:
      suite models
      suite models --json | jq -r '.models[] | select(.loaded) | .model_id'
    """
    from suite.cli.output import json_line

    reply = where.run(lambda client: client.list_models())
    if where.as_json:
        json_line(reply)
    elif reply.models:
        show_models(reply.models)
    else:
        click.echo("no models: put *.gguf files into a directory that `suite serve --models-dir` names")


def show_models(models: Iterable[ModelInfo]) -> None:
    """The table of models."""
    from suite.cli.output import size, table

    rows = [
        (
            model.model_id,
            model.status,
            model.architecture or "",
            f"{model.parameters / 1e6:,.0f} M" if model.parameters else "",
            model.quantization or "",
            str(model.n_ctx),
            size(model.file_bytes),
            size(model.estimate.total_bytes) if model.estimate else "",
            ", ".join(model.aliases) or model.error or "",
        )
        for model in models
    ]
    columns = ["model", "state", "architecture", "parameters>", "quant", "context>", "file>", "needs>", ""]
    table(columns, rows)


@click.command()
@click.argument("model")
@click.option("--no-wait", is_flag=True, help="Return when the load has begun.")
@client_command
def load(where: Where, model: str, no_wait: bool) -> None:
    """Load MODEL, with a bar until it is ready. A model that is loaded already is done at once.

    \b
    Examples:
      suite load smollm2
      suite load smollm2 --no-wait --json
    """
    from suite.cli.output import Bar, duration, json_line, size

    async def work(client: Client) -> LoadModelReply:
        with Bar(f"loading {model}", shown=not where.as_json) as bar:
            return await client.load_model(model, wait=not no_wait, on_progress=bar.advance)

    reply = where.run(work)
    if where.as_json:
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
    help="Seconds that running generations may go on.",
)
@client_command
def unload(where: Where, model: str, drain: float) -> None:
    """Unload MODEL and return when its memory is back with the system.

    \b
    Examples:
      suite unload smollm2
      suite unload smollm2 --drain 0
    """
    from suite.cli.output import json_line, size

    reply = where.run(lambda client: client.unload_model(model, drain_ms=round(drain * 1000)))
    if where.as_json:
        json_line(reply)
    else:
        freed = f" ({size(reply.freed_bytes)} freed)" if reply.freed_bytes else ""
        click.echo(f"{reply.message}{freed}")


@click.command()
@click.option("--model", help="Only what this model keeps.")
@click.option("--conversation", help="Only what is kept of this conversation.")
@client_command
def clear(where: Where, model: str | None, conversation: str | None) -> None:
    """Forget the tokens that loaded models keep for reuse: of a model, a conversation, both together, or all.

    A conversation that generates goes on, and is forgotten when that ends.

    \b
    Examples:
      suite clear
      suite clear --model smollm2 --conversation support-42 --json
    """
    from suite.cli.output import json_line

    reply = where.run(lambda client: client.clear_kv_cache(model_id=model, conversation_id=conversation))
    if where.as_json:
        json_line(reply)
    else:
        click.echo(reply.message)
