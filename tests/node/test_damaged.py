"""What is found to be damaged is not served, also when it was loaded before that was known."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from pathlib import Path

import anyio
import pytest

from suite.catalogue import catalogue
from suite.catalogue.digests import sha256
from suite.config import Settings
from suite.errors import ModelFileInvalid
from suite.node import node as nodes
from suite.node.admission import Terms
from suite.node.startup import running_node
from support.models import tiny_model
from support.stores import HuggingFaceHub

PATIENCE = 20.0


async def test_weights_that_are_found_damaged_once_loaded_are_unloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = HuggingFaceHub(tmp_path / "hub")
    blob = hub.add("org/tiny", "a" * 40, "tiny.gguf", b"other content").resolve()
    tiny_model(blob)
    read = threading.Event()

    def slowly(paths: Iterable[Path], stop: threading.Event) -> str | None:
        read.wait(PATIENCE)
        return sha256(paths, stop)

    monkeypatch.setattr(catalogue, "sha256", slowly)  # as for a file that takes long to read
    monkeypatch.setattr(nodes, "DIGEST_SECONDS", 0.0)
    settings = Settings(
        node="box", data_dir=tmp_path / "data", models_directories=(hub.directory,), standby=False
    )
    async with running_node(settings) as node:
        tiny = await node.loadable("tiny")
        async with node.supervisor.hold(tiny, Terms(), correlation_id="c") as instance:
            await instance.wait_loaded()
            read.set()
            with anyio.fail_after(PATIENCE):
                while instance.unloading is None:
                    await instance.wait_change()
            with pytest.raises(ModelFileInvalid, match="tiny is damaged"):
                await node.loadable("tiny")
        assert instance.unloading == "file_changed"
        with anyio.fail_after(PATIENCE):
            while node.is_loaded("tiny"):
                await instance.wait_change()
        with pytest.raises(ModelFileInvalid, match="tiny is damaged"):
            await node.loadable("tiny")
