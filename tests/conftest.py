"""What holds for all tests."""

from __future__ import annotations

import compileall
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

import suite
from support.cpus import keep_to_own_cpus
from support.gateway import RunningGateway, running_gateway
from support.models import CHAT_TEMPLATE, slow_model, smollm2, tiny_model
from support.order import longest_first
from support.projector import END, START, tiny_projector
from support.reranker import tiny_reranker

# What a shell without job control starts in the background ignores Ctrl-C; so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
keep_to_own_cpus()
# Whether an example takes longer than usual says how busy the machine is, and nothing else.
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


def pytest_configure(config: pytest.Config) -> None:
    """Compile our source once, as pip does when it installs a package.

    Where Python may not write bytecode (PYTHONDONTWRITEBYTECODE), each of the many processes that the tests
    start would compile what it imports, which takes as long as all the rest of its start.
    """
    if not hasattr(config, "workerinput"):
        compileall.compile_dir(Path(suite.__file__).parent, quiet=2)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The workers get the files in this order, with `--dist loadfile --no-loadscope-reorder`."""
    longest_first(items)


@pytest.fixture(scope="session")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway before a node with SmolLM2 as `smollm2`, and models of random weights.

    These are `tiny`, `slow`, `seeing`, which reads pictures, and `ranker`, which ranks documents.
    """
    directory = tmp_path_factory.mktemp("gateway")
    models = directory / "models"
    models.mkdir()
    shutil.copyfile(smollm2(), models / "smollm2.gguf")  # a link would change the time of the file
    tiny_model(models / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    slow_model(models / "slow.gguf")
    tiny_model(models / "seeing.gguf", control=[START, END], chat_template=CHAT_TEMPLATE)
    tiny_projector(models / "mmproj-seeing.gguf")
    tiny_reranker(models / "ranker.gguf")
    with running_gateway(models, directory / "data") as running:
        yield running
