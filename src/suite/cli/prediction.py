"""``suite predict``, ``suite predictions``, ``suite preload``, ``suite select``."""

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
    from suite.messages.actions.prediction import (
        BetInfo,
        CalibrationInfo,
        ModelPrediction,
        PreloadModelsReply,
    )


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
@limit_option()
@client_command
def predictions(target: Target, limit: int) -> None:
    """Show how likely models are to be used soon, and what became of bets on that.

    A bet is a model that was loaded before anybody asked for it, because it was likely to be used. It is won
    if the model was in memory when it was used. Bets are taken with `enable_predictive_loading`.

    The chances below the models show whether they can be believed: of those that were 30 % on average, about
    30 % should have come true. Brier is the mean squared error. It should be below that of the base rate,
    which is the error of one who always tells the share that came true.

    \b
    Examples:
      suite predictions
      suite predictions --json | jq '.bets.brier'
    """
    from suite.cli.output import json_line, table

    reply = target.run(lambda client: client.get_predictions(limit=limit))
    if target.as_json:
        json_line(reply)
        return
    if not reply.predictions:
        click.echo("no model was used yet: `suite generate` uses a model, `suite record-usage` records a use")
        return
    minutes = f"{reply.horizon_seconds / 60:g} min"
    columns = (f"used within {minutes}>", "won>", "lost>", "saved>", "loaded", "last bet")
    table(["model", *columns], [_row(each) for each in reply.predictions])
    _show_calibration(f"chances of all models, told before {minutes} had passed", reply.chances)
    _show_calibration("chances of bets", reply.bets)


def _row(prediction: ModelPrediction) -> tuple[str, ...]:
    from suite.cli.output import duration

    return (
        prediction.model_id,
        _percent(prediction.chance),
        str(prediction.won),
        str(prediction.lost),
        duration(prediction.saved_seconds * 1000) if prediction.won else "",
        "yes" if prediction.loaded else "",
        "" if prediction.last_bet is None else _told(prediction.last_bet),
    )


def _told(bet: BetInfo) -> str:
    from suite.cli.output import local_time

    outcome = {
        "": "open",
        "used": "won",
        "not_used": "lost: it was not used",
        "left": f"lost: it left before it was used ({bet.detail})",
        "failed": f"lost: it was not loaded ({bet.detail})",
    }[bet.reason]
    return f"{local_time(bet.made_at)} at {_percent(bet.chance)}, {outcome}"


def _show_calibration(title: str, calibration: CalibrationInfo) -> None:
    from suite.cli.output import number, table

    if not calibration.count:
        return
    rows = [
        (_percent(each.predicted), _percent(each.observed), f"{each.count:,}") for each in calibration.curve
    ]
    click.echo()
    table(("told>", "came true>", "how many>"), rows, title=title)
    brier, base = number(calibration.brier), number(calibration.brier_of_base_rate)
    click.echo(f"Brier score {brier}; {base} for one who always tells the share that came true")


def _percent(chance: float) -> str:
    return f"{100 * chance:.1f} %"


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
