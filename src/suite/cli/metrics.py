"""``suite metrics``, ``suite log-metric``, ``suite summary``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from suite.cli.options import (
    Target,
    client_command,
    json_or_text,
    limit_option,
    time_option,
    window_options,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from suite.messages.actions.evaluation import MetricSummary, PerformanceMetric


@click.command()
@click.option("--agent", help="Only of this agent.")
@click.option("--metric", help="Only of this metric.")
@window_options
@limit_option()
@client_command
def metrics(
    target: Target,
    agent: str | None,
    metric: str | None,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """List the samples of metrics, newest first.

    \b
    Examples:
      suite metrics
      suite metrics --agent planner --metric latency_ms --since 1h
      suite metrics --limit 1000 --json | jq '.metrics[].value'
    """
    from suite.cli.output import json_line, more

    reply = target.run(
        lambda client: client.get_performance_metrics(
            agent_name=agent, metric_name=metric, since=since, until=until, limit=limit
        )
    )
    if target.as_json:
        json_line(reply)
    elif reply.metrics:
        _show(reply.metrics)
        more(reply.next_cursor)
    else:
        click.echo("no samples: `suite log-metric AGENT METRIC VALUE` logs one")


def _show(samples: Iterable[PerformanceMetric]) -> None:
    from suite.cli.output import exact, local_time, short, table

    rows = [
        (
            local_time(each.timestamp),
            each.agent_name,
            each.metric_name,
            exact(each.value),
            each.metric_id,
            short(each.context),
        )
        for each in samples
    ]
    table(["time", "agent", "metric", "value>", "id", "context"], rows)


@click.command(context_settings={"ignore_unknown_options": True})
@click.argument("agent")
@click.argument("metric")
@click.argument("value", type=float)
@click.option(
    "--context", callback=json_or_text, help="Additional data to store: JSON, or text.  [default: none]"
)
@click.option(
    "--id",
    "metric_id",
    help="Id of the sample; logging the same id again changes nothing.  [default: a new one]",
)
@time_option("When it was measured. Default: now.")
@client_command
def log_metric(
    target: Target,
    agent: str,
    metric: str,
    value: float,
    context: Any,
    metric_id: str | None,
    time: str | None,
) -> None:
    """Log a sample: METRIC of AGENT was VALUE.

    \b
    Examples:
      suite log-metric planner latency_ms 12.5
      suite log-metric planner drift -0.2 --context '{"run": 7}' --id run-7 --json
    """
    from suite.cli.output import json_line

    reply = target.run(
        lambda client: client.log_performance_metric(
            agent, metric, value, context=context, metric_id=metric_id, timestamp=time
        )
    )
    if target.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (id {reply.metric_id}, event {reply.seq})")


@click.command()
@click.argument("metric")
@click.option("--agent", help="Only of this agent.")
@window_options
@client_command
def summary(target: Target, metric: str, agent: str | None, since: str | None, until: str | None) -> None:
    """Summarise the samples of METRIC for each agent: count, mean, minimum, maximum and percentiles.

    The time window is widened to whole minutes.

    \b
    Examples:
      suite summary latency_ms
      suite summary latency_ms --agent planner --since 1d --json
    """
    from suite.cli.output import json_line, note, number, table

    reply = target.run(lambda client: client.summary(metric, agent_name=agent, since=since, until=until))
    if target.as_json:
        json_line(reply)
    elif reply.total is None:
        click.echo(f"no samples of {metric}: `suite metrics` lists the newest samples")
    else:
        columns = ["agent", *(f"{name}>" for name in ("count", "mean", *_FIGURES))]
        table(columns, [_row(each) for each in (*reply.by_agent, reply.total)])
        note(f"percentiles are accurate to {number(reply.relative_error * 100)} %")


_FIGURES = ("min", "p50", "p95", "p99", "max")


def _row(each: MetricSummary) -> tuple[str, ...]:
    from suite.cli.output import exact, number

    percentiles = (number(each.p50), number(each.p95), number(each.p99))
    figures = (number(each.mean), exact(each.min), *percentiles, exact(each.max))
    return (each.agent_name or "all", f"{each.count:,}", *figures)
