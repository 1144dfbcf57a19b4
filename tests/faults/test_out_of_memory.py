"""A model's process that the kernel kills for lack of memory: the log, the client and the errors say so."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import anyio
import pytest

import suite
from suite.client import Client
from suite.domain.incidents import incident
from suite.errors import ActorCrashed
from suite.messages.events import InstanceCrashed
from support.cgroups import joining, real_cgroup
from support.models import smollm2
from support.service import history, serving

LIMIT = 700 << 20

HOG = """
import pathlib, sys
kills = pathlib.Path(sys.argv[1])
held = []
while "oom_kill 0" in kills.read_text():
    held.append(b"x" * (4 << 20))
"""
"""Uses up the memory of its group until the kernel kills another process there."""


async def crash_of(client: Client, pid: int, *, cause: list[str] | None) -> tuple[InstanceCrashed, str]:
    """Have a generating process killed: the event, and what its client is told."""
    with pytest.raises(ActorCrashed) as caught, anyio.fail_after(60):
        async for chunk in client.generate("big", "Once", max_tokens=2000, temperature=0):
            if chunk.index == 1 and cause is None:
                os.kill(pid, signal.SIGKILL)
            elif chunk.index == 1 and cause is not None:
                await anyio.run_process(cause, check=False)  # the kernel may kill it too
    crashes = [each.data async for each in client.events("instance.*.big.>")]
    (*_, crash) = [each for each in crashes if isinstance(each, InstanceCrashed)]
    return crash, caught.value.message


async def loaded(client: Client) -> int:
    await client.load_model("big")
    status = await client.get_model_status("big")
    assert status.model is not None and status.model.instance is not None
    assert status.model.instance.pid is not None
    return status.model.instance.pid


async def test_a_kill_for_lack_of_memory_is_told_from_any_other(tmp_path: Path) -> None:
    """Skipped where no cgroup of version 1 can be made: nothing else can be made to run out of memory."""
    (tmp_path / "models").mkdir()
    # A copy: a link that another test makes to the same file at this moment would be a change of it.
    shutil.copyfile(smollm2(), tmp_path / "models" / "big.gguf")
    with real_cgroup("memory", {"memory.limit_in_bytes": str(LIMIT)}) as group:
        async with (
            serving(tmp_path / "models", tmp_path / "data", within=joining(group)),
            suite.connect(data_dir=tmp_path / "data") as client,
        ):
            assert (await client.get_stats()).memory_limit_bytes == int(LIMIT * 0.8)
            pid = await loaded(client)
            await anyio.Path(f"/proc/{pid}/oom_score_adj").write_text("1000")
            hog = [*joining(group), sys.executable, "-c", HOG, str(group / "memory.oom_control")]
            crash, message = await crash_of(client, pid, cause=hog)
            assert (crash.exit_code, crash.reason) == (-signal.SIGKILL, "out_of_memory")
            assert "the kernel killed it for lack of memory: set memory_limit_gb lower" in message
            error = incident(crash)
            assert error is not None and "for lack of memory" in error.message

            crash, message = await crash_of(client, await loaded(client), cause=None)
            assert (crash.exit_code, crash.reason) == (-signal.SIGKILL, None)
            assert "memory" not in message
            assert len(await history(client, "instance.*.big.crashed")) == 2
