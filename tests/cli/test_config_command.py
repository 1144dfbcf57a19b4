"""``suite config`` prints what is in force and where from, and ``suite serve`` tells what has no effect."""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from subprocess import CompletedProcess

import anyio
import pytest

from suite.cli.main import main

SUITE = [sys.executable, "-m", "suite"]
OLD = """
ModelManagerSuite:
  script_path: x.py
  config: {vram_limit_gb: 24, colour: red}
"""


async def suite(*arguments: str, **environ: str) -> CompletedProcess[bytes]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
    with anyio.fail_after(40):
        return await anyio.run_process([*SUITE, *arguments], env=clean | environ, check=False)


def written(directory: Path, name: str, content: str) -> str:
    (directory / name).write_text(content)
    return str(directory / name)


async def test_every_value_is_shown_with_where_it_came_from(tmp_path: Path) -> None:
    file = written(tmp_path, "suite.toml", '[models."some-model"]\ncontext_length = 512\n')
    done = await suite(
        "config",
        "--config",
        file,
        "--port",
        "4300",
        "--models-dir",
        "a",
        "--models-dir",
        "b",
        SUITE_NODE="box1",
    )
    assert (done.returncode, done.stderr) == (0, b"")
    settings, in_force = done.stdout.decode().split("\n\n")
    rows = [line.split(maxsplit=2) for line in settings.splitlines()]
    shown = {row[0]: (row[1], row[2].strip()) for row in rows}
    assert shown["setting"] == ("value", "from")
    assert shown["node"] == ("box1", "environment SUITE_NODE")
    assert shown["nats.port"] == ("4300", "flag --port")
    assert shown["models_directories"] == ("a:b", "flag --models-dir")
    assert shown['models."some-model".context_length'] == ("512", file)
    assert shown["enable_predictive_loading"] == ("false", "default")
    assert shown["memory_limit_gb"] == ("-", "default")
    used = {
        words[0]: words[1:] for words in (re.split(" {2,}", line.strip()) for line in in_force.splitlines())
    }
    assert used["in force"] == ["value", "from"]
    assert re.fullmatch("[1-9][0-9]*", used["threads"][0])
    assert re.fullmatch("(physical cores|affinity|CPU quota in .*)", used["threads"][1])
    assert re.fullmatch("[0-9.]+ [GM]iB", used["memory_limit_bytes"][0])
    assert re.fullmatch("0.8 of the (memory of this machine|limit in .*)", used["memory_limit_bytes"][1])
    assert re.fullmatch("/.*/a:/.*/b", used["models_directories"][0])
    assert used["nats"] == ["a server of its own", "default"]


async def test_no_password_is_shown_to_people_or_programs(tmp_path: Path) -> None:
    file = written(tmp_path, "suite.toml", '[nats]\npassword = "se-cret"\n')
    for options, environ in (
        (("--config", file), {}),
        ((), {"SUITE_NATS_URL": "nats://box:se-cret@nats.example"}),
        (("--nats-url", "nats://a.example,nats://box:se-cret@b.example"), {}),
    ):
        for form in ((), ("--json",)):
            done = await suite("config", *options, *form, **environ)
            assert done.returncode == 0
            assert b"se-cret" not in done.stdout + done.stderr
            assert b"***" in done.stdout


async def test_as_json_with_warnings_on_stderr(tmp_path: Path) -> None:
    file = written(tmp_path, "startup_config.yaml", OLD)
    done = await suite("config", "--config", file, "--json", SUITE_DATA_DIR=os.fsdecode(b"data\xff"))
    document = json.loads(done.stdout)
    assert document["settings"]["vram_limit_gb"] == {"value": 24.0, "origin": file}
    assert document["settings"]["dependencies"] == {"value": [], "origin": "default"}
    assert document["settings"]["data_dir"]["value"] == "data\ufffd"
    assert document["in_force"]["memory_limit_bytes"] == {"value": 24 << 30, "origin": file}
    assert document["in_force"]["data_dir"]["origin"] == "environment SUITE_DATA_DIR"
    told = done.stderr.decode().splitlines()
    assert told == [f"warning: {each}" for each in document["warnings"]]
    assert any("ModelManagerSuite.config.colour" in line for line in told)


async def test_what_is_wrong_is_said_with_its_path_and_origin() -> None:
    done = await suite("config", SUITE_MEMORY_LIMIT_GB="much")
    assert (done.returncode, done.stdout) == (2, b"")
    words = done.stderr.decode()
    assert words.startswith("error invalid_configuration: memory_limit_gb ")
    assert "SUITE_MEMORY_LIMIT_GB" in words


def test_a_variable_that_nothing_reads_is_refused_by_the_service_and_told_to_clients(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SUITE_NATS_ULR", "nats://box:se-cret@nats.example")
    for command in ("serve", "config"):
        assert main([command]) == 2
        assert capsys.readouterr().err == (
            "error invalid_configuration: SUITE_NATS_ULR is not known (environment): unset it; "
            "did you mean SUITE_NATS_URL?\n"
        )
    assert main(["models", "--data-dir", str(tmp_path)]) == 3
    warning, error = capsys.readouterr().err.splitlines()
    assert warning == "warning: SUITE_NATS_ULR is not known and has no effect; did you mean SUITE_NATS_URL?"
    assert error.startswith("error unavailable: ")


def test_settings_of_an_own_server_have_no_effect_beside_another(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SUITE_NATS_LISTEN", "127.0.0.2")
    assert main(["config", "--nats-url", "nats://nats.example", "--port", "4300"]) == 0
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith("warning: nats.port has no effect (flag --port): with nats.url")
    assert second.startswith("warning: nats.listen has no effect (environment SUITE_NATS_LISTEN)")


async def test_serve_logs_what_has_no_effect(tmp_path: Path) -> None:
    file = written(tmp_path, "startup_config.yml", OLD)
    (tmp_path / "taken").write_text("")  # it gets no further than its data directory
    done = await suite("serve", "--config", file, "--data-dir", str(tmp_path / "taken" / "data"))
    words = done.stderr.decode()
    assert "error data_dir_unusable" in words
    warnings = [line for line in words.splitlines() if "WARNING" in line]
    assert any("ModelManagerSuite.config.colour" in line for line in warnings)
    assert any("ModelManagerSuite.script_path" in line for line in warnings)
