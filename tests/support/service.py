"""A real `suite serve` in a process of its own, on a directory of models."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from subprocess import DEVNULL

import anyio
import anyio.abc
import msgspec

import suite
from suite.client import Client
from suite.config import ConnectionFile
from suite.messages.envelope import Recorded
from suite.messages.events import UsageRecorded

START_SECONDS = 90.0
STOP_SECONDS = 30.0
WITHOUT_STANDBY = {"SUITE_STANDBY": "false"}
"""No process stands ready for the next load: it would import what most tests never use, after each start and
each load, on the CPUs of those who run. `WITH_STANDBY` is for tests where it matters; a user has it too."""
WITH_STANDBY = {"SUITE_STANDBY": "true"}


class Serving:
    """One life of a service, until it is stopped or killed."""

    def __init__(self, process: anyio.abc.Process, data_dir: Path, errors: Path) -> None:
        self.process = process
        self.data_dir = data_dir
        self.errors = errors

    @property
    def pid(self) -> int:
        return self.process.pid

    def connection_file(self) -> ConnectionFile:
        return ConnectionFile.read(self.data_dir)

    async def ready(self) -> None:
        with anyio.fail_after(START_SECONDS):
            while True:
                with suppress(FileNotFoundError, msgspec.MsgspecError):
                    if self.connection_file().pid == self.pid:
                        return
                assert self.process.returncode is None, self.errors.read_text()
                await anyio.sleep(0.02)

    async def stop(self) -> int:
        """End it in order; its exit code."""
        if self.process.returncode is None:
            self.process.send_signal(signal.SIGTERM)
        with anyio.fail_after(STOP_SECONDS):
            return await self.process.wait()

    async def kill(self) -> None:
        """End it without a chance to clean up."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.wait()


@asynccontextmanager
async def serving(
    models: Path | Iterable[Path],
    data_dir: Path,
    *options: str,
    environ: dict[str, str] | None = None,
    umask: int = -1,
    within: Iterable[str] = (),
) -> AsyncIterator[Serving]:
    """`suite serve` that answers; whatever the test does, no process of it stays behind.

    `within` is put before the command. No process stands by for loads, unless `environ` says so.
    """
    directories = [models] if isinstance(models, Path) else list(models)
    command = [sys.executable, "-m", "suite", "serve", "--data-dir", str(data_dir)]
    for directory in directories:
        command += ["--models-dir", str(directory)]
    data_dir.parent.mkdir(parents=True, exist_ok=True)
    errors = data_dir.parent / f"{data_dir.name}.stderr"
    with errors.open("ab") as stderr:
        process = await anyio.open_process(
            [*within, *command, *options],
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=stderr,
            env=_environment() | WITHOUT_STANDBY | (environ or {}),
            umask=umask,
        )
    service = Serving(process, data_dir, errors)
    try:
        await service.ready()
        yield service
    finally:
        with anyio.CancelScope(shield=True):
            if process.returncode is None:
                process.send_signal(signal.SIGTERM)
                with anyio.move_on_after(STOP_SECONDS):
                    await process.wait()
            await service.kill()
            await process.aclose()


def _environment() -> dict[str, str]:
    """The environment without what is for the tests: the service refuses variables that it does not know."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SUITE_FAULT")}


@asynccontextmanager
async def service_and_client(
    models: Path | Iterable[Path],
    data_dir: Path,
    *options: str,
    environ: dict[str, str] | None = None,
    umask: int = -1,
) -> AsyncIterator[tuple[Serving, Client]]:
    async with (
        serving(models, data_dir, *options, environ=environ, umask=umask) as service,
        suite.connect(data_dir=data_dir) as client,
    ):
        yield service, client


async def history(client: Client, filter: str | None = None) -> list[Recorded]:
    """Every event so far, or those under a filter."""
    return [recorded async for recorded in client.events(filter)]


def of_any_version(data: object) -> UsageRecorded:
    """A use as if nothing were known of versions: it says the only one once the content is known."""
    assert isinstance(data, UsageRecorded)
    assert data.version in {0, 1}
    return msgspec.structs.replace(data, version=0)


def facts(events: Iterable[Recorded]) -> list[str]:
    """The events by the last two words of their types: `instance.loaded`.

    Without `instance.grew`, as it depends on the machine whether a process grows by that much.
    """
    facts = (recorded.type.removeprefix("suite.").rpartition(".")[0] for recorded in events)
    return [fact for fact in facts if fact != "instance.grew"]
