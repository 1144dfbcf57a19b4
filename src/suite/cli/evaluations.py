"""``suite evaluations``, ``suite log-evaluation``, ``suite retract``, ``suite compare``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import click

from suite.cli.completion import model_ids
from suite.cli.model_ids import about_model, meant
from suite.cli.options import (
    Target,
    client_command,
    json_or_text,
    limit_option,
    time_option,
    window_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from suite.client import Client
    from suite.messages.actions.evaluation import (
        CompareModelsReply,
        GetModelEvaluationScoresReply,
        LogModelEvaluationReply,
        ModelComparison,
        ModelEvaluation,
    )


@click.command()
@click.option("--model", shell_complete=model_ids, help="Only of this model.")
@click.option("--cycle", help="Only of this cycle.")
@window_options
@limit_option()
@client_command
def evaluations(
    target: Target, model: str | None, cycle: str | None, since: str | None, until: str | None, limit: int
) -> None:
    """List the evaluations of models, newest first, without retracted ones.

    \b
    Examples:
      suite evaluations
      suite evaluations --model smollm2 --since 30d --json
    """
    from suite.cli.output import json_line, more

    async def work(client: Client) -> GetModelEvaluationScoresReply:
        ask = partial(
            client.get_model_evaluation_scores, cycle_id=cycle, since=since, until=until, limit=limit
        )
        return await about_model(
            client, model, lambda id: ask(model_name=id), is_empty=lambda reply: not reply.evaluations
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.evaluations:
        _show(reply.evaluations)
        more(reply.next_cursor)
    else:
        click.echo("no evaluations: `suite log-evaluation MODEL CYCLE TRUST` logs one")


def _show(evaluations: Iterable[ModelEvaluation]) -> None:
    from suite.cli.output import exact, local_time, short, table

    rows = [
        (
            local_time(each.evaluation_timestamp),
            each.model_name,
            each.cycle_id,
            exact(each.trust_score),
            exact(each.accuracy),
            exact(each.f1_score),
            exact(each.avg_latency_ms) if each.avg_latency_ms else "",
            each.evaluation_id,
            short(each.comparison_data),
        )
        for each in evaluations
    ]
    table(["time", "model", "cycle", "trust>", "accuracy>", "f1>", "latency ms>", "id", "data"], rows)


@click.command()
@click.argument("model", shell_complete=model_ids)
@click.argument("cycle")
@click.argument("trust", type=click.FloatRange(0, 1))
@click.option("--accuracy", type=float, help="0 to 1.  [default: not measured]")
@click.option("--f1", type=float, help="F1 score, 0 to 1.  [default: not measured]")
@click.option(
    "--latency-ms",
    type=click.FloatRange(0),
    default=0.0,
    show_default=True,
    help="Mean latency; 0: not measured.",
)
@click.option(
    "--data", callback=json_or_text, help="Additional data to store: JSON, or text.  [default: none]"
)
@click.option(
    "--id",
    "evaluation_id",
    help="Id of the evaluation; logging the same id again changes nothing.  [default: a new one]",
)
@click.option(
    "--version",
    type=click.IntRange(1),
    help="Which version of the model was evaluated.  [default: the one that it is at]",
)
@time_option("When it was evaluated. Default: now.")
@client_command
def log_evaluation(
    target: Target,
    model: str,
    cycle: str,
    trust: float,
    accuracy: float | None,
    f1: float | None,
    latency_ms: float,
    data: Any,
    evaluation_id: str | None,
    version: int | None,
    time: str | None,
) -> None:
    """Log an evaluation of MODEL in the cycle CYCLE, with the trust score TRUST from 0 to 1.

    \b
    Examples:
      suite log-evaluation SmolLM2-135M-Instruct.Q4_1 2026-w07 0.8
      suite log-evaluation gemma-3-270m-it-Q4_K_M 2026-w07 0.8 --accuracy 0.91 --id w07-gemma --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> LogModelEvaluationReply:
        return await client.log_model_evaluation(
            await meant(client, model),
            cycle,
            trust,
            accuracy=accuracy,
            f1_score=f1,
            avg_latency_ms=latency_ms,
            comparison_data=data,
            evaluation_id=evaluation_id,
            evaluation_timestamp=time,
            version=version,
        )

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (id {reply.evaluation_id}, event {reply.seq})")


@click.command()
@click.argument("evaluation")
@click.option("--reason", help="Why it was wrong.  [default: none]")
@client_command
def retract(target: Target, evaluation: str, reason: str | None) -> None:
    """Retract the evaluation with the id EVALUATION: it was wrong and no longer counts.

    \b
    Examples:
      suite retract w07-gemma --reason "the answers of another model"
    """
    from suite.cli.output import json_line

    reply = target.run(lambda client: client.retract_model_evaluation(evaluation, reason=reason))
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (event {reply.seq})")


@click.command()
@click.argument("models", shell_complete=model_ids, nargs=-1)
@client_command
def compare(target: Target, models: tuple[str, ...]) -> None:
    """Compare MODELS, or all models, by their latest cycles, the most trusted first.

    Each number is followed by its change since the model's previous cycle.

    \b
    Examples:
      suite compare
      suite compare smollm2 gemma-3 --json
    """
    from suite.cli.output import json_line

    async def work(client: Client) -> CompareModelsReply:
        reply = await client.compare_models(models)
        unknown = {each.model_name for each in reply.models if not (each.evaluations or each.crashes)}
        ids = tuple([await meant(client, name) if name in unknown else name for name in models])
        return reply if ids == models else await client.compare_models(ids)

    reply = target.run(work)
    if target.as_json:
        json_line(reply)
    elif reply.models:
        _show_comparison(reply.models)
    else:
        click.echo("nothing to compare: no model was evaluated, and none has crashed")


_SCORES = ("trust", "trust_score", "accuracy", "f1_score", "avg_latency_ms")


def _show_comparison(models: Sequence[ModelComparison]) -> None:
    from suite.cli.output import table

    rows = []
    for each in models:
        scores = (_score(getattr(each.scores, name), getattr(each.change, name)) for name in _SCORES)
        cycle = each.cycle_id or ""
        before = f"{cycle} (before: {each.previous_cycle_id})" if each.previous_cycle_id else cycle
        rows.append((each.model_name, *scores, str(each.evaluations), str(each.crashes), before))
    columns = ("trust>", "given>", "accuracy>", "f1>", "latency ms>")
    table(["model", *columns, "evaluations>", "crashes>", "cycle"], rows)
    _show_benchmarks(models)


def _show_benchmarks(models: Iterable[ModelComparison]) -> None:
    """The last benchmark of each model that has one, with its fewest streams beside each other."""
    from suite.cli.bench import interval, percent
    from suite.cli.output import table

    rows = []
    for each in models:
        if (result := each.benchmark) is None:
            continue
        speed = min(result.speed, key=lambda one: one.streams, default=None)
        rows.append(
            (
                each.model_name,
                each.benchmark_node or "",
                percent(result.quality.accuracy) if result.quality is not None else "",
                interval(speed.first_token_ms) if speed is not None else "",
                interval(speed.tokens_per_second) if speed is not None else "",
            )
        )
    if rows:
        columns = ["model", "node", "accuracy>", "first token ms>", "decode tokens/s>"]
        table(columns, rows, title="last benchmarks, with 95 % confidence intervals")


def _score(value: float | None, changed: float | None) -> str:
    from suite.cli.output import change, number

    return number(value) if changed is None else f"{number(value)} ({change(changed)})"
