"""`suite replay` of files: what is printed, and what is refused. The examples of its help replay the log."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import run_command
from support.histories import made_up_csv


@pytest.fixture
def requests(tmp_path: Path) -> str:
    path = tmp_path / "requests.csv"
    path.write_text(made_up_csv(300))
    return str(path)


def test_a_table_a_recommendation_and_a_page(requests: str, tmp_path: Path) -> None:
    page = tmp_path / "replay.html"
    done = run_command("replay", requests, "--resident", "4", "--recommend", "--html", str(page))
    assert (done.returncode, done.stderr) == (0, "")
    first, head, *rows, advice = done.stdout.splitlines()
    assert first.startswith("300 requests for 16 models in 2.")
    assert head.split("  ")[0] == "memory"
    assert [row.split()[2] for row in rows] == [
        "best_lately",
        "lru",
        "ttl_300",
        "ttl_600",
        "ttl_3600",
        "belady",
    ]
    assert advice.startswith("recommended: ")
    assert "one day cannot tell" in advice
    assert page.read_text().startswith("<!doctype html>")


def test_json_has_all_figures(requests: str) -> None:
    done = run_command("replay", requests, "--policy", "all", "--memory", "24,unlimited", "--json")
    report = json.loads(done.stdout)
    assert (report["requests"], report["models"], report["recommendation"]) == (300, 16, None)
    assert {each["memory_gb"] for each in report["outcomes"]} == {24.0, None}
    assert all(each["loads"] == each["cold_starts"] > 0 for each in report["outcomes"])


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("--memory", "3"), 1, "3 GB has room for none of the models: the smallest, m"),
        (("--memory", "much"), 2, "'much' is not a number above 0"),
        (("--resident", "-1"), 2, "'-1' is not a number above 0"),
        (("--policy", "mru"), 1, "there is no policy 'mru'"),
        (("--html", "/nosuch/replay.html"), 1, "/nosuch/replay.html cannot be written: No such file"),
    ],
)
def test_what_cannot_be_replayed_gets_one_line(
    requests: str, arguments: tuple[str, ...], code: int, problem: str
) -> None:
    done = run_command("replay", requests, *arguments)
    assert done.returncode == code
    assert problem in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_of_ones_own_is_found_in_the_working_directory(
    requests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_policies.py").write_text(
        "class Backwards:\n"
        "    def fold(self, fact): pass\n"
        "    def worth(self, candidate, *, now): return len(candidate.model_id) / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run_command("replay", requests, "--policy", "own_policies:Backwards", "--resident", "2")
    assert done.returncode == 0
    assert "own_policies:Backwards, 12 GB: worth raised ZeroDivisionError" in done.stderr
    assert "best_lately went on from there" in done.stderr
