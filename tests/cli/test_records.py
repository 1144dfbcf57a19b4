"""The commands over what the suite remembers: tables for people, JSON for programs, codes for scripts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from suite.cli import projections, usage
from suite.cli.main import main
from suite.cli.output import change, duration, exact, fraction, number, parameters
from suite.client.records import ProjectionName
from suite.messages.actions.projections import ErrorEntry, GetErrorsReply, RebuildProjectionRequest
from suite.messages.actions.status import HealthCheckReply
from suite.messages.actions.usage import UsageKey
from suite.messages.events import Severity
from suite.units import size
from support.command import Command
from support.faults import KillableServer
from support.models import tiny_model
from support.responder import Call, responding
from support.service import serving


def test_choices_are_those_of_the_actions() -> None:
    assert get_args(UsageKey) == usage.KEYS
    assert get_args(Severity) == projections.SEVERITIES
    assert get_args(get_type_hints(RebuildProjectionRequest)["name"]) == projections.NAMES
    assert get_args(ProjectionName) == projections.NAMES


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["metrics", "--since", "soon"], "'--since': 'soon' is not a time"),
        (["metrics", "--until", "99999999d"], "is not a time"),
        (["metrics", "--limit", "1001"], "1001 is not in the range"),
        (["log-metric", "a", "m", "much"], "'VALUE': 'much' is not a valid float"),
        (["log-metric", "a", "m", "1", "--context", "{run: 7}"], "starts like JSON but is not valid JSON"),
        (["log-evaluation", "m", "c", "1.5"], "'TRUST': 1.5 is not in the range"),
        (["usage", "--by", "colour"], "'--by': 'colour' is not one of"),
        (["rebuild", "everything"], "'everything' is not one of"),
        (["preload"], "Missing argument 'MODELS...'"),
        (["import-legacy", "none.db"], "'none.db' does not exist"),
    ],
)
def test_wrong_usage_says_which(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert complaint in capsys.readouterr().err


def test_a_number_that_was_given_keeps_its_digits() -> None:
    given: dict[float | None, str] = {
        None: "",
        0.0: "0",
        0.73183: "0.73183",
        12345.678: "12,345.678",
        0.96: "0.96",
        1e300: "1e+300",
    }
    assert {value: exact(value) for value in given} == given


def test_a_number_that_was_computed_has_four_digits_or_all_before_the_point() -> None:
    computed: dict[float | None, str] = {
        None: "",
        0.0: "0",
        0.12345: "0.1235",
        12.5: "12.5",
        999.96: "1000",
        9999.96: "10,000",
        12345.6: "12,346",
        1234567.8: "1,234,568",
        1e300: "1e+300",
    }
    assert {value: number(value) for value in computed} == computed
    assert [change(value) for value in (0.25, -0.25, 1234.5, 0.0)] == ["+0.25", "-0.25", "+1,234", "+0"]


def test_nothing_that_is_there_is_shown_as_nothing_or_as_all() -> None:
    assert [size(count) for count in (0, 1, 700, 40_000, 98 << 20, 3 << 30)] == [
        *("0 bytes", "1 byte", "700 bytes", "39.1 KiB", "98.0 MiB", "3.00 GiB"),
    ]
    assert [duration(value) for value in (0.0, 0.04, 9.5, 130.4, 61_000.0, 149_000.0, 9_000_000.0)] == [
        *("0 ms", "0.04 ms", "9.5 ms", "130 ms", "61.00 s", "2 min 29 s", "2 h 30 min"),
    ]
    assert duration(200_000_000.0) == "2 d 7 h"
    assert [parameters(count) for count in (999, 150_000, 134_515_008, 1_543_714_304)] == [
        *("999", "150 K", "135 M", "1.54 B"),
    ]
    assert [fraction(value) for value in (0.0, 0.996, 1.0)] == ["0 %", "99 %", "100 %"]


async def test_metrics_from_logging_to_summary(tmp_path: Path) -> None:
    async with serving(tmp_path / "models", tmp_path / "data"):
        suite = Command(tmp_path / "data")
        logged = await suite.output(
            *("log-metric", "planner", "drift", "-0.5", "--context", '{"run": 7}', "--id", "r7"),
            *("--time", "2026-01-31T12:00:00Z"),
        )
        assert "(id r7, event " in logged
        again = await suite.document("log-metric", "planner", "drift", "2", "--context", "by hand")
        assert again["metric_id"]
        conflict = await suite.run("log-metric", "planner", "drift", "3", "--id", "r7")
        assert (conflict.returncode, conflict.stdout) == (1, "")
        assert conflict.stderr.startswith("error conflict: ")

        listed = await suite.lines("metrics", "--agent", "planner")
        assert listed[0].split() == ["time", "agent", "metric", "value", "id", "context"]
        assert listed[1].endswith("by hand")
        assert listed[2].split()[2:] == ["planner", "drift", "-0.5", "r7", '{"run":7}']
        document = await suite.document("metrics", "--since", "2026-01-31T00:00:00Z", "--limit", "1")
        assert (len(document["metrics"]), bool(document["next_cursor"])) == (1, True)
        assert (await suite.document("metrics", "--metric", "other"))["metrics"] == []
        assert "log-metric" in await suite.output("metrics", "--until", "3650d")

        summary = await suite.lines("summary", "drift")
        assert summary[0].split() == ["agent", "count", "mean", "min", "p50", "p95", "p99", "max"]
        assert [line.split()[:4] for line in summary[1:]] == [
            ["planner", "2", "0.75", "-0.5"],
            ["all", "2", "0.75", "-0.5"],
        ]
        assert (await suite.document("summary", "drift", "--agent", "critic"))["total"] is None
        assert "no samples of drift" in await suite.output("summary", "drift", "--agent", "critic")


async def test_evaluations_from_logging_to_comparison(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "phi.gguf")
    async with serving(tmp_path / "models", tmp_path / "data"):
        suite = Command(tmp_path / "data")
        assert "nothing to compare" in await suite.output("compare")
        figures = ("--accuracy", "0.5", "--f1", "0.25", "--latency-ms", "140")
        await suite.output(
            "log-evaluation", "phi", "c1", "0.5", *figures, "--time", "2026-01-01", "--id", "e1"
        )
        await suite.output("log-evaluation", "phi", "c2", "0.75", "--data", '{"n": 2}', "--id", "e2")
        listed = await suite.lines("evaluations", "--model", "phi")
        assert listed[1].split()[2:] == ["phi", "c2", "0.75", "e2", '{"n":2}']
        assert listed[2].split()[2:] == ["phi", "c1", "0.5", "0.5", "0.25", "140", "e1"]
        (compared,) = (await suite.lines("compare", "phi"))[1:]
        assert "0.75 (+0.25)" in compared
        assert compared.endswith("c2 (before: c1)")
        assert (await suite.document("compare"))["models"][0]["model_name"] == "phi"
        assert "(event " in await suite.output("retract", "e2", "--reason", "the wrong model")
        assert (await suite.document("evaluations", "--cycle", "c2"))["evaluations"] == []
        missing = await suite.run("retract", "e9")
        assert (missing.returncode, missing.stderr[:28]) == (1, "error evaluation_not_found: ")


async def test_usage_prediction_and_what_is_kept(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    async with serving(tmp_path / "models", tmp_path / "data", "--node", "box1"):
        suite = Command(tmp_path / "data")
        assert "nothing was used" in await suite.output("usage")
        assert "usage of tiny is recorded (event " in await suite.output("record-usage", "tiny")
        await suite.document("record-usage", "tiny", "--type", "test", "--conversation", "c")
        counted = await suite.lines("usage")
        assert counted[1].split()[:2] == ["tiny", "2"]
        by_day = (
            await suite.output("usage", "--by", "day", "--by", "usage_type", "--since", "1h")
        ).splitlines()
        assert by_day[0].split()[:3] == ["start", "usage", "type"]
        assert len(by_day) == 3
        (one,) = (await suite.document("usage", "--conversation", "c"))["usage"]
        assert (one["model_id"], one["uses"]) == ("tiny", 1)

        assert await suite.output("predict") == "tiny\n"
        assert await suite.output("preload", "tiny") == "tiny is loaded\n"
        half = await suite.run("preload", "tiny", "nope", "--json")
        assert (half.returncode, half.stderr) == (1, "")
        assert json.loads(half.stdout)["results"]["nope"]["code"] == "model_not_found"
        told = await suite.run("preload", "nope")
        assert (told.returncode, told.stdout) == (1, "")
        assert told.stderr.startswith("error model_not_found: nope: ")
        assert await suite.output("select") == "tiny\n"
        assert (await suite.document("select"))["loaded"]
        assert (await suite.run("select", "--capability", "flying")).returncode == 1

        await suite.document("generate", "tiny", "Once", "--max-tokens", "4", "--conversation", "c")
        cleared = await suite.document("clear", "--model", "tiny", "--conversation", "c")
        assert cleared["cleared_conversations"] == 1
        assert await suite.output("clear", "--conversation", "c") == "there was nothing to forget\n"

        fleet = await suite.lines("fleet")
        assert fleet[1].split()[:4] == ["tiny", "box1", "box1", "F16"]
        assert (await suite.document("fleet"))["models"][0]["loads"] == 1
        assert await suite.output("errors") == "nothing went wrong\n"
        assert "evaluation" in await suite.output("stats")


async def test_read_models_are_rebuilt_one_or_all(tmp_path: Path) -> None:
    async with serving(tmp_path / "models", tmp_path / "data"):
        suite = Command(tmp_path / "data")
        recorded = await suite.run("record-usage", "phi")  # of another machine
        assert (recorded.returncode, recorded.stderr[:25]) == (0, "warning: no model 'phi': ")
        one = await suite.run("rebuild", "usage")
        assert one.stdout.startswith("usage: 1 event in ")
        assert one.stderr == ""  # which is no terminal
        every = await suite.output("rebuild", "--json")
        assert [json.loads(line)["name"] for line in every.splitlines()] == list(projections.NAMES)


async def test_what_is_not_well_is_said_and_is_exit_code_1(tmp_path: Path) -> None:
    async def health_check(call: Call) -> None:
        await call.send(
            HealthCheckReply(
                status="degraded",
                problems=("the disk is full: make room",),
                node="box1",
                version="1",
                uptime=61.0,
                timestamp="",
                models_loaded=1,
                models_tracked=2,
                commands_processed=3,
            )
        )

    async def get_errors(call: Call) -> None:
        assert (call.body["severity"], call.body["model_id"]) == ("error", "phi")
        entry = ErrorEntry(
            seq=7,
            error_type="load_failed",
            message="out of\nmemory",
            severity="error",
            node="box1",
            model_id="phi",
            timestamp="2026-01-31T12:00:00+00:00",
        )
        await call.send(GetErrorsReply(errors=(entry,), next_cursor=None))

    async with (
        KillableServer.start(tmp_path) as server,
        responding(server.access, health_check=health_check, get_errors=get_errors),
    ):
        suite = Command(tmp_path)
        at = ("--nats-url", server.access.url)
        done = await suite.run("health", *at)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.startswith("degraded: node box1")
        assert done.stdout.endswith("problem: the disk is full: make room\n")
        document = await suite.run("health", "--json", *at)
        assert (document.returncode, json.loads(document.stdout)["status"]) == (1, "degraded")
        (_, listed) = await suite.lines("errors", "--severity", "error", "--model", "phi", *at)
        assert listed.split()[3:] == ["error", "load_failed", "box1", "phi", "out", "of", "memory"]
