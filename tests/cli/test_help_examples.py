"""Every example in the help of every command is run as it stands, against one service."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anyio
import pytest
from anyio.from_thread import start_blocking_portal

import suite
from suite.cli.main import COMMANDS
from suite.tasks import background
from support.adapters import adapter
from support.command import Command
from support.examples import help_examples
from support.histories import made_up_csv
from support.hub import serving_hub
from support.models import CHAT_TEMPLATE, slow_model, tiny_model
from support.old_database import old_database
from support.pictures import picture
from support.projector import tiny_projector
from support.service import serving
from support.terminal import CTRL_C, SUITE, terminal

MODELS = ("SmolLM2-135M-Instruct.Q4_1", "gemma-3-270m-it-Q4_K_M")
"""The models that `make demo` and `make test` fetch: here small ones have their names. The second has no chat
template, and so has the small one."""
GENERATION = "0199c0de-7a52-7c3e-b2a4-1d9f6c1f0a11"
"""What the example of `suite cancel` ends."""
HUB_REPOSITORY = "bartowski/Llama-3.2-1B-Instruct-GGUF"
QUANTIZATIONS = ("Q4_K_M", "Q8_0", "IQ4_XS")
"""What the examples of `suite pull` download, from a hub of our own."""
ELSEWHERE = ("serve", "demo", "push")
"""`serve` starts a service of its own, `test_demo.py` runs those of `demo`, and `push` needs a fleet."""

_SHELL_SYNTAX = re.compile(r"""[|$~><]|^\w+=""")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The directory of a person who has what the examples name, with a service that they find."""
    home = tmp_path_factory.mktemp("home")
    (home / "models").mkdir()
    (home / ".models").symlink_to(home / "models")
    for name in (MODELS[0], "tuned"):
        tiny_model(home / "models" / f"{name}.gguf", chat_template=CHAT_TEMPLATE, brief=True, name=name)
    tiny_model(home / "models" / f"{MODELS[1]}.gguf", brief=True)
    slow_model(home / "models" / "slow.gguf")
    tiny_model(home / "models" / "qwen2-vl.gguf", chat_template=CHAT_TEMPLATE, brief=True)
    tiny_projector(home / "models" / "mmproj-qwen2-vl.gguf")
    (home / "photo.jpg").write_bytes(picture((0, 0, 255), format="JPEG"))
    for name in ("pirate", "poet"):
        adapter(home / "models" / f"{name}.gguf", home / "models" / f"{MODELS[0]}.gguf")
    (home / "letter.txt").write_text("Dear reader, all is well.")
    (home / "questions.jsonl").write_text(
        '{"prompt": "What is the capital of France?", "contains": "Paris"}\n'
        '{"prompt": "Greet me.", "judge": "It is a greeting.", "max_tokens": 8}\n'
    )
    (home / "suite.toml").write_text("idle_timeout_seconds = 60.0\n")
    (home / "startup_config.yaml").write_text("ModelManagerSuite:\n  config:\n    vram_limit_gb: 2.0\n")
    (home / "promotion.toml").write_text("[gates]\nevaluations = 5\n\n[gates.accuracy]\nat_least = 0.8\n")
    (home / "requests.csv").write_text(made_up_csv(200))
    (home / "my_policies.py").write_text(
        "from suite.prediction.eviction.recency import LeastRecentlyUsed as Mine"
    )
    (home / "data").mkdir()
    for path in (home / "old.db", home / "data" / "model_evaluation.db"):
        old_database(path)
    for directory in (".zfunc", ".config/fish/completions"):
        (home / directory).mkdir(parents=True)
    service = serving(home / "models", home / "service", "--node", "box1", "--trace", "local")
    with (
        pytest.MonkeyPatch.context() as patch,
        serving_hub() as hub,
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(service),
    ):
        hub.files(HUB_REPOSITORY, {f"Llama-3.2-1B-Instruct-{each}.gguf": b"GGUF" for each in QUANTIZATIONS})
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(home / "hf"))
        patch.chdir(home)
        patch.setenv("HOME", str(home))
        patch.setenv("SUITE_DATA_DIR", str(home / "service"))
        patch.setenv("PATH", os.pathsep.join((str(Path(SUITE[0]).parent), os.environ["PATH"])))
        yield home


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in ELSEWHERE])
async def test_examples_of_a_command(home: Path, name: str) -> None:
    """In the order of the help: some need what those before them did, as when a person tries them."""
    for line in help_examples(name):
        if name == "cancel":
            await _cancelling(home, line)
        elif keys := _ends_by(line):
            await anyio.to_thread.run_sync(_on_a_terminal, line, *keys)
        elif _SHELL_SYNTAX.search(line):
            done = await anyio.run_process(["bash", "-o", "pipefail", "-c", line], check=False)
            assert done.returncode == 0, line
            assert b"error " not in done.stderr, line  # of a command within the command
        else:
            assert (await Command().run(*shlex.split(line)[1:])).returncode == 0, line


def _ends_by(line: str) -> tuple[str, bytes, int] | None:
    """What an example shows that does not end by itself, the keys that end it, and its exit code."""
    if line.startswith("suite events --follow"):
        return "suite.event.", CTRL_C, 130
    if line.startswith("suite gateway"):
        return "the models are at http://", CTRL_C, 0
    if re.fullmatch(r"suite chat .*|suite run \S+", line):
        return ">", b"/exit\r", 0
    return None


def _on_a_terminal(line: str, shown: str, keys: bytes, code: int) -> None:
    with terminal(["-c", line], program=["bash"]) as screen:
        screen.until(shown)
        screen.type(keys)
        assert screen.ended() == code, screen.text


async def _cancelling(home: Path, line: str) -> None:
    async with suite.connect(data_dir=home / "service") as client, background() as tasks:
        generation = client.generate("slow", "Once", max_tokens=4000, generation_id=GENERATION)
        tasks.start_soon(generation.finish)
        while [each.state for each in (await client.get_model_status()).generations] != ["generating"]:
            await anyio.sleep(0.05)
        assert "told to end" in await Command().output(*shlex.split(line)[1:])


def test_examples_of_serve(home: Path) -> None:
    lines = help_examples("serve")
    with ThreadPoolExecutor(max_workers=2) as threads:
        assert all(threads.map(_starts, lines, [home / f"service{each}" for each in range(len(lines))]))


def test_examples_of_the_program_are_those_of_its_commands() -> None:
    assert {*help_examples(None)} <= {line for name in COMMANDS for line in help_examples(name)}


def _starts(line: str, data_dir: Path) -> bool:
    with terminal(["-c", line], program=["bash"], environ={"SUITE_DATA_DIR": str(data_dir)}) as screen:
        screen.until("cannot be reached" if "nats://" in line else "  next ")
        screen.type(CTRL_C)
        return screen.ended() == 0
