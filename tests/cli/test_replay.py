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
    first, head, *rows, advice, waited, sure = done.stdout.splitlines()
    assert first.startswith("300 requests for 16 models in 2.")
    assert head.split("  ")[0] == "memory"
    assert [row.split()[2] for row in rows] == [
        "best_lately",
        "lru",
        "ttl_300",
        "ttl_600",
        "ttl_3600",
        "belady",
        *(f"best_lately+ttl_{seconds}" for seconds in (300, 600, 3600)),
    ]
    assert first.endswith("nobody waits for memory: see --held")
    assert advice.startswith("recommended: best_lately")
    assert "requests would have waited" in waited
    assert sure.startswith("how sure that is cannot be told")
    assert "<h1>Replay of requests.csv</h1>" in page.read_text()


def test_json_has_all_figures(requests: str) -> None:
    done = run_command(
        *("replay", requests, "--policy", "all", "--memory", "24,unlimited", "--keep-alive", "60"),
        *("--held", "--bets", "--json"),
    )
    report = json.loads(done.stdout)
    assert (report["requests"], report["models"], report["recommendation"]) == (300, 16, None)
    assert not report["instant"]
    outcomes = {(each["name"], each["memory_gb"]): each for each in report["outcomes"]}
    assert {memory_gb for _, memory_gb in outcomes} == {24.0, None}
    assert {("greedy_dual", 24.0), ("ttl_60", 24.0), ("learned_60", None)} < set(outcomes)
    bets = outcomes.pop(("best_lately+bets", 24.0))
    assert bets["bets_won"] + bets["bets_lost"] <= bets["loads"] - bets["cold_starts"]
    assert all(each["loads"] == each["cold_starts"] > 0 for each in outcomes.values())
    assert all(each["waited_p95_seconds"] > 0.0 for each in outcomes.values())


@pytest.mark.parametrize(
    ("arguments", "code", "problem"),
    [
        (("--memory", "3"), 1, "3 GB has room for none of the models: the smallest, m"),
        (("--memory", "much"), 2, "'much' is not a number above 0"),
        (("--resident", "nan"), 2, "'nan' is not a number above 0"),
        (("--memory", "24", "--keep-alive", "0"), 2, "'0' is not a number above 0"),
        (("--memory", ",".join(map(str, range(1, 1001)))), 2, "1,000 values: at most 32 can be compared"),
        (("--policy", "mru"), 1, "there is no policy 'mru'"),
        (
            ("--memory", "unlimited", "--keep-alive", ","),
            1,
            "there is nothing to compare: with unlimited memory",
        ),
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
    requests: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_policies.py").write_text(
        "class Backwards:\n"
        "    def fold(self, fact): print('a fact')\n"
        "    def worth(self, candidate, *, now): return len(candidate.model_id) / 0\n"
    )
    monkeypatch.chdir(tmp_path)
    done = run_command("replay", requests, "--policy", "own_policies:Backwards", "--resident", "2")
    assert done.returncode == 0
    printed = capfd.readouterr()
    assert "a fact" in printed.err
    assert "a fact" not in printed.out  # --json prints one line
    assert "own_policies:Backwards, 12 GB: worth raised ZeroDivisionError" in done.stderr
    assert "best_lately went on from there" in done.stderr
