"""The programs in README and on the site's pages, run as they stand against one real service."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL, STDOUT

import anyio
import msgspec
import nats
import pytest

from support.documents import REPOSITORY, Block, Step, examples, stand_in, steps
from support.models import CHAT_TEMPLATE, tiny_model
from support.pictures import picture
from support.projector import END, START, tiny_projector
from support.service import Serving

README = REPOSITORY / "README.md"
PAGES = sorted((REPOSITORY / "docs" / "how-to").glob("*.md"))
SECONDS = 90.0
USAGE = (
    r"\w.*Usage\(prompt_tokens=\d+, reused_tokens=\d+, completion_tokens=\d+, reasoning_tokens=\d+, "
    r"drafted_tokens=\d+, accepted_tokens=\d+\)"
)


async def printed(command: list[str], *, cwd: Path | None = None, **environ: str) -> str:
    variables = {**os.environ, **environ}
    done = await anyio.run_process(command, check=False, stderr=STDOUT, env=variables, cwd=cwd)
    assert done.returncode == 0, f"{command}\n{done.stdout.decode()}"
    return done.stdout.decode()


@pytest.mark.timeout(120)
async def test_every_program_runs(tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    (checkout / ".venv").symlink_to(sys.prefix)
    (checkout / ".models").symlink_to(seeing(stand_in(tmp_path)))
    (checkout / "photo.jpg").write_bytes(picture((255, 0, 0), format="JPEG"))
    (checkout / "node_modules").symlink_to(REPOSITORY / "examples" / "node_modules")
    ending = [
        stored(checkout, page, block, ".py")
        for page in PAGES
        for block in examples(page, "python")
        if "asyncio.run(main())" in block.body
    ]
    following = [
        stored(checkout, page, block, suffix)
        for page in PAGES
        for language, suffix in (("python", ".py"), ("javascript", ".mjs"))
        for block in examples(page, language)
        if "sys.argv[1]" in block.body or "process.argv[2]" in block.body
    ]
    assert (len(ending) > 4, len(following)) == (True, 2)
    (terminals,) = (block for block in examples(README, "console") if block.test == "two terminals")
    serve, answer = steps(terminals.body)
    assert "MODEL := .models/" in (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    async with typed(serve, checkout, tmp_path / "data") as service:
        with anyio.fail_after(SECONDS):
            async with anyio.create_task_group() as tasks:
                for client in (by_python, by_javascript, by_nats_cli):
                    tasks.start_soon(client, service, checkout)
                for program in ending:
                    tasks.start_soon(run, service, program)
                for program in following:
                    tasks.start_soon(until_a_generation_is_told, service, program)
                tasks.start_soon(in_the_other_terminal, service, checkout, answer)


def seeing(models: Path) -> Path:
    """The folder, with a small model that reads pictures as well, which the page about them names."""
    name = "gemma-3-4b-it"
    tiny_model(models / f"{name}-Q4_K_M.gguf", control=[START, END], chat_template=CHAT_TEMPLATE, context=512)
    tiny_projector(models / f"mmproj-{name}-f16.gguf")
    return models


@asynccontextmanager
async def typed(serve: Step, checkout: Path, data_dir: Path) -> AsyncIterator[Serving]:
    """The service as the README says to start it."""
    errors = data_dir.with_suffix(".stderr")
    command = ["bash", "-c", f"cd {checkout} && exec {serve.command}"]
    with errors.open("wb") as stderr:
        process = await anyio.open_process(
            command, stdout=DEVNULL, stderr=stderr, env={**os.environ, "SUITE_DATA_DIR": str(data_dir)}
        )
    service = Serving(process, data_dir, errors)
    try:
        await service.ready()
        yield service
        assert await service.stop() == 0
    finally:
        with anyio.CancelScope(shield=True):
            await service.kill()
            await process.aclose()


async def in_the_other_terminal(service: Serving, checkout: Path, answer: Step) -> None:
    command = ["bash", "-c", f"cd {checkout} && {answer.command}"]
    assert (await printed(command, SUITE_DATA_DIR=str(service.data_dir))).strip()


async def run(service: Serving, path: Path) -> str:
    """What a Python program prints, which finds the service as it would any other.

    It runs where it lies, with the files that it reads beside it.
    """
    command = [sys.executable, str(path)]
    return await printed(command, cwd=path.parent, SUITE_DATA_DIR=str(service.data_dir))


async def until_a_generation_is_told(service: Serving, path: Path) -> None:
    """Run a program that follows the log until it prints an event of usage."""
    interpreter = sys.executable if path.suffix == ".py" else node()
    command = [interpreter, str(path), str(service.data_dir / "connection.json")]
    told = ""
    async with await anyio.open_process(command, stderr=STDOUT) as process:
        assert process.stdout is not None
        async for piece in process.stdout:
            told += piece.decode()
            if re.search(
                r"^(SmolLM2-135M-Instruct\.Q4_1 \d+|\d+ suite\.usage\.generated\S* .*)$", told, re.MULTILINE
            ):
                process.kill()
                return
    pytest.fail(f"{path.name} ended: {told}")


def node() -> str:
    return shutil.which("node") or str(Path(sys.executable).with_name("node"))


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
    told = await printed([node(), str(program), str(service.data_dir / "connection.json")])
    assert re.search(r"\w.*\n success \{.*completion_tokens: 40", told, re.DOTALL)


async def by_nats_cli(service: Serving, _: Path) -> None:
    """The NATS CLI is no part of the tests: what it is told to send is sent by nats-py, as that user.

    It finds the server and the user in the variables that `suite credentials` prints.
    """
    (example,) = examples(README, "bash")
    words = shlex.split(example.body.replace("\\\n", " "))
    assert (words[:3], words[3], len(words)) == (["nats", "--inbox-prefix", "_INBOX.operator"], "request", 6)
    found = await printed(
        [
            sys.executable,
            "-m",
            "suite",
            "credentials",
            "show",
            "operator",
            "--data-dir",
            str(service.data_dir),
        ]
    )
    variables = dict(re.findall(r"(NATS_\w+)=(\S+)", found))
    client = await nats.connect(
        variables["NATS_URL"],
        user=variables["NATS_USER"],
        password=variables["NATS_PASSWORD"],
        inbox_prefix=words[2],
    )
    try:
        reply = await client.request(words[4], words[5].encode(), timeout=SECONDS)
    finally:
        await client.close()
    assert msgspec.json.decode(reply.data)["status"] == "success"
