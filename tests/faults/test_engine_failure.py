"""An engine that fails in a way that nobody thought of, in the process of a model under a real service."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import pytest

import suite
from suite.engine.thread import ENGINE_FAILED_EXIT_CODE
from suite.errors import ActorCrashed
from suite.messages.events import InstanceCrashed
from support.models import slow_model
from support.service import history, serving

FAULT = """
import os
import sys

if "suite.actors.entry" in sys.orig_argv:
    from suite.engine.engine import Engine

    step = Engine.step

    def failing(self):
        if os.path.exists(os.environ["FAULT"]):
            raise MemoryError("nothing is left")
        step(self)

    Engine.step = failing
"""
"""A sitecustomize.py: Python runs it in every process of the service before anything else."""


async def test_it_costs_its_process_and_the_next_request_is_served(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "site").mkdir()
    slow_model(tmp_path / "models" / "slow.gguf")
    (tmp_path / "site" / "sitecustomize.py").write_text(FAULT)
    fault = tmp_path / "fault"
    data = tmp_path / "suite"
    path = os.pathsep.join([str(tmp_path / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environ = {"PYTHONPATH": path, "FAULT": str(fault)}
    async with (
        serving(tmp_path / "models", data, environ=environ) as service,
        suite.connect(data_dir=data) as client,
    ):
        with pytest.raises(ActorCrashed), anyio.fail_after(30):
            chunks = aiter(client.generate("slow", "the", max_tokens=4000))
            await anext(chunks)
            fault.touch()  # once: chunks still come when the process has met it
            async for _ in chunks:
                pass
        fault.unlink()  # the process may not: it is confined
        again = await client.generate_text("slow", "the", max_tokens=4)
        assert again.usage.completion_tokens == 4
        crashes = [
            each.data for each in await history(client, "instance") if isinstance(each.data, InstanceCrashed)
        ]
        assert [(each.exit_code, each.generations) for each in crashes] == [(ENGINE_FAILED_EXIT_CODE, 1)]
        assert "MemoryError" in service.errors.read_text()
