"""``suite metrics``, ``suite log-metric``, ``suite summary``."""

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

    from suite.messages.actions.evaluation import MetricSummary, PerformanceMetric


@click.command()
@click.option("--agent", help="Only of this agent.")
@click.option("--metric", help="Only of this metric.")
@window_options
@limit_option()
@client_command
def metrics(
    where: Where,
    agent: str | None,
    metric: str | None,
    since: str | None,
    until: str | None,
    limit: int,
) -> None:
    """List the samples of metrics, the newest first.

    \b
    Examples:
      suite metrics
      suite metrics --agent planner --metric latency_ms --since 1h
      suite metrics --limit 1000 --json | jq '.metrics[].value'
    """
    from suite.cli.output import json_line, more

    reply = where.run(
        lambda client: client.get_performance_metrics(
            agent_name=agent, metric_name=metric, since=since, until=until, limit=limit
        )
    )
    if where.as_json:
        json_line(reply)
    elif reply.metrics:
        _show(reply.metrics)
        more(reply.next_cursor)
    else:
        click.echo("no samples: `suite log-metric AGENT METRIC VALUE` logs one")


def _show(samples: Iterable[PerformanceMetric]) -> None:
    from suite.cli.output import figure, local_time, short, table

    rows = [
        (
            local_time(each.timestamp),
            each.agent_name,
            each.metric_name,
            figure(each.value),
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
@click.option("--context", callback=json_or_text, help="What to keep beside it: JSON, or text.")
@click.option("--id", "metric_id", help="Its id: the same one again is stored once.")
@time_option("When it was measured; now unless given.")
@client_command
def log_metric(
    where: Where,
    agent: str,
    metric: str,
    value: float,
    context: Any,
    metric_id: str | None,
    time: str | None,
) -> None:
    """Log that METRIC of AGENT was VALUE.

    \b
    Examples:
      suite log-metric planner latency_ms 12.5
      suite log-metric planner drift -0.2 --context '{"run": 7}' --id run-7 --json
    """
    from suite.cli.output import json_line

    reply = where.run(
        lambda client: client.log_performance_metric(
            agent, metric, value, context=context, metric_id=metric_id, timestamp=time
        )
    )
    if where.as_json:
        json_line(reply)
    else:
        click.echo(f"{reply.message} (id {reply.metric_id}, event {reply.seq})")


@click.command()
@click.argument("metric")
@click.option("--agent", help="Only of this agent.")
@window_options
@client_command
def summary(where: Where, metric: str, agent: str | None, since: str | None, until: str | None) -> None:
    """Show what the samples of METRIC come to: count, mean, extremes and percentiles, of each agent.

    The window is widened to whole minutes.

    \b
    Examples:
      suite summary latency_ms
      suite summary latency_ms --agent planner --since 1d --json
    """
    from suite.cli.output import json_line, note, table

    reply = where.run(lambda client: client.summary(metric, agent_name=agent, since=since, until=until))
    if where.as_json:
        json_line(reply)
    elif reply.total is None:
        click.echo(f"no samples of {metric}: `suite metrics` lists the newest of all")
    else:
        columns = ["agent", *(f"{name}>" for name in ("count", "mean", *_FIGURES))]
        table(columns, [_row(each) for each in (*reply.by_agent, reply.total)])
        note(f"percentiles are within {reply.relative_error:.0%} of a sample")


_FIGURES = ("min", "p50", "p95", "p99", "max")


def _row(each: MetricSummary) -> tuple[str, ...]:
    from suite.cli.output import figure

    figures = (figure(getattr(each, name)) for name in ("mean", *_FIGURES))
    return (each.agent_name or "all", f"{each.count:,}", *figures)
