"""README: its length, its links, and its examples, run as they stand against a real service."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from pathlib import Path
from subprocess import STDOUT

import anyio
import msgspec
import nats
import pytest

from support.documents import REPOSITORY, WRITING, Block, alike, blocks, rewritten, stand_in
from support.models import SMOLLM2, smollm2
from support.service import Serving, serving
from support.terminal import terminal

README = REPOSITORY / "README.md"
WORDS = 1200
SECONDS = 60.0
COLUMNS = 260
ANSWERS = re.compile(r"(?<=^> )(.*)\n(.*)$", re.MULTILINE)
"""In the demo, a question and the line below it, which a model wrote."""


def examples(language: str, path: Path = README) -> list[Block]:
    return [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == language]


async def printed(command: list[str], **environ: str) -> str:
    with anyio.fail_after(SECONDS):
        done = await anyio.run_process(command, check=False, stderr=STDOUT, env={**os.environ, **environ})
    assert done.returncode == 0, done.stdout.decode()
    return done.stdout.decode()


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
    for block in examples("console"):
        for target in re.findall(r"^\$ make (\w+)", block.body, re.MULTILINE):
            assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_demo_prints_what_it_shows(tmp_path: Path) -> None:
    """The recipe of `make demo`, in a folder like a checkout in which all is installed."""
    (shown,) = (block for block in examples("console") if block.test == "demo")
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


@pytest.mark.timeout(120)
async def test_its_three_clients_are_answered(tmp_path: Path) -> None:
    async with serving(stand_in(tmp_path), tmp_path / "data") as service:
        async with anyio.create_task_group() as tasks:
            for client in (by_python, by_javascript, by_nats_cli):
                tasks.start_soon(client, service, tmp_path)


async def by_python(service: Serving, directory: Path) -> None:
    (example,) = examples("python")
    (directory / "example.py").write_text(example.body, encoding="utf-8")
    command = [sys.executable, str(directory / "example.py")]
    told = await printed(command, SUITE_DATA_DIR=str(service.data_dir))
    assert re.search(r"\w.*Usage\(prompt_tokens=\d+, reused_tokens=\d+, completion_tokens=\d+\)", told, re.S)


async def by_javascript(service: Serving, directory: Path) -> None:
    (example,) = examples("javascript")
    (directory / "example.mjs").write_text(example.body, encoding="utf-8")
    (directory / "node_modules").symlink_to(REPOSITORY / "examples" / "node_modules")
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    told = await printed([node, str(directory / "example.mjs"), str(service.data_dir / "connection.json")])
    assert re.search(r"\w.*\n success \{.*completion_tokens: 40", told, re.S)


async def by_nats_cli(service: Serving, _: Path) -> None:
    """The NATS CLI is no part of the tests: what it is told to send is sent by nats-py, as that user."""
    (example,) = examples("bash")
    found = service.connection_file()
    words = shlex.split(_filled(example.body, URL=found.url, PASSWORD=found.password or ""))
    options, rest = dict(zip(words[1:9:2], words[2:9:2], strict=True)), words[9:]
    assert (words[0], rest[0], len(rest)) == ("nats", "request", 3)
    client = await nats.connect(
        options["--server"],
        user=options["--user"],
        password=options["--password"],
        inbox_prefix=options["--inbox-prefix"],
    )
    try:
        reply = await client.request(rest[1], rest[2].encode(), timeout=SECONDS)
    finally:
        await client.close()
    assert msgspec.json.decode(reply.data)["status"] == "success"


def _filled(command: str, **variables: str) -> str:
    """A command line as a shell reads it."""
    command = command.replace("\\\n", " ")
    for name, value in variables.items():
        command = command.replace(f"${name}", value)
    return command
