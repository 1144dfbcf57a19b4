"""``suite replay``."""

from __future__ import annotations

import math
import sys
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from suite.cli.exit import REFUSED
from suite.cli.options import Target, fleet_command
from suite.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite.client import Client
    from suite.messages.envelope import Recorded
    from suite.prediction.eviction.policy import Candidate
    from suite.prediction.replay.history import History
    from suite.prediction.replay.outcome import Outcome
    from suite.prediction.replay.recommendation import Recommendation
    from suite.prediction.replay.run import Budget

UNLIMITED: Final = "unlimited"
MOST: Final = 32
"""Budgets, or times to live, at once."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed with --json."""

    requests: int
    models: int
    hours: float
    instant: bool
    remarks: tuple[str, ...]
    outcomes: tuple[dict[str, object], ...]
    recommendation: Recommendation | None


def _list(_: click.Context, __: click.Parameter, value: str) -> tuple[str, ...]:
    parts = tuple(dict.fromkeys(part.strip() for part in value.split(",") if part.strip()))
    if len(parts) > MOST:
        raise click.BadParameter(f"{len(parts):,} values: at most {MOST} can be compared at once")
    return parts


@click.command()
@click.argument("history", required=False, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--policy",
    "policies",
    callback=_list,
    default="best_lately",
    show_default=True,
    help="Policies, with commas: their names, all, or module:Class for one of your own.",
)
@click.option(
    "--memory",
    callback=_list,
    default="",
    help="Budgets in GB, with commas; unlimited compares how long models stay.  [default: see --resident]",
)
@click.option(
    "--resident",
    callback=_list,
    default="",
    help="Budgets as numbers of models of the mean size, with commas.  [default: 2,4,8]",
)
@click.option(
    "--keep-alive",
    callback=_list,
    default="300,600,3600",
    show_default=True,
    help="How long models stay after a use, in seconds, with commas: plain times to live to compare with.",
)
@click.option(
    "--bets", is_flag=True, help="Also load models before they are asked for, by the default policy."
)
@click.option(
    "--held/--instant",
    "held",
    default=None,
    help="Whether a request uses its model for as long as it took, so that others wait for memory in turns, "
    "or for a moment only, as in the literature on caches.  [default: held for the log, instant for a file]",
)
@click.option("--model-gb", type=click.FloatRange(0, 1e6, min_open=True), default=6.0, show_default=True,
              help="Memory of a model of which the history does not tell it.")  # fmt: skip
@click.option("--load-seconds", type=click.FloatRange(0, 1e6), default=22.7, show_default=True,
              help="Load time of a model of which the history does not tell it.")  # fmt: skip
@click.option("--node", help="Only what this node did, of the log.  [default: all]")
@click.option(
    "--html",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Also write a page with plots.  [default: none]",
)
@click.option("--recommend", is_flag=True, help="Say what would have served this history best.")
@click.option(
    "--check",
    is_flag=True,
    help="Compare nothing: make the decisions of the log again, and say whether each comes out as it stands "
    "there. The exit code is 1 if one does not.",
)
@fleet_command
def replay(
    target: Target,
    history: Path | None,
    policies: tuple[str, ...],
    memory: tuple[str, ...],
    resident: tuple[str, ...],
    keep_alive: tuple[str, ...],
    bets: bool,
    held: bool | None,
    model_gb: float,
    load_seconds: float,
    node: str | None,
    html: Path | None,
    recommend: bool,
    check: bool,
) -> int:
    """Replay a history of requests in virtual time, and compare who would have been in memory when.

    HISTORY is a CSV file with the columns timestamp_s, model_id, group_id and duration_s; without it, the
    log of the service is replayed. With each budget, LRU, plain times to live and Belady's rule are beside;
    unlimited memory compares times to live alone. Belady's rule knows the future: with --instant and models
    of equal size, nobody has fewer cold starts.

    \b
    Examples:
      suite replay
      suite replay --policy all --memory 24,48 --recommend
      suite replay requests.csv --resident 2,4,8 --html replay.html
      suite replay requests.csv --held --memory 24 --bets
      suite replay requests.csv --memory unlimited --keep-alive 120,600
      suite replay requests.csv --policy my_policies:Mine --json
      suite replay --check
    """
    from suite.cli.output import Bar, json_line
    from suite.prediction.eviction.policy import Candidate
    from suite.prediction.replay.contest import Contest
    from suite.prediction.replay.history import GIGABYTE, read_csv

    if check:
        if history is not None:
            raise click.UsageError("--check is about the decisions in the log: leave HISTORY out")
        return _check(target, node)
    if any(":" in name for name in policies):
        _add_own_policies()
    instant = history is not None if held is None else not held
    ttls = [_positive(each, "--keep-alive") for each in keep_alive]
    default = Candidate(model_id="", bytes=math.ceil(model_gb * GIGABYTE), reload_seconds=load_seconds)
    if history is not None:
        past = read_csv(history, default=default)
    else:
        past = target.run(lambda client: _log_history(client, node, default))
    budgets = _budgets(memory, resident, past)
    contest = Contest(policies, budgets, ttls=ttls, with_bets=bets, instant=instant)
    with Bar("replaying", shown=not target.as_json) as bar:
        outcomes = contest.outcomes(past, progress=bar.advance)
        advice = contest.recommendation(past, outcomes, progress=bar.advance) if recommend else None
    report = Report(
        requests=len(past.requests),
        models=len(past.candidates),
        hours=past.hours,
        instant=instant,
        remarks=(*past.remarks, *contest.remarks),
        outcomes=tuple(_figures(each) for each in outcomes),
        recommendation=advice,
    )
    if target.as_json:
        json_line(report)
    else:
        _show(report, outcomes)
    if html is not None:
        _write_page(html, f"Replay of {history.name if history else 'the log'}", report, outcomes)
    return 0


