"""``suite evaluations``, ``suite log-evaluation``, ``suite retract``, ``suite compare``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from suite.cli.options import (
    Where,
    client_command,
    json_or_text,
    limit_option,
    time_option,
    window_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.messages.actions.evaluation import ModelComparison, ModelEvaluation


@click.command()
@click.option("--model", help="Only of this model.")
@click.option("--cycle", help="Only of this cycle.")
@window_options
@limit_option()
@client_command
def evaluations(
    where: Where, model: str | None, cycle: str | None, since: str | None, until: str | None, limit: int
) -> None:
    """List the evaluations of models, the newest first; retracted ones are not shown.

    \b
    Examples:
      suite evaluations
      suite evaluations --model smollm2 --since 30d --json
    """
    from suite.cli.output import json_line, more

    reply = where.run(
        lambda client: client.get_model_evaluation_scores(
            model_name=model, cycle_id=cycle, since=since, until=until, limit=limit
        )
    )
    if where.as_json:
        json_line(reply)
    elif reply.evaluations:
        _show(reply.evaluations)
        more(reply.next_cursor)
    else:
        click.echo("no evaluations: `suite log-evaluation MODEL CYCLE TRUST` logs one")


def _show(evaluations: Iterable[ModelEvaluation]) -> None:
    from suite.cli.output import duration, figure, local_time, short, table

    rows = [
        (
            local_time(each.evaluation_timestamp),
            each.model_name,
            each.cycle_id,
            figure(each.trust_score),
            figure(each.accuracy),
            figure(each.f1_score),
            duration(each.avg_latency_ms) if each.avg_latency_ms else "",
            each.evaluation_id,
            short(each.comparison_data),
        )
        for each in evaluations
    ]
    table(["time", "model", "cycle", "trust>", "accuracy>", "f1>", "latency>", "id", "data"], rows)


@click.command()
@click.argument("model")
@click.argument("cycle")
@click.argument("trust", type=click.FloatRange(0, 1))
@click.option("--accuracy", type=float)
@click.option("--f1", type=float)
@click.option("--latency-ms", type=click.FloatRange(0), default=0.0, help="Mean latency; 0: not measured.")
@click.option("--data", callback=json_or_text, help="What to keep beside it: JSON, or text.")
@click.option("--id", "evaluation_id", help="Its id: the same one again is stored once.")
@time_option("When it was evaluated; now unless given.")
@client_command
def log_evaluation(
    where: Where,
    model: str,
    cycle: str,
    trust: float,
    accuracy: float | None,
    f1: float | None,
    latency_ms: float,
    data: Any,
    evaluation_id: str | None,
    time: str | None,
) -> None:
    """Log that MODEL was given TRUST, from 0 to 1, in the evaluation cycle CYCLE.

    \b
    Examples:
      suite log-evaluation smollm2 2026-w07 0.8
      suite log-evaluation smollm2 2026-w07 0.8 --accuracy 0.91 --latency-ms 140 --id w07-smollm2 --json
    """
    from suite.cli.output import json_line

    reply = where.run(
        lambda client: client.log_model_evaluation(
            model,
            cycle,
            trust,
            accuracy=accuracy,
            f1_score=f1,
            avg_latency_ms=latency_ms,
            comparison_data=data,
            evaluation_id=evaluation_id,
            evaluation_timestamp=time,
        )
    )
    if where.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (id {reply.evaluation_id}, event {reply.seq})")


@click.command()
@click.argument("evaluation")
@click.option("--reason", help="Why it was wrong.")
@client_command
def retract(where: Where, evaluation: str, reason: str | None) -> None:
    """Take EVALUATION, an id, back: it was wrong and counts no longer.

    \b
    Examples:
      suite retract w07-smollm2 --reason "the answers of another model"
    """
    from suite.cli.output import json_line

    reply = where.run(lambda client: client.retract_model_evaluation(evaluation, reason=reason))
    if where.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (event {reply.seq})")


@click.command()
@click.argument("models", nargs=-1)
@client_command
def compare(where: Where, models: tuple[str, ...]) -> None:
    """Show MODELS side by side in their latest cycles, the most trusted first; without any, all.

    Beside each figure stands what changed since the model's cycle before.

    \b
    Examples:
      suite compare
      suite compare smollm2 gemma-3 --json
    """
    from suite.cli.output import json_line

    reply = where.run(lambda client: client.compare_models(models))
    if where.as_json:
        json_line(reply)
    elif reply.models:
        _show_comparison(reply.models)
    else:
        click.echo("nothing to compare: no model was evaluated, and none has crashed")


_SCORES = ("trust", "trust_score", "accuracy", "f1_score", "avg_latency_ms")


def _show_comparison(models: Iterable[ModelComparison]) -> None:
    from suite.cli.output import table

    rows = []
    for each in models:
        scores = (_score(getattr(each.scores, name), getattr(each.change, name)) for name in _SCORES)
        cycle = each.cycle_id or ""
        before = f"{cycle} (before: {each.previous_cycle_id})" if each.previous_cycle_id else cycle
        rows.append((each.model_name, *scores, str(each.evaluations), str(each.crashes), before))
    columns = ("trust>", "given>", "accuracy>", "f1>", "latency ms>")
    table(["model", *columns, "evaluations>", "crashes>", "cycle"], rows)


def _score(value: float | None, changed: float | None) -> str:
    from suite.cli.output import change, figure

    return figure(value) if changed is None else f"{figure(value)} ({change(changed)})"
