"""The programs in README and on the site's pages, run as they stand against one real service."""

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

from support.documents import REPOSITORY, Block, blocks, stand_in
from support.service import Serving, serving

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))
SECONDS = 90.0
USAGE = r"\w.*Usage\(prompt_tokens=\d+, reused_tokens=\d+, completion_tokens=\d+\)"


def examples(path: Path, language: str) -> list[Block]:
    return [block for block in blocks(path.read_text(encoding="utf-8")) if block.language == language]


async def printed(command: list[str], **environ: str) -> str:
    done = await anyio.run_process(command, check=False, stderr=STDOUT, env={**os.environ, **environ})
    assert done.returncode == 0, f"{command}\n{done.stdout.decode()}"
    return done.stdout.decode()


@pytest.mark.timeout(120)
async def test_every_program_runs(tmp_path: Path) -> None:
    programs = [
        stored(tmp_path, page, block, ".py")
        for page in PAGES
        for block in examples(page, "python")
        if "asyncio.run(main())" in block.body
    ]
    assert len(programs) > 4
    async with serving(stand_in(tmp_path), tmp_path / "data") as service:
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for client in (by_python, by_javascript, by_nats_cli):
                    tasks.start_soon(client, service, tmp_path)
                for program in programs:
                    tasks.start_soon(run, service, program)


async def run(service: Serving, path: Path) -> str:
    """What a Python program prints, which finds the service as it would any other."""
    return await printed([sys.executable, str(path)], SUITE_DATA_DIR=str(service.data_dir))


def stored(directory: Path, page: Path, program: Block, suffix: str) -> Path:
    path = directory / f"{page.stem}-{program.start}{suffix}"
    path.write_text(program.body, encoding="utf-8")
    return path


async def by_python(service: Serving, directory: Path) -> None:
    (example,) = examples(README, "python")
    assert re.search(USAGE, await run(service, stored(directory, README, example, ".py")), re.DOTALL)


async def by_javascript(service: Serving, directory: Path) -> None:
    (example,) = examples(README, "javascript")
    program = stored(directory, README, example, ".mjs")
    (directory / "node_modules").symlink_to(REPOSITORY / "examples" / "node_modules")
    node = shutil.which("node") or str(Path(sys.executable).with_name("node"))
    told = await printed([node, str(program), str(service.data_dir / "connection.json")])
    assert re.search(r"\w.*\n success \{.*completion_tokens: 40", told, re.DOTALL)


async def by_nats_cli(service: Serving, _: Path) -> None:
    """The NATS CLI is no part of the tests: what it is told to send is sent by nats-py, as that user."""
    (example,) = examples(README, "bash")
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
