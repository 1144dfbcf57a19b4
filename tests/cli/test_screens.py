"""What the commands show on a terminal, as a terminal emulator draws it, and what the keys do there.

The golden screens are in `screens/`, one file a width. To write them anew, and then to read what changed::

    WRITE_SCREENS=1 pytest tests/cli/test_screens.py
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import pytest
from anyio.from_thread import start_blocking_portal

from suite.bus.connection import Connection
from suite.log import Log
from suite.messages.events import EvaluationLogged, Generated, InstanceLoaded, MetricLogged
from suite.messages.subjects import Subjects
from support.faults import KillableServer
from support.replies import FIRST_ID, GEMMA, HANDLERS, LONG, MODELS, SECOND_ID, SHA256, SMOL, UMLAUT
from support.responder import responding
from support.terminal import CTRL_C, CTRL_D, Terminal, terminal

SCREENS = Path(__file__).parent / "screens"
SECONDS = 20.0
NOON = datetime(2026, 11, 28, 12, tzinfo=UTC)

COMMANDS = (
    "models",
    "status",
    f"status {SMOL}",
    "health",
    "stats",
    "events",
    "metrics",
    "summary latency_ms",
    "evaluations",
    "compare",
    f"bench {SMOL}",
    "benchmarks",
    "errors",
    "errors --grouped",
    "usage --by model --by day",
    "predictions",
    "fleet",
    f"explain {SMOL}",
    "modles",
)

SESSION = (
    "import shlex, sys; from suite.cli.main import main\n"
    "for line in sys.argv[1:]: print('$ suite', line, flush=True); main(shlex.split(line))"
)
"""Runs commands one after the other in one process, since each process costs half a second."""


@asynccontextmanager
async def _fleet(directory: Path) -> AsyncIterator[dict[str, str]]:
    """A service that always answers the same, with a log that always has the same events."""
    ids = count(1)
    async with (
        KillableServer.start(directory) as server,
        responding(server.access, **HANDLERS),
        Connection.open(server.access, name="writer") as connection,
        Log.open(
            connection,
            Subjects(),
            source="/box1",
            new_id=lambda: f"{next(ids):036}",
            now=lambda: NOON,
        ) as log,
    ):
        for event in EVENTS:
            await log.append(event)
        yield {"SUITE_NATS_URL": server.access.url}


EVENTS = (
    InstanceLoaded(
        node="box1", model_id=SMOL, instance_id=FIRST_ID, pid=4711, resident_bytes=1 << 28, load_ms=1494.691
    ),
    Generated(
        model_id=SMOL,
        node="box1",
        instance_id=FIRST_ID,
        generation_id=SECOND_ID,
        prompt_tokens=31,
        reused_tokens=0,
        completion_tokens=12_345,
        queue_ms=0.04,
        time_to_first_token_ms=0.96,
        generation_ms=12_345.678,
        outcome="stop",
    ),
    MetricLogged(
        metric_id=SECOND_ID,
        agent_name="planner",
        metric_name="drift",
        value=0.96,
        timestamp=NOON,
        context="\x1b",
    ),
    EvaluationLogged(
        evaluation_id=LONG[:200],
        model_name=UMLAUT,
        cycle_id="w48",
        trust_score=0.04,
        evaluation_timestamp=NOON,
    ),
)


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with start_blocking_portal() as portal:
        directory = tmp_path_factory.mktemp("fleet")
        with portal.wrap_async_context_manager(_fleet(directory)) as found:
            yield found


def _shown(environ: dict[str, str], columns: int, commands: tuple[str, ...] = COMMANDS) -> Terminal:
    """The terminal after the commands have run in it."""
    with terminal(
        commands, columns=columns, environ=environ, program=[sys.executable, "-c", SESSION]
    ) as screen:
        assert screen.ended() == 0
    return screen


@pytest.mark.parametrize("columns", [60, 80, 120])
def test_the_screens_are_as_they_were(environ: dict[str, str], columns: int) -> None:
    golden = SCREENS / f"{columns}.txt"
    shown = f"{_shown(environ, columns).text}\n"
    if os.environ.get("WRITE_SCREENS"):
        golden.write_text(shown)
    assert shown == golden.read_text()


@pytest.mark.parametrize("columns", [40, 300])
def test_no_id_and_no_number_is_cut(environ: dict[str, str], columns: int) -> None:
    """A value longer than a line goes on at the beginning of the next one, as a terminal copies it."""
    screen = _shown(environ, columns)
    whole = "".join(screen.rows)
    ids = [*(model.model_id for model in MODELS), FIRST_ID, SECOND_ID, SHA256, LONG[:200]]
    figures = [
        "0.96",
        "0.04",
        "0.73183",
        "12,345.678",
        "12,345",
        "1,234,567",
        "98765",
        "4194303",
        "1494.691",
    ]
    assert [value for value in (*ids, *figures) if value not in whole] == []
    assert not re.search(r"\S…", whole)  # a text that is too long ends after a word


def test_the_settings_are_shown_whole(tmp_path: Path) -> None:
    directory = tmp_path / ("models-" * 12)
    command = f"config --data-dir {tmp_path} --models-dir {directory} --node box1"
    for columns in (40, 80):
        whole = "".join(_shown({}, columns, (command,)).rows)
        assert str(directory) in whole
        assert "snapshots.max_conversations" in whole


def test_a_bar_is_drawn_whole_and_vanishes(environ: dict[str, str]) -> None:
    with terminal(["load", SMOL], columns=60, environ=environ) as screen:
        assert screen.ended() == 0
    drawn = screen.received.decode()
    assert all(part in drawn for part in (f"loading {SMOL}", "100 %", "0:00:00"))
    assert "".join(screen.rows) == f"{SMOL} is loaded (130 ms, 256.0 MiB resident)"


@pytest.mark.parametrize("plain", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_a_plain_terminal_gets_no_escape_sequences(environ: dict[str, str], plain: dict[str, str]) -> None:
    commands = (f"load {SMOL}", f"status {SMOL}", "summary latency_ms", "errors")
    screen = _shown({**environ, **plain}, 80, commands)
    assert b"\x1b" not in screen.received
    assert f"{SMOL} is loaded" in screen.text
    assert "12,345.678" in screen.text


def test_an_answer_on_a_dumb_terminal_is_running_text(environ: dict[str, str]) -> None:
    with terminal(["run", SMOL, "hello"], environ={**environ, "TERM": "dumb"}) as screen:
        screen.until("answer")
        assert screen.rows == ["half an answer"]


# --- keys and signals --------------------------------------------------------------------------------------


def test_ctrl_c_at_the_prompt_of_a_chat_ends_it(environ: dict[str, str]) -> None:
    with terminal(["chat", SMOL], environ=environ) as screen:
        screen.until(">")
        screen.type(b"a message")
        screen.until("a message")
        screen.type(CTRL_C)
        assert screen.ended() == 130
    assert [row.removesuffix("^C") for row in screen.rows[1:]] == ["> a message"]
    assert screen.at_line_start


def test_ctrl_c_ends_an_answer_and_ctrl_d_the_chat(environ: dict[str, str]) -> None:
    with terminal(["chat", SMOL], environ=environ) as screen:
        screen.until(">")
        screen.type(b"hello\n")
        screen.until("half an answer")
        screen.type(CTRL_C)
        screen.until(">", times=2)
        screen.type(b"\xff\xfe\n")
        screen.until("error usage: standard input is not UTF-8 text (byte 0xff at position 0)")
        screen.until(">", times=3)
        screen.type(CTRL_D)
        assert screen.ended() == 0
    assert "Traceback" not in screen.text


@pytest.mark.parametrize(
    ("command", "begun", "keys"),
    [
        (["run", SMOL, "hello"], "half an answer", CTRL_C),
        (["run", SMOL, "hello"], "half an answer", 3 * CTRL_C),
        (["events", "--follow"], "evaluation_timestamp", 3 * CTRL_C),
    ],
)
def test_ctrl_c_ends_a_command(environ: dict[str, str], command: list[str], begun: str, keys: bytes) -> None:
    with terminal(command, environ=environ) as screen:
        screen.until(begun)
        screen.type(keys)
        assert screen.ended() == 130
    assert not re.search("Traceback|Error|ignored", screen.text)


def test_ctrl_c_at_a_bar_gives_the_cursor_back(environ: dict[str, str]) -> None:
    with terminal(["load", GEMMA], environ=environ) as screen:
        screen.until("50 %")
        screen.type(CTRL_C)
        assert screen.ended() == 130
    assert "".join(screen.rows).endswith(f"{GEMMA} is still loading; `suite unload {GEMMA}` stops it")
    assert screen.at_line_start
    assert not screen.cursor_is_hidden


@pytest.mark.parametrize(
    ("command", "begun"), [(["chat", SMOL], ">"), (["run", SMOL, "hi"], "half an answer")]
)
def test_sigterm_ends_a_command_in_order(environ: dict[str, str], command: list[str], begun: str) -> None:
    with terminal(command, environ=environ) as screen:
        screen.until(begun)
        screen.process.terminate()
        assert screen.ended() == 143
    assert "Traceback" not in screen.text


def test_ctrl_c_while_nothing_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        silent.settimeout(SECONDS)
        url = f"nats://127.0.0.1:{silent.getsockname()[1]}"
        with terminal(["chat", SMOL], environ={"SUITE_NATS_URL": url}) as screen:
            with silent.accept()[0]:
                screen.type(CTRL_C)
                assert screen.ended() == 130
    assert "Traceback" not in screen.text


def test_ctrl_c_while_the_service_starts(tmp_path: Path) -> None:
    with terminal(["serve", "--data-dir", str(tmp_path)], environ={}) as screen:
        while not (tmp_path / "lock").exists():
            assert screen.process.poll() is None
            time.sleep(0.01)
        screen.type(CTRL_C)
        assert screen.ended() in {0, 130}
    assert "Traceback" not in screen.text
