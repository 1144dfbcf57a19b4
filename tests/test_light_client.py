"""The wheel without an extra: the Python client and the command line, for a service that runs elsewhere."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from zipfile import ZipFile

import pytest

from suite.cli.main import COMMANDS
from support.models import tiny_model
from support.service import serving

pytestmark = pytest.mark.timeout(120)  # they fetch what the client depends on

ROOT = Path(__file__).parent.parent
LARGEST_BYTES = 40_000_000
NEEDS_SERVE = {"serve", "demo"}

CLIENT = """
import asyncio, sys
import suite

async def main() -> None:
    async with suite.connect(data_dir=sys.argv[1]) as client:
        answer = client.generate("tiny", "a", max_tokens=3)
        async for chunk in answer:
            pass
        print(answer.reply.usage.completion_tokens)

asyncio.run(main())
"""

READING = (
    *(
        "models",
        "load tiny",
        "status tiny",
        "status",
        "health",
        "stats",
        "events",
        "usage",
        "metrics",
        "errors",
    ),
    *("evaluations", "compare", "fleet", "predict", "clear", "unload tiny", "credentials"),
)
COMMAND_BY_COMMAND = """
import sys
from suite.cli.main import main

option, data_dir, *commands = sys.argv[1:]
sys.exit(max(main([*command.split(), option, data_dir]) for command in commands))
"""
"""Runs commands one after the other in one process, since each process costs half a second."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-deps", "--wheel-dir", str(directory), str(ROOT))
    (built,) = directory.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def light(wheel: Path) -> Path:
    """A Python with the wheel and what it depends on, and nothing else."""
    environment = wheel.parent / "venv"
    run([sys.executable, "-m", "venv", "--without-pip", str(environment)])
    python = environment / "bin" / "python"
    pip("--python", str(python), "install", "--constraint", str(ROOT / "constraints.txt"), str(wheel))
    return python


def pip(*arguments: str) -> None:
    done = run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments])
    assert done.returncode == 0, done.stderr


def run(command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=50)


def test_the_wheel_has_the_schemas_and_its_types(wheel: Path) -> None:
    with ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        described = archive.read(metadata).decode()
    schemas = {
        f"suite/schemas/{path.relative_to(ROOT / 'schemas')}" for path in ROOT.glob("schemas/**/*.json")
    }
    assert schemas and schemas <= names
    assert "suite/py.typed" in names
    assert "Classifier: Typing :: Typed" in described


async def test_a_client_is_light_and_works(light: Path, tmp_path: Path) -> None:
    installed = (light.parent.parent / "lib").rglob("*")
    assert sum(path.stat().st_size for path in installed if path.is_file()) < LARGEST_BYTES
    assert run([str(light), "-c", "import llama_cpp"]).returncode != 0
    suite = str(light.with_name("suite"))
    (tmp_path / "models").mkdir()
    tiny_model(tmp_path / "models" / "tiny.gguf")
    async with serving(tmp_path / "models", tmp_path / "data"):
        where = ["--data-dir", str(tmp_path / "data")]
        assert run([str(light), "-c", CLIENT, *where[1:]]).stdout == "3\n"
        assert "tiny" in run([suite, "models", *where]).stdout
        read = run([str(light), "-c", COMMAND_BY_COMMAND, *where, *READING])
        assert (read.returncode, read.stderr) == (0, "")
        generated = run([suite, "generate", "tiny", "a", "--max-tokens", "3", *where])
        assert (generated.returncode, generated.stderr) == (0, "")


def test_each_command_of_a_light_client_has_help_or_names_the_extra(light: Path) -> None:
    suite = str(light.with_name("suite"))
    everything = (
        "import sys; from suite.cli.main import main;"
        f" sys.exit(max(main([name, '--help']) for name in {[*COMMANDS]}))"
    )
    helped = run([str(light), "-c", everything])
    assert (helped.returncode, helped.stderr) == (0, "")
    for name in NEEDS_SERVE:
        refused = run([suite, name])
        assert refused.returncode == 2
        assert refused.stderr.startswith(f"error not_installed: suite {name} needs the extra [serve]")
        assert refused.stderr.count("\n") == 1


def test_help_shows_how_to_connect() -> None:
    shown = run([sys.executable, "-c", "import suite; help(suite)"]).stdout
    assert "async with suite.connect() as client" in shown
    assert "    connect(" in shown
