"""The checker notices what is broken on purpose: one that does not is no evidence of anything."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import anyio
import pytest

from suite.identity import utc_now
from suite.messages.envelope import Recorded
from suite.messages.events import MetricLogged
from support.durability.checker import Checker, unload_all
from support.durability.findings import Finding, Kind
from support.durability.health import TRUTH_SECONDS, Sample, judged_health
from support.durability.history import Acknowledged, History, Refused
from support.durability.inside import DEFECTS, Defect
from support.durability.judging_log import judged_log
from support.durability.leftovers import at_rest
from support.durability.place import place
from support.durability.rounds import Round
from support.durability.system import System
from support.durability.table import table
from support.folding import recorded

NOTICED: Mapping[Defect, set[Kind]] = {
    "process": {"process"},
    "descriptor": {"descriptor"},
    "file": {"file"},
    "forget": {"read model"},
    "double": {"doubled", "log"},
    "reorder": {"reordered", "elsewhere"},
    "drop": {"lost"},
}
METRICS = 4
AT_ONCE_SECONDS = 0.5


async def log_metrics(system: System, history: History, name: str) -> None:
    """One after the other, so that each is acknowledged before the next is asked for."""
    for number in range(METRICS):
        id, asked_at = f"{name}-{number}", time.monotonic()
        reply = await system.client.log_performance_metric("agent", "latency", 1.0, metric_id=id)
        history.acknowledge(("metric", id), asked_at, reply.seq)


@pytest.mark.timeout(120)
async def test_each_defect_of_a_real_service_is_noticed(tmp_path: Path) -> None:
    assert set(NOTICED) == set(DEFECTS)
    with place(tmp_path, megabytes=64) as found:
        async with System.running(tmp_path, found.disk) as system:
            history = History()
            checker = Checker(system, history)
            await log_metrics(system, history, "whole")
            await unload_all(system)
            checker.settle(at_rest(system))
            assert await checker.findings() == []
            untold = await checker.findings(fact="instance.crashed", patience=AT_ONCE_SECONDS)
            kinds_untold = {each.kind for each in untold}
            assert kinds_untold - {"descriptor"} == {"health"}  # the gateway may have one open just now
            known: set[Finding] = set()
            for defect, kinds in NOTICED.items():
                system.set_defect(defect)
                await anyio.sleep(0.2)  # it looks a few times a second
                await log_metrics(system, history, defect)
                system.set_defect(None)
                new = set(await checker.findings(patience=AT_ONCE_SECONDS)) - known
                assert kinds <= {each.kind for each in new}, (defect, new)
                known |= new


# --- the log ------------------------------------------------------------------------------------------------


def metric(id: str, seq: int, *, event_id: str | None = None) -> Recorded:
    data = MetricLogged(metric_id=id, agent_name="a", metric_name="m", value=1.0, timestamp=utc_now())
    return recorded(data, seq, id=event_id or f"event-{id}")


def told(*acknowledged: Acknowledged) -> History:
    history = History()
    history.acknowledged = {each.key: each for each in acknowledged}
    return history


def kinds(history: History, events: Sequence[Recorded]) -> list[Kind]:
    return [finding.kind for finding in judged_log(history, events)]


A = Acknowledged(("metric", "a"), asked_at=0.0, told_at=1.0, seq=1)
B = Acknowledged(("metric", "b"), asked_at=2.0, told_at=3.0, seq=2)


def test_a_log_that_keeps_its_promises_is_whole() -> None:
    assert kinds(told(A, B), [metric("a", 1), metric("b", 2), metric("asked, and no answer", 3)]) == []


def test_what_was_acknowledged_is_missed() -> None:
    assert kinds(told(A, B), [metric("a", 1)]) == ["lost"]


def test_what_is_there_twice_is_noticed_whether_it_was_acknowledged_or_not() -> None:
    assert kinds(told(), [metric("a", 1), metric("a", 2, event_id="another")]) == ["doubled"]


def test_an_event_that_is_elsewhere_than_was_said_is_noticed() -> None:
    assert kinds(told(A._replace(seq=7)), [metric("a", 1)]) == ["elsewhere"]


def test_an_order_that_clients_saw_otherwise_is_noticed() -> None:
    unplaced = [each._replace(seq=None) for each in (A, B)]
    assert kinds(told(*unplaced), [metric("b", 1), metric("a", 2)]) == ["reordered"]


def test_two_that_were_asked_for_at_the_same_time_may_have_any_order() -> None:
    unplaced = [each._replace(seq=None, asked_at=0.0) for each in (A, B)]
    assert kinds(told(*unplaced), [metric("b", 1), metric("a", 2)]) == []


# --- health -------------------------------------------------------------------------------------------------


def test_a_service_that_says_it_is_well_while_it_refuses_events_is_found_out() -> None:
    refused = [Refused(at / 10, "log_not_writable") for at in range(100)]
    well, ill = Sample(TRUTH_SECONDS + 1, "HEALTHY"), Sample(TRUTH_SECONDS + 1, "degraded", ("full",))
    assert [finding.kind for finding in judged_health([well], refused, "")] == ["health"]
    assert judged_health([ill], refused, "full") == []


def test_a_problem_that_nobody_is_told_of_is_found_out() -> None:
    assert [finding.kind for finding in judged_health([Sample(1.0, "HEALTHY")], [], "full")] == ["health"]


def test_a_refusal_that_is_over_is_no_reason_to_be_ill() -> None:
    refused = [Refused(0.0, "log_not_writable"), Refused(60.0, "log_not_writable")]
    assert judged_health([Sample(30.0, "HEALTHY")], refused, "") == []


# --- the table ----------------------------------------------------------------------------------------------


def test_the_table_counts_what_was_found() -> None:
    lost = Finding("lost", "a")
    rounds = [
        Round("kill -9 node", 10, 1.0, [lost, Finding("process", "b")]),
        Round("kill -9 node", 5, 3.0, []),
        Round("full disk", 7, None, [Finding("doubled", "c")]),
    ]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table(rounds).splitlines()]
    assert cells[2:] == [
        ["full disk", "1", "7", "0", "1", "0", "-", "never"],
        ["kill -9 node", "2", "15", "1", "0", "1", "2.00 s", "3.00 s"],
        ["all", "3", "22", "1", "1", "1", "2.00 s", "never"],
    ]
