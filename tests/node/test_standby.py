"""The process that stands ready: what it saves, and that it never costs a load nor outlives its node."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext
from pathlib import Path

import anyio
import anyio.abc
import psutil
import pytest

import suite.node.process
import suite.node.standby
from suite.client import Client
from suite.messages.actor import AnyReport, Failed, Loading, Ready
from suite.node.process import ActorProcess, end_process, open_process
from suite.node.standby import PAUSE_SECONDS, Standby
from support.actors import Stage, spec, stage
from support.models import tiny_model
from support.service import (
    WITH_STANDBY,
    WITHOUT_STANDBY,
    Serving,
    facts,
    history,
    service_and_client,
    serving,
)

pytestmark = pytest.mark.usefixtures("tiny")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf")


# --- by itself ------------------------------------------------------------------------------------------


@asynccontextmanager
async def kept(
    monkeypatch: pytest.MonkeyPatch, leave_core: Callable[[], AbstractContextManager[object]] = nullcontext
) -> AsyncIterator[Standby]:
    """A reserve that is kept without pauses; no process of it may be left."""
    monkeypatch.setattr(suite.node.standby, "PAUSE_SECONDS", 0.01)
    standby = Standby(leave_core=leave_core)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(standby.keep, lambda: True)
        yield standby
        tasks.cancel_scope.cancel()
    assert await standby.take() is None


@asynccontextmanager
async def taken(standby: Standby) -> AsyncIterator[anyio.abc.Process]:
    """The process that stands ready, once there is one; not even a test that fails leaves it."""
    with anyio.fail_after(20):
        while (process := await standby.take()) is None:
            await anyio.sleep(0.01)
    try:
        yield process
    finally:
        await end_process(process)


async def outcome(on: Stage, model: Path, process: anyio.abc.Process) -> tuple[int, list[AnyReport]]:
    """Who loads the model when `process` stands ready, and what it reports until the load has ended."""
    reports: list[AnyReport] = []
    with anyio.fail_after(30):
        async with ActorProcess.start(spec(model, nats=on.server.access), process) as actor:
            async for report in actor.reports():
                reports.append(report)
                if isinstance(report, Ready | Failed):
                    break
            return actor.pid, reports


async def test_it_loads_as_a_new_one_does_and_leaves_nothing(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as on, kept(monkeypatch) as standby, taken(standby) as process:
        pid, reports = await outcome(on, tiny, process)
        assert pid == process.pid
        assert isinstance(reports[-1], Ready)
        assert all(isinstance(report, Loading) for report in reports[:-1])
        assert not psutil.pid_exists(pid)
        async with taken(standby) as following:
            assert following.pid != pid


async def test_it_has_the_surroundings_of_a_new_one(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path) as on, kept(monkeypatch) as standby, taken(standby) as process:
        async with (
            ActorProcess.start(spec(tiny, nats=on.server.access), process) as ready,
            ActorProcess.start(spec(tiny, nats=on.server.access)) as new,
        ):
            first, second = psutil.Process(ready.pid), psutil.Process(new.pid)
            while not second.environ():  # it is being started
                await anyio.sleep(0.01)
            assert first.environ() == second.environ()
            assert first.environ()["GGML_NO_BACKTRACE"] == "1"
            assert first.cwd() == second.cwd()
            assert os.getsid(ready.pid) == ready.pid


@pytest.mark.parametrize("fault", [signal.SIGKILL, signal.SIGSTOP])
async def test_one_that_died_or_hangs_is_replaced_for_the_load(
    tmp_path: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch, fault: signal.Signals
) -> None:
    if fault == signal.SIGSTOP:
        monkeypatch.setattr(suite.node.process, "TAKE_SECONDS", 0.1)
    async with stage(tmp_path) as on, kept(monkeypatch) as standby, taken(standby) as process:
        os.kill(process.pid, fault)
        pid, reports = await outcome(on, tiny, process)
        assert pid != process.pid
        assert isinstance(reports[-1], Ready)
        assert not psutil.pid_exists(process.pid)


async def test_a_bad_file_is_not_taken_for_a_process_that_died(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "bad.gguf").write_text("no model")
    async with stage(tmp_path) as on, kept(monkeypatch) as standby, taken(standby) as process:
        pid, reports = await outcome(on, tmp_path / "bad.gguf", process)
        assert pid == process.pid
        assert isinstance(reports[-1], Failed)
        assert reports[-1].code == "load_failed"


async def test_models_leave_it_a_core_only_while_it_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.node.standby, "IMPORT_SECONDS", 600.0)
    imported = anyio.Event()

    @contextmanager
    def leave_core() -> Iterator[None]:
        yield
        imported.set()

    async with kept(monkeypatch, leave_core) as standby:
        with anyio.fail_after(20):
            await imported.wait()
        async with taken(standby) as process:
            assert process.returncode is None


async def test_where_no_process_can_be_started_it_is_tried_again_and_nobody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failures = 0

    async def fails_twice(inherited: Sequence[int], *, exports_spans: bool) -> anyio.abc.Process:
        nonlocal failures
        if failures < 2:
            failures += 1
            raise BlockingIOError("no more processes")
        return await open_process(inherited, exports_spans=exports_spans)

    monkeypatch.setattr(suite.node.standby, "open_process", fails_twice)
    async with kept(monkeypatch) as standby:
        assert await standby.take() is None
        async with taken(standby):
            assert failures == 2


async def test_without_room_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite.node.standby, "PAUSE_SECONDS", 0.001)
    asked = 0

    def no_room() -> bool:
        nonlocal asked
        asked += 1
        return False

    standby = Standby()
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(standby.keep, no_room)
        with anyio.fail_after(10):
            while asked < 5:
                await anyio.sleep(0.001)
        assert await standby.take() is None
        tasks.cancel_scope.cancel()


# --- in a service ---------------------------------------------------------------------------------------


def model_processes(service: Serving) -> set[int]:
    """The processes of models that a service has, with the one that stands ready."""
    return {
        child.pid
        for child in psutil.Process(service.pid).children()
        if child.status() != psutil.STATUS_ZOMBIE and "suite.actors.entry" in child.cmdline()
    }


async def standing(service: Serving, *, beside: set[int]) -> int:
    """Wait for a process that stands ready."""
    with anyio.fail_after(20):
        while not (found := model_processes(service) - beside):
            await anyio.sleep(0.02)
    (pid,) = found
    return pid


async def gone(pid: int) -> None:
    with anyio.fail_after(20):
        while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
            await anyio.sleep(0.02)


async def pid_of(client: Client, model_id: str) -> int:
    model = (await client.get_model_status(model_id)).model
    assert model is not None and model.instance is not None and model.instance.pid is not None
    return model.instance.pid


async def test_a_load_takes_it_and_the_next_stands_ready_until_the_node_stops(tmp_path: Path) -> None:
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (service, client):
        ready = await standing(service, beside=set())
        await client.load_model("tiny")
        assert await pid_of(client, "tiny") == ready
        assert (await client.generate_text("tiny", "Once", max_tokens=4)).usage.completion_tokens == 4
        following = await standing(service, beside={ready})
        assert await service.stop() == 0
        assert not psutil.pid_exists(ready)
        assert not psutil.pid_exists(following)


async def test_when_it_is_killed_a_load_starts_its_own(tmp_path: Path) -> None:
    async with service_and_client(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as (service, client):
        ready = await standing(service, beside=set())
        os.kill(ready, signal.SIGKILL)
        await client.load_model("tiny")
        assert await pid_of(client, "tiny") != ready
        assert facts(await history(client, "instance")) == ["instance.load_started", "instance.loaded"]


async def test_it_ends_with_a_node_that_is_killed(tmp_path: Path) -> None:
    async with serving(tmp_path, tmp_path / "data", environ=WITH_STANDBY) as service:
        ready = await standing(service, beside=set())
        await service.kill()
        await gone(ready)


async def test_switched_off_there_is_none(tmp_path: Path) -> None:
    async with serving(tmp_path, tmp_path / "data", environ=WITHOUT_STANDBY) as service:
        await anyio.sleep(2 * PAUSE_SECONDS)
        assert model_processes(service) == set()


@pytest.mark.parametrize(("number", "is_told"), [(signal.SIGINT, False), (signal.SIGSEGV, True)])
async def test_a_ctrl_c_that_ends_it_before_it_has_its_session_is_no_trouble(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: signal.Signals, is_told: bool
) -> None:
    started = 0

    async def open_process_that_ends(*_: object, **__: object) -> anyio.abc.Process:
        nonlocal started
        started += 1
        return await anyio.open_process(["sh", "-c", f"kill -{number.value} $$"])

    monkeypatch.setattr(suite.node.standby, "open_process", open_process_that_ends)
    async with kept(monkeypatch):
        with anyio.fail_after(20):
            while started < 2:
                await anyio.sleep(0.01)
    assert any("ended with exit code" in text for text in caplog.messages) == is_told
