"""README: its length, its links, its two commands and what they print. `test_programs` runs its programs."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from support.documents import REPOSITORY, WRITING, alike, examples, rewritten, stand_in
from support.models import SMOLLM2, smollm2
from support.terminal import terminal

README = REPOSITORY / "README.md"
WORDS = 1200
SECONDS = 50.0
COLUMNS = 260
ANSWERS = re.compile(r"^(> .*|\$ curl .*)\n(.*)$", re.MULTILINE)
"""In the demo, a question and the line below it, which a model wrote."""


def test_it_is_short() -> None:
    assert len(README.read_text(encoding="utf-8").split()) < WORDS


def test_its_links_lead_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)", README.read_text(encoding="utf-8"))
    assert len(links) > 10
    missing = [
        link for link in links if not link.startswith("https://") and not (REPOSITORY / link).is_file()
    ]
    assert missing == []


def test_its_two_commands_are_there() -> None:
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    commands = "".join(block.body for block in examples(README, "console"))
    targets = re.findall(r"^\$ make (\w+)", commands, re.MULTILINE)
    assert targets == ["demo", "test"]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_demo_prints_what_it_shows(tmp_path: Path) -> None:
    """The recipe of `make demo`, in a folder like a checkout in which all is installed."""
    (shown,) = (block for block in examples(README, "console") if block.test == "demo")
    assert "$(BIN)/suite demo --model $(MODEL)" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    (tmp_path / ".venv").symlink_to(sys.prefix)
    (tmp_path / ".models").symlink_to(smollm2().parent if WRITING else stand_in(tmp_path))
    command = f"cd {tmp_path} && .venv/bin/suite demo --model .models/{SMOLLM2}"
    with terminal(["-c", command], program=["bash"], columns=COLUMNS, seconds=SECONDS) as screen:
        assert screen.ended() == 0
    told = _shortened(screen.text)
    if WRITING:
        text = README.read_text(encoding="utf-8")
        README.write_text(rewritten(text, {shown: told}), encoding="utf-8")
    else:
        assert _compared(told) == _compared(shown.body)


def _shortened(told: str) -> str:
    """The demo without the events, which are long lines."""
    before, events, after = told.strip().partition("$ suite events\n")
    listed, _, end = after.partition("\n\n")
    assert len(re.findall(r"^ +\d+ .* suite\.event\.", listed, re.MULTILINE)) >= 7
    return f"{before}{events}...\n\n{end}\n"


def _compared(told: str) -> list[str]:
    return alike(ANSWERS.sub(r"\1\nANSWER", told))
