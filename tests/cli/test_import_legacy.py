"""`suite import-legacy` on a real service: each row once, and what is refused is told."""

from __future__ import annotations

import json
from pathlib import Path

import anyio

import suite
from suite.cli.exit import REFUSED, UNREACHABLE
from suite.messages.events import EvaluationLogged
from support.command import Command
from support.nodes import client_of_node
from support.old_database import evaluation, execute, metric, old_database
from support.service import history, serving


async def test_each_row_is_there_once_however_often_it_is_imported(tmp_path: Path) -> None:
    old = old_database(
        tmp_path / "old.db",
        metrics=[*(metric(f"m{number}", value=number) for number in range(150)), metric(None), metric(None)],
        evaluations=[evaluation(f"e{number}") for number in range(20)],
    )
    data_dir = tmp_path / "data"
    async with client_of_node(tmp_path / "models", data_dir) as client:
        command = Command(data_dir)
        first = await command.document("import-legacy", str(old))
        assert first["refused"] == []
        assert first["tables"] == [
            {"table": "performance_metrics", "read": 152, "added": 152, "present": 0, "refused": 0},
            {"table": "model_evaluation_scores", "read": 20, "added": 20, "present": 0, "refused": 0},
        ]
        execute(old, "INSERT INTO performance_metrics VALUES ('late', 'a', 'n', 1, '2024-05-02', NULL)")
        second = await command.document("import-legacy", str(old))
        assert [(table["added"], table["present"]) for table in second["tables"]] == [(1, 152), (0, 20)]
        assert len(await history(client, "metric")) == 153
        logged = [event.data for event in await history(client, "evaluation")]
        assert [isinstance(each, EvaluationLogged) and each.evaluation_id for each in logged] == [
            f"e{number}" for number in range(20)
        ]
        end = await client.last_seq()
        samples = [each async for each in client.performance_metrics(metric_name="latency_ms", min_seq=end)]
        assert sorted(each.value for each in samples) == sorted([*range(150), 1.0, 1.0])
        assert {each.timestamp for each in samples} == {"2024-05-01T12:00:00.000000+00:00"}
        scores = [each async for each in client.model_evaluations(min_seq=end)]
        assert {(each.trust_score, each.accuracy, each.comparison_data) for each in scores} == {
            (0.5, 0.9, '{"n": 1}')
        }


async def test_refused_rows_are_told_with_reasons_and_stop_nothing(tmp_path: Path) -> None:
    old = old_database(
        tmp_path / "old.db",
        metrics=[
            metric("taken", value=1.0),
            metric("nan", value=None),
            metric("when", timestamp="last tuesday"),
            metric("good"),
            *(metric(f"empty{number}", agent="") for number in range(20)),
        ],
        evaluations=[evaluation("e", trust=1.5), evaluation("f")],
    )
    data_dir = tmp_path / "data"
    async with client_of_node(tmp_path / "models", data_dir) as client:
        await client.log_performance_metric("planner", "latency_ms", 2.0, metric_id="taken")
        command = Command(data_dir)
        done = await command.run("import-legacy", str(old), "--json")
        report = json.loads(done.stdout)
        assert (done.returncode, done.stderr) == (REFUSED, "")
        assert [(each["added"], each["refused"]) for each in report["tables"]] == [(1, 23), (1, 1)]
        codes = {each["id"]: each["code"] for each in report["refused"]}
        assert len(codes) == 10
        assert codes.get("nan") == "invalid_request"
        line = await command.run("import-legacy", str(old))
        assert line.returncode == REFUSED
        lines = line.stdout.splitlines()
        assert lines[1].split() == ["performance_metrics", "24", "0", "1", "23"]
        assert lines[2].split() == ["model_evaluation_scores", "2", "0", "1", "1"]
        assert "refused: 14 more" in line.stderr
        # Each of the reasons, where there are few enough to show them all.
        execute(old, "DELETE FROM performance_metrics WHERE agent_name = ''")
        words = (await command.run("import-legacy", str(old))).stderr
        for reason in (
            "performance_metrics row 1 (taken): conflict: the id 'taken' was used for other content",
            "row 2 (nan): invalid_request: field 'value': it is NULL",
            "row 3 (when): invalid_request: field 'timestamp': 'last tuesday' is not a time",
            "model_evaluation_scores row 1 (e): invalid_request: field 'trust_score'",
        ):
            assert reason in words


async def test_times_are_taken_in_the_zone_that_is_named(tmp_path: Path) -> None:
    old = old_database(tmp_path / "old.db", metrics=[metric("m")])
    data_dir = tmp_path / "data"
    async with client_of_node(tmp_path / "models", data_dir) as client:
        command = Command(data_dir)
        await command.document("import-legacy", str(old), "--timezone", "Europe/Berlin")
        (sample,) = (await client.get_performance_metrics(min_seq=await client.last_seq())).metrics
        assert sample.timestamp == "2024-05-01T10:00:00.000000+00:00"
        wrong = await command.run("import-legacy", str(old), "--timezone", "Mars/Olympus")
        assert wrong.returncode == 2
        assert "not a time zone" in wrong.stderr


async def test_the_read_model_of_this_service_is_refused(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    async with client_of_node(tmp_path / "models", data_dir) as client:
        await client.get_performance_metrics(min_seq=await client.last_seq())
        own = data_dir / "projections" / "model_evaluation.db"
        done = await Command(data_dir).run("import-legacy", str(own))
    assert (done.returncode, done.stdout) == (REFUSED, "")
    assert done.stderr.startswith("error legacy_database_unusable: ")
    assert "read model of this service" in done.stderr


async def test_the_old_database_at_the_configured_path_is_kept_and_can_be_imported(tmp_path: Path) -> None:
    path = old_database(tmp_path / "model_evaluation.db", metrics=[metric("m")])
    data_dir = tmp_path / "data"
    environ = {"SUITE_SQLITE_DB_PATH": str(path)}
    async with (
        serving(tmp_path / "models", data_dir, environ=environ) as service,
        suite.connect(data_dir=data_dir) as client,
    ):
        await client.get_performance_metrics(min_seq=await client.last_seq())
        kept = tmp_path / "model_evaluation.foreign-1.db"
        assert await anyio.Path(kept).exists()
        assert "suite import-legacy" in await anyio.Path(service.errors).read_text()
        report = await Command(data_dir).document("import-legacy", str(kept))
        assert report["tables"][0]["added"] == 1
        (sample,) = (await client.get_performance_metrics(min_seq=await client.last_seq())).metrics
        assert sample.metric_id == "m"


async def test_without_a_service_nothing_is_read_into_it(tmp_path: Path) -> None:
    old = old_database(tmp_path / "old.db", metrics=[metric("m")])
    done = await Command(tmp_path / "nowhere").run("import-legacy", str(old))
    assert done.returncode == UNREACHABLE
    assert done.stderr.startswith("error unavailable: ")
