"""``suite replay``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
import msgspec

from suite.cli.options import Target, client_command
from suite.errors import InvalidRequest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from suite.client import Client
    from suite.messages.envelope import Recorded
    from suite.prediction.replay.contest import Budget
    from suite.prediction.replay.history import History
    from suite.prediction.replay.outcome import Outcome
    from suite.prediction.replay.recommendation import Recommendation

UNLIMITED: Final = "unlimited"
_RESIDENT: Final = (2, 4, 8)
"""Unless a budget is given: room for so many models of the mean size."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What is printed with --json."""

    requests: int
    models: int
    hours: float
    remarks: tuple[str, ...]
    outcomes: tuple[dict[str, object], ...]
    recommendation: Recommendation | None


def _list(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (value or "").split(",") if part.strip())


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
    help="Budgets in GB, with commas; unlimited compares how long models stay.  [default: see --resident]",
)
@click.option(
    "--resident",
    callback=_list,
    help="Budgets as numbers of models of the mean size, with commas.  [default: 2,4,8]",
)
@click.option("--model-gb", type=click.FloatRange(0, min_open=True), default=6.0, show_default=True,
              help="Memory of a model of which the history does not tell it.")  # fmt: skip
@click.option("--load-seconds", type=click.FloatRange(0), default=22.7, show_default=True,
              help="Load time of a model of which the history does not tell it.")  # fmt: skip
@click.option("--node", help="Only what this node did, of the log.  [default: all]")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Also write a page with plots.")
@click.option("--recommend", is_flag=True, help="Say what would have served this history best.")
@client_command
def replay(
    target: Target,
    history: Path | None,
    policies: tuple[str, ...],
    memory: tuple[str, ...],
    resident: tuple[str, ...],
    model_gb: float,
    load_seconds: float,
    node: str | None,
    html: Path | None,
    recommend: bool,
) -> None:
    """Replay a history of requests in virtual time, and compare who would have been in memory when.

    HISTORY is a CSV file with the columns timestamp_s, model_id, group_id and duration_s; without it, the
    log of the service is replayed. LRU, plain times to live and Belady's bound are always beside. The bound
    knows the future; nobody who loads what is asked for has fewer cold starts with models of equal size.

    \b
    Examples:
      suite replay
      suite replay --policy all --memory 24,48 --recommend
      suite replay requests.csv --resident 2,4,8 --html replay.html
      suite replay requests.csv --memory unlimited
      suite replay requests.csv --policy my_policies:Mine --json
    """
    from suite.cli.output import Bar, json_line
    from suite.prediction.eviction.policy import Candidate
    from suite.prediction.replay import contest
    from suite.prediction.replay.history import GIGABYTE, of_log, read_csv
    from suite.prediction.replay.recommendation import recommend as recommended

    if any(":" in name for name in policies):
        sys.path.insert(0, "")  # where somebody's own policy is
    default = Candidate(model_id="", bytes=round(model_gb * GIGABYTE), reload_seconds=load_seconds)
    players = contest.contestants(policies)
    if history is not None:
        past = read_csv(history, default=default)
    else:
        past = of_log(target.run(_uses), node=node, default=default)
    budgets = _budgets(memory, resident, past)
    with Bar("replaying", shown=not target.as_json) as bar:
        outcomes = contest.replay(past, players, budgets, progress=bar.advance)
    advice = recommended(outcomes) if recommend else None
    if html is not None:
        _write_page(html, past, outcomes, advice)
    if target.as_json:
        json_line(_report(past, outcomes, advice))
    else:
        _show(past, outcomes, advice)


async def _uses(client: Client) -> list[Recorded]:
    """What in the log tells of uses and of what loads cost."""
    events = [event async for event in client.events("instance.loaded")]
    events += [event async for event in client.events("usage")]
    return events


def _budgets(memory: Sequence[str], resident: Sequence[str], history: History) -> list[Budget]:
    sizes = [candidate.bytes for candidate in history.candidates.values()]
    mean = sum(sizes) / len(sizes)
    if not memory and not resident:
        return [round(count * mean) for count in _RESIDENT]
    budgets: list[Budget] = [round(_positive(count, "--resident") * mean) for count in resident]
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


def _notes(history: History, advice: Recommendation | None) -> list[str]:
    models = len(history.candidates)
    notes = [
        f"{len(history.requests):,} requests for {models} model{'s' if models != 1 else ''} "
        f"in {history.hours:,.1f} hours",
        *history.remarks,
    ]
    if advice is not None:
        notes.append(_sentence(advice))
    return notes


def _sentence(advice: Recommendation) -> str:
    from suite.prediction.replay.page import budget

    saved = advice.saved_percent
    head = f"recommended: {advice.policy} with {budget(advice.memory_gb)}"
    if advice.policy == advice.instead_of:
        return f"{head}: nothing saved more"
    sure = (
        f"90 % sure: {saved.low:.1f} to {saved.high:.1f} %"
        if advice.days > 1
        else "how sure that is, one day cannot tell"
    )
    tail = "" if advice.certain else "; this history does not prove that it saves anything"
    return (
        f"{head}: {saved.estimate:.1f} % less waiting than {advice.instead_of}, "
        f"{advice.saved_seconds.estimate / 3600:.1f} hours ({sure}){tail}"
    )


def _show(history: History, outcomes: Sequence[Outcome], advice: Recommendation | None) -> None:
    from suite.cli.output import table
    from suite.prediction.replay.page import COLUMNS, budget, cells

    for line in _notes(history, None):
        click.echo(line)
    columns = ("memory", *COLUMNS)
    table(columns, [(budget(outcome.memory_gb), *cells(outcome)) for outcome in outcomes])
    for outcome in outcomes:
        if outcome.remark:
            click.echo(f"{outcome.policy}, {budget(outcome.memory_gb)}: {outcome.remark}", err=True)
    if advice is not None:
        click.echo(_sentence(advice))


def _report(history: History, outcomes: Sequence[Outcome], advice: Recommendation | None) -> Report:
    return Report(
        requests=len(history.requests),
        models=len(history.candidates),
        hours=history.hours,
        remarks=history.remarks,
        outcomes=tuple(
            {**msgspec.structs.asdict(each), "cold_percent": each.cold_percent} for each in outcomes
        ),
        recommendation=advice,
    )


def _write_page(
    path: Path, history: History, outcomes: Sequence[Outcome], advice: Recommendation | None
) -> None:
    from suite.prediction.replay.page import page

    try:
        path.write_text(page("Replay", outcomes, _notes(history, advice)), encoding="utf-8")
    except OSError as error:
        raise InvalidRequest(f"{path} cannot be written: {error.strerror}") from None
