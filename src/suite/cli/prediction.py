"""``suite predict``, ``suite preload``, ``suite select``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.exit import REFUSED
from suite.cli.options import Where, client_command, limit_option

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.prediction import PreloadModelsReply


@click.command()
@limit_option(default=3, most=100)
@client_command
def predict(where: Where, limit: int) -> None:
    """Say which models are likely to be used next, the likeliest first.

    \b
    Examples:
      suite predict
      suite preload $(suite predict --limit 1)
      suite predict --json | jq -r '.predicted_models[]'
    """
    from suite.cli.output import json_line, note

    reply = where.run(lambda client: client.predict_models(limit=limit))
    if where.as_json:
        json_line(reply)
        return
    for model_id in reply.predicted_models:
        click.echo(model_id)
    note(f"by the policy {reply.policy}" if reply.predicted_models else "nothing was used lately")


@click.command()
@click.argument("models", nargs=-1, required=True)
@client_command
def preload(where: Where, models: tuple[str, ...]) -> int:
    """Load MODELS before they are needed. Exit code 1 when one of them could not be.

    \b
    Examples:
      suite preload smollm2 gemma-3
      suite preload smollm2 --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> PreloadModelsReply:
        return await client.preload_models(models)

    reply = where.run(work)
    if where.as_json:
        json_line(reply)
    else:
        for model_id, outcome in reply.results.items():
            if outcome.code is None:
                click.echo(outcome.message)
            else:
                click.echo(f"error {outcome.code}: {model_id}: {outcome.message}", err=True)
    return REFUSED if any(outcome.code is not None for outcome in reply.results.values()) else 0


@click.command()
@click.option("--capability", help="What it must be able to do: one of a model's capabilities.")
@client_command
def select(where: Where, capability: str | None) -> None:
    """Choose a model: one that is loaded rather than one that is not, then the most trusted.

    \b
    Examples:
      suite select --capability chat
      suite generate $(suite select) "Once upon a time"
    """
    from suite.cli.output import figure, json_line, note

    reply = where.run(lambda client: client.select_model(capability))
    if where.as_json:
        json_line(reply)
        return
    click.echo(reply.model_id)
    state = "loaded" if reply.loaded else "not loaded"
    trust = f"trust {figure(reply.trust)}" if reply.trust is not None else "nothing known of it"
    after = f"; then {', '.join(reply.others)}" if reply.others else ""
    note(f"{state}, {trust}{after}")