def _check(target: Target, node: str | None) -> int:
    """Make the decisions of the log again. Returns the exit code."""
    from suite.cli.output import json_line
    from suite.prediction.replay.check import check, nodes_of, sentences

    _add_own_policies()  # of some node, one may have decided
    events = target.run(_decided_from)
    nodes = nodes_of(events)
    if node is not None and node not in nodes:
        raise InvalidRequest(f"the log has no loads of the node {node}; it has those of: {', '.join(nodes)}")
    checked = [check(events, each) for each in ([node] if node is not None else nodes)]
    if target.as_json:
        json_line({"nodes": checked})
    else:
        for line in (line for each in checked for line in sentences(each)):
            click.echo(line)
        if not checked:
            click.echo("the log has no loads: there is nothing to check")
    return REFUSED if any(each.difference is not None for each in checked) else 0


async def _decided_from(client: Client) -> list[Recorded]:
    """All events of the log that decisions about memory are in, or are made from."""
    events = [event for filter in ("instance", "usage") async for event in client.events(filter)]
    return sorted(events, key=attrgetter("seq"))


def _add_own_policies() -> None:
    """Have policies of somebody's own found in the working directory."""
    sys.path.insert(0, str(Path.cwd()))


async def _log_history(client: Client, node: str | None, default: Candidate) -> History:
    """What in the log tells of uses and of what loads cost."""
    from suite.prediction.replay.history import LogHistory

    reading = LogHistory(node=node, default=default)
    for events in ("node.started", "instance.loaded", "usage"):
        async for event in client.events(events):
            reading.fold(event)
    return reading.history()


def _budgets(memory: Sequence[str], resident: Sequence[str], history: History) -> list[Budget]:
    sizes = [candidate.footprint.ram for candidate in history.candidates.values()]
    mean = sum(sizes) / len(sizes)
    counts = resident or (() if memory else ("2", "4", "8"))
    budgets: list[Budget] = [math.ceil(_positive(count, "--resident") * mean) for count in counts]
    budgets += [None if each == UNLIMITED else round(_positive(each, "--memory") * 1e9) for each in memory]
    return budgets


def _positive(value: str, option: str) -> float:
    try:
        number = float(value)
    except ValueError:
        number = 0.0
    if not 0 < number < 1e9:
        raise click.BadParameter(f"{value!r} is not a number above 0", param_hint=option)
    return number


def _figures(outcome: Outcome) -> dict[str, object]:
    """All of an outcome, with what follows from it."""
    return {
        "name": outcome.name,
        **msgspec.structs.asdict(outcome),
        "cold_percent": outcome.cold_percent,
    }


def _notes(report: Report) -> list[str]:
    """What a person should know to read the figures."""
    from suite.explanation.words import counted

    models = counted(report.models, "model")
    how = (
        "a request uses its model for a moment, so nobody waits for memory: see --held"
        if report.instant
        else "a request uses its model for as long as it took, and waits for memory in turns"
    )
    return [
        f"{counted(report.requests, 'request')} for {models} in {report.hours:,.1f} hours; {how}",
        *report.remarks,
    ]


def _show(report: Report, outcomes: Sequence[Outcome]) -> None:
    from suite.cli.output import table
    from suite.prediction.replay.page import budget, cells, columns
    from suite.prediction.replay.recommendation import sentences

    for line in _notes(report):
        click.echo(line)
    shown = columns(outcomes)
    table(("memory", *shown), [(budget(each.memory_gb), *cells(each, shown)) for each in outcomes])
    for outcome in outcomes:
        if outcome.remark:
            click.echo(f"{outcome.policy}, {budget(outcome.memory_gb)}: {outcome.remark}", err=True)
    if report.recommendation is not None:
        for line in sentences(report.recommendation, outcomes):
            click.echo(line)


def _write_page(path: Path, title: str, report: Report, outcomes: Sequence[Outcome]) -> None:
    from suite.prediction.replay.page import page
    from suite.prediction.replay.recommendation import sentences

    notes = _notes(report)
    if report.recommendation is not None:
        notes += sentences(report.recommendation, outcomes)
    try:
        path.write_text(page(title, outcomes, notes), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
