"""The tutorial, command by command, as somebody would type it in a checkout after `make demo`."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from support.cpus import every_cpu
from support.documents import (
    REPOSITORY,
    WRITING,
    Block,
    Step,
    alike,
    alike_answer,
    blocks,
    rewritten,
    session,
    steps,
    typed,
)
from support.models import gemma, smollm2
from support.terminal import CTRL_C, Terminal, terminal

TUTORIAL = REPOSITORY / "docs" / "tutorial.md"
HOME = "/home/you"
COLUMNS = 260
SECONDS = 90.0
QUIET_SECONDS = 2.0
"""While the tutorial is written: nothing more comes of what has printed nothing for so long."""


@pytest.fixture(autouse=True)
def with_every_cpu() -> Iterator[None]:
    """What is shown tells of several threads."""
    with every_cpu():
        yield


class Desk:
    """Somebody's home with a checkout in it, a terminal in which the service runs, and others."""

    def __init__(self, home: Path, stack: ExitStack) -> None:
        self.checkout = home / "model-manager-suite"
        self.checkout.mkdir()
        assert gemma().parent == smollm2().parent
        (self.checkout / ".models").symlink_to(smollm2().parent)
        self._home = home
        self._stack = stack
        self._service: Terminal | None = None

    def do(self, step: Step, *, stays: bool) -> str:
        """What a step of the tutorial prints."""
        if step.command == "^C":
            return self._told(self._interrupt())
        if stays:
            return self._told(self._start(step))
        shown = self._terminal(step.command)
        for number, line in enumerate(typed(step), 1):
            shown.until(">", times=number)
            shown.type(line.encode() + b"\n")
        shown.ended()
        return self._told(shown.rows)

    def _terminal(self, command: str) -> Terminal:
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return self._stack.enter_context(
            terminal(
                ["-c", f"cd {self.checkout}\n{command}"],
                program=["bash"],
                columns=COLUMNS,
                environ={
                    "HOME": str(self._home),
                    "PATH": path,
                    "SUITE_NODE": "laptop",
                    # Beside other tests: threads that spin while they wait take minutes there.
                    "OMP_WAIT_POLICY": "passive",
                },
                seconds=SECONDS,
            )
        )

    def _start(self, step: Step) -> list[str]:
        self._service = self._terminal(f"exec {step.command}")
        lines = alike(step.output)
        if WRITING:
            self._service.until("serves")
            self._service.settle(QUIET_SECONDS)
            return self._service.rows
        self._service.until(max(re.split(r"NUMBER|QUANTITY|ID|\s", lines[-1]), key=len))
        return self._service.rows[: len(lines)]

    def _interrupt(self) -> list[str]:
        assert self._service is not None
        self._service.settle(0)
        before = len(self._service.rows)
        self._service.type(CTRL_C)
        assert self._service.ended() == 0
        return [row.removeprefix("^C") for row in self._service.rows[before:] if row != "^C"]

    def _told(self, rows: list[str]) -> str:
        return "".join(f"{row}\n" for row in rows).replace(str(self._home), HOME)


@contextmanager
def desk(home: Path) -> Iterator[Desk]:
    with ExitStack() as stack:
        yield Desk(home, stack)


@pytest.mark.timeout(240)
def test_the_tutorial_is_what_happens(tmp_path: Path) -> None:
    text = TUTORIAL.read_text(encoding="utf-8")
    written: dict[Block, str] = {}
    with desk(tmp_path) as at:
        for block in blocks(text):
            if block.title:
                (at.checkout / block.title).write_text(block.body, encoding="utf-8")
            if block.language == "console":
                written[block] = session(seen(at, block))
    if WRITING:
        TUTORIAL.write_text(rewritten(text, written), encoding="utf-8")


def seen(at: Desk, block: Block) -> list[Step]:
    """The steps of a block with what they print, which is what the block shows."""
    done = []
    shown = steps(block.body)
    for step in shown:
        output = at.do(step, stays=block.test == "stays" and step is shown[-1])
        done.append(step._replace(output=output))
        if not WRITING:
            compared = alike_answer if block.test == "answer" else alike
            assert compared(output) == compared(step.output), f"$ {step.command}\n{output}"
    return done
