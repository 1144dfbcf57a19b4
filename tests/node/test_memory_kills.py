"""A process that the kernel kills for lack of memory: here it is killed by the test, and the count goes up.

tests/faults/test_out_of_memory.py has a kernel do it, where a test may make a cgroup.
"""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from subprocess import PIPE

import anyio
import anyio.abc
import pytest

import suite
import suite.node.process
from suite.cgroups import Cgroups
from suite.config import Settings
from suite.errors import LoadFailed
from suite.messages.events import InstanceCrashed
from suite.node.memory_kills import MemoryKills
from suite.node.process import open_process
from suite.node.startup import running_node
from support.models import tiny_model
from support.service import history

KILLED, ABORTED = -signal.SIGKILL, -signal.SIGABRT


class Kernel:
    kills = 3

    def count(self) -> int:
        return self.kills


def test_each_kill_explains_one_death_by_sigkill_of_a_process_that_lived_then() -> None:
    kernel = Kernel()
    kills = MemoryKills(kernel.count)
    assert not kills.explain(KILLED, before=3)
    kernel.kills = 5
    assert not kills.explain(ABORTED, before=3)
    assert kills.explain(KILLED, before=3)
    assert kills.explain(KILLED, before=3)
    assert not kills.explain(KILLED, before=3)
    kernel.kills = 6
    assert not kills.explain(KILLED, before=6)


async def test_loads_and_generations_are_told_that_the_kernel_killed_their_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    kernel = Kernel()
    monkeypatch.setattr(Cgroups, "out_of_memory_kills", lambda _: kernel.count())
    tiny_model(tmp_path / "tiny.gguf")
    settings = Settings(data_dir=tmp_path / "data", models_directories=(tmp_path,), standby=False)

    async def killed(_inherited: Sequence[int], *, exports_spans: bool) -> anyio.abc.Process:
        assert not exports_spans
        kernel.kills += by_kernel
        line = '{"time": "0001-01-01T00:00:00", "level": "warning", "logger": "suite.x", "message": "odd"}'
        command = f"echo '{line}' >&2; echo as it is >&2; kill -9 $$"
        return await anyio.open_process(command, stdin=PIPE, stdout=PIPE, stderr=PIPE)

    async with running_node(settings) as node, suite.connect(data_dir=tmp_path / "data") as client:
        for by_kernel, words in (
            (1, "the kernel killed it for lack of memory"),
            (0, r"exit code -9 \(SIGKILL\)"),
        ):
            monkeypatch.setattr(suite.node.process, "open_process", killed)
            with pytest.raises(LoadFailed, match=words):
                await client.load_model("tiny")
            monkeypatch.setattr(suite.node.process, "open_process", open_process)
            await client.load_model("tiny")
            instance = node.supervisor.instances["tiny"]
            assert instance.process is not None
            kernel.kills += by_kernel
            os.kill(instance.process.pid, signal.SIGKILL)
            with anyio.fail_after(20):
                await instance.wait_gone()
            assert instance.failure is not None
            assert ("for lack of memory" in instance.failure.message) is bool(by_kernel)
            await client.release_model("tiny")
        crashes = [each.data for each in await history(client, "instance.*.tiny.crashed")]
        assert [each.reason for each in crashes if isinstance(each, InstanceCrashed)] == [
            "out_of_memory",
            None,
        ]
    assert {("suite.x", logging.WARNING, "odd"), ("suite.actor", logging.INFO, "as it is")} <= {
        *caplog.record_tuples
    }
