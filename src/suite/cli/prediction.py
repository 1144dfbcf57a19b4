"""``suite predict``, ``suite preload``, ``suite select``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from suite.cli.completion import model_ids
from suite.cli.exit import REFUSED
from suite.cli.model_ids import known_ids
from suite.cli.options import Target, client_command, limit_option
from suite.errors import ModelNotFound

if TYPE_CHECKING:
    from suite.client import Client
    from suite.messages.actions.prediction import PreloadModelsReply


@click.command()
@limit_option(default=3, most=100)
@client_command
def predict(target: Target, limit: int) -> None:
    """Predict which models will be used next, the likeliest first.

    \b
    Examples:
      suite predict
      suite preload $(suite predict --limit 1)
      suite predict --json | jq -r '.predicted_models[]'
    """
    from suite.cli.output import json_line, note

    reply = target.run(lambda client: client.predict_models(limit=limit))
    if target.as_json:
        json_line(reply)
        return
    for model_id in reply.predicted_models:
        click.echo(model_id)
    note(f"by the policy {reply.policy}" if reply.predicted_models else "no model was used recently")


@click.command()
@click.argument("models", shell_complete=model_ids, nargs=-1, required=True)
@client_command
def preload(target: Target, models: tuple[str, ...]) -> int:
    """Load MODELS before they are needed. The exit code is 1 if one of them could not be loaded.

    \b
    Examples:
      suite preload smollm2 gemma-3
      suite preload smollm2 --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> PreloadModelsReply:
        reply = await client.preload_models(models)
        if all(outcome.code != ModelNotFound.code for outcome in reply.results.values()):
            return reply
        meant = await known_ids(client, models)
        return reply if meant == models else await client.preload_models(meant)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        for model_id, outcome in reply.results.items():
            if outcome.code is None:
                click.echo(outcome.message)
            else:
                click.echo(f"error {outcome.code}: {model_id}: {outcome.message}", err=True)
    return REFUSED if any(outcome.code is not None for outcome in reply.results.values()) else 0


@click.command()
@click.option("--capability", help="A capability that it must have, such as chat.  [default: any]")
@client_command
def select(target: Target, capability: str | None) -> None:
    """Choose a model: loaded models come first, then the most trusted.

    \b
    Examples:
      suite select --capability chat
      suite generate $(suite select) "Once upon a time"
    """
    from suite.cli.output import json_line, note, number

    reply = target.run(lambda client: client.select_model(capability))
    if target.as_json:
        json_line(reply)
        return
    click.echo(reply.model_id)
    state = "loaded" if reply.loaded else "not loaded"
    trust = f"trust {number(reply.trust)}" if reply.trust is not None else "trust unknown"
    after = f"; then {', '.join(reply.others)}" if reply.others else ""
    note(f"{state}, {trust}{after}")
