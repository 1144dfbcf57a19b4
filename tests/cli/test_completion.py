"""What a shell completes when a person presses Tab: commands, options, and ids of the service's models."""

from __future__ import annotations

import shlex
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import run

import pytest
from anyio.from_thread import start_blocking_portal

from suite.cli.main import COMMANDS, main
from support.faults import KillableServer
from support.replies import HANDLERS
from support.responder import responding
from support.terminal import terminal


@asynccontextmanager
async def _service(directory: Path) -> AsyncIterator[str]:
    async with KillableServer.start(directory) as server, responding(server.access, **HANDLERS):
        yield server.access.url


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with start_blocking_portal() as portal:
        with portal.wrap_async_context_manager(_service(tmp_path_factory.mktemp("nats"))) as found:
            yield found


@pytest.fixture
def completed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Completed:
    return Completed(monkeypatch, capsys)


class Completed:
    """What click's protocol answers to bash for a line; the last word is the one to complete."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> list[str]:
        self._monkeypatch.setenv("_SUITE_COMPLETE", "bash_complete")
        self._monkeypatch.setenv("COMP_WORDS", shlex.join(["suite", *words]))
        self._monkeypatch.setenv("COMP_CWORD", str(len(words)))
        assert main([]) == 0
        shown = self._capsys.readouterr()
        assert shown.err == ""
        return [line.partition(",")[2] for line in shown.out.split()]


def test_commands_options_and_choices(completed: Completed) -> None:
    assert completed("") == list(COMMANDS)
    assert completed("mod") == ["models"]
    assert completed("events", "--fol") == ["--follow"]
    assert completed("completion", "") == ["bash", "zsh", "fish"]


def test_ids_and_aliases_of_the_service_that_the_line_says(completed: Completed, url: str) -> None:
    assert completed("status", "--nats-url", url, "s") == ["small", "smollm2"]
    assert completed("run", "--nats-url", url, "gemma") == ["gemma-3-270m-it-Q4_K_M"]
    assert completed("events", "--nats-url", url, "--model", "Smo") == ["SmolLM2-135M-Instruct.Q4_1"]


def test_no_service_is_silence(completed: Completed, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SUITE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SUITE_NATS_URL", raising=False)
    assert completed("load", "") == []
    assert completed("load", "--nats-url", "nonsense://", "") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_each_shell_gets_its_script(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    assert f"_SUITE_COMPLETE={shell}_complete" in capsys.readouterr().out


def test_tab_in_a_real_bash(url: str, tmp_path: Path) -> None:
    program = tmp_path / "suite"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m suite "$@"\n')
    program.chmod(0o755)
    script = run([program, "completion", "bash"], capture_output=True, check=True).stdout
    (tmp_path / "rc").write_bytes(script + f"PS1='$ '; PATH={tmp_path}:$PATH\n".encode())
    command = ["bash", "--rcfile", str(tmp_path / "rc"), "-i"]
    with terminal(command, program=(), environ={"SUITE_NATS_URL": url}) as screen:
        screen.until("$")
        screen.type(b"suite unlo\tSmo\t")
        screen.until("suite unload SmolLM2-135M-Instruct.Q4_1")
