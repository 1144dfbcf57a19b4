"""What `suite serve` and `suite gateway` tell systemd, on a real socket."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL

import anyio
import psutil
import pytest

from suite.bus.embedded import find_server
from suite.service_manager import ServiceManager
from support.nats import eventually
from support.service import Serving, serving

WATCHDOG_SECONDS = 3


class Manager:
    """The socket that a manager of services listens on, and all that came."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        self._told: list[str] = []

    @property
    def environ(self) -> dict[str, str]:
        return {"NOTIFY_SOCKET": str(self.path), "WATCHDOG_USEC": str(WATCHDOG_SECONDS * 1_000_000)}

    @property
    def told(self) -> list[str]:
        """Everything so far, in order."""
        while True:
            try:
                self._told.append(self._socket.recv(4096).decode())
            except BlockingIOError:
                return self._told

    async def hears(self, fact: str, *, times: int = 1) -> None:
        await eventually(lambda: self.told.count(fact) >= times)

    def close(self) -> None:
        self._socket.close()


@asynccontextmanager
async def manager(directory: Path) -> AsyncIterator[Manager]:
    listening = Manager(directory / "notify")
    try:
        yield listening
    finally:
        listening.close()


def server_of(service: Serving) -> psutil.Process:
    children = psutil.Process(service.pid).children(recursive=True)
    return next(each for each in children if "nats-server" in each.name())


async def slow_server(directory: Path) -> Path:
    """A nats-server whose start takes as long as there is a file `slow` beside it, as with a large store."""
    program = directory / "bin" / "nats-server"
    program.parent.mkdir()
    slow = program.with_name("slow")
    program.write_text(
        "#!/bin/sh\n"
        f'while [ "$1" = -c ] && [ -e {shlex.quote(str(slow))} ]; do sleep 0.1; done\n'
        f'exec {shlex.quote(await find_server())} "$@"\n'
    )
    program.chmod(0o700)
    return slow


async def test_a_node_says_that_it_starts_serves_works_and_stops(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    slow = await slow_server(tmp_path)
    path = {"PATH": f"{slow.parent}{os.pathsep}{os.environ['PATH']}"}
    async with (
        manager(tmp_path) as listening,
        serving(
            tmp_path / "models", tmp_path / "data", "--node", "box1", environ=listening.environ | path
        ) as service,
    ):
        await listening.hears("READY=1")
        await listening.hears("STATUS=node box1 serves 0 models")
        await listening.hears("WATCHDOG=1", times=2)
        assert "EXTEND_TIMEOUT_USEC=20000000" in listening.told[: listening.told.index("READY=1")]

        server = server_of(service)
        assert "NOTIFY_SOCKET" not in server.environ()  # it would speak for the node
        server.send_signal(signal.SIGSTOP)
        try:
            await eventually(lambda: "does not work as it should" in service.errors.read_text())
            fed = listening.told.count("WATCHDOG=1")
            await anyio.sleep(WATCHDOG_SECONDS / 2)
            assert listening.told.count("WATCHDOG=1") == fed
        finally:
            server.send_signal(signal.SIGCONT)
        await listening.hears("WATCHDOG=1", times=fed + 1)

        slow.touch()
        server.kill()
        await eventually(lambda: "it is started again" in service.errors.read_text())
        fed = listening.told.count("WATCHDOG=1")
        await listening.hears("WATCHDOG=1", times=fed + 3)  # it is well while its server reads the store
        slow.unlink()
        await eventually(lambda: "is up again" in service.errors.read_text())

        service.process.send_signal(signal.SIGTERM)
        await listening.hears("STOPPING=1")
        assert await service.stop() == 0


async def test_a_gateway_says_that_it_serves(tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    async with (
        manager(tmp_path) as listening,
        serving(tmp_path / "models", tmp_path / "data"),
    ):
        command = [sys.executable, "-m", "suite", "gateway", "--data-dir", str(tmp_path / "data")]
        gateway = await anyio.open_process(
            [*command, "--listen", "127.0.0.1:0"], stdout=DEVNULL, env=os.environ | listening.environ
        )
        try:
            await listening.hears("READY=1")
            await listening.hears("WATCHDOG=1", times=2)
        finally:
            gateway.terminate()
            await gateway.wait()
            await gateway.aclose()
        assert listening.told[-2:] == ["STOPPING=1", "STATUS=stopping: what runs is waited for"]


def test_what_the_manager_said_is_not_for_child_processes() -> None:
    environ = {"NOTIFY_SOCKET": "@somewhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1", "HOME": "/root"}
    ServiceManager.take(environ)
    assert environ == {"HOME": "/root"}


@pytest.mark.parametrize("address", ["vsock:2:1", "", "relative"])
async def test_a_manager_that_cannot_be_told_is_nobody(address: str) -> None:
    manager = ServiceManager.take({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    with anyio.fail_after(5):
        await manager.starting()
        await manager.feed_watchdog(_never)
    manager.ready("")


async def test_a_watchdog_for_another_process_is_not_fed() -> None:
    manager = ServiceManager.take(
        {"NOTIFY_SOCKET": "/nowhere", "WATCHDOG_USEC": "1000", "WATCHDOG_PID": str(os.getpid() + 1)}
    )
    with anyio.fail_after(5):
        await manager.feed_watchdog(_never)


async def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    manager = ServiceManager.take({"NOTIFY_SOCKET": str(tmp_path / "gone")})
    manager.ready("serves")
    manager.stopping()


async def _never() -> bool:
    raise AssertionError("nobody watches")
