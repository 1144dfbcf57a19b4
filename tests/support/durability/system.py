"""A service whose parts die and come back: a node with its nats-server, a gateway and models' processes."""

from __future__ import annotations

import os
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Final, Literal, TypeAlias, get_args

import anyio
import psutil

import suite
from suite.client import Client
from suite.errors import SuiteError
from support.cgroups import joining
from support.disks import SmallDisk
from support.durability import inside
from support.models import tiny_model
from support.ports import free_port
from support.service import WITH_STANDBY, Serving, serving

Part: TypeAlias = Literal["actor", "node", "nats-server", "gateway"]
PARTS: Final[tuple[Part, ...]] = get_args(Part)
MODELS: Final = ("red", "green")
PATIENCE_SECONDS: Final = 120.0
"""Longer than anything takes, also on a machine that has much else to do."""
CLIENT_SECONDS: Final = 4.0
"""How long a client waits for an answer, and for the next sign of a stream."""
_MARK: Final = "FAULTS_RUN"
"""A variable that every process of the service inherits, so that none can hide."""
_SITE: Final = Path(__file__).parent / "site"
"""What Python imports first in each of its processes."""

SETTINGS: Final = """
idle_timeout_seconds = 0
drain_seconds = 2.0
"""
OF_A_MODEL: Final = """
[models."{model_id}"]
context_length = 256
slots = 4
n_threads = 1
"""


class System:
    """A service under test. `disk` is where its data is, `group` the control group that it is in, if any."""

    def __init__(self, directory: Path, disk: SmallDisk, group: Path | None) -> None:
        self.models = directory / "models"
        self.disk = disk
        self.group = group
        self.data_dir = disk.path / "data"
        self.temporary = directory / "tmp"
        """For temporary files of the service, so that those that it leaves are seen."""
        self._clock = directory / "clock"
        self._broken = directory / "broken"
        self.port = free_port()
        self.lives = 0
        self.client: Client
        self.reloading = anyio.Lock()
        """Held by who unloads and loads a model, and by whom that must not disturb."""
        self._directory = directory
        self._mark = uuid.uuid4().hex
        self._stack: AsyncExitStack
        self._service: Serving | None = None

    @classmethod
    @asynccontextmanager
    async def running(
        cls, directory: Path, disk: SmallDisk, *, group: Path | None = None
    ) -> AsyncIterator[System]:
        """A service that serves until the block ends, whatever becomes of it meanwhile."""
        system = cls(directory, disk, group)
        system._prepare()
        try:
            await system.start()
            async with suite.connect(
                data_dir=system.data_dir, request_seconds=CLIENT_SECONDS, silence_seconds=CLIENT_SECONDS
            ) as client:
                system.client = client
                yield system
        finally:
            with anyio.CancelScope(shield=True):
                if system._service is not None:
                    await system._stack.aclose()
                for each in system.processes():  # what it has leaked
                    each.kill()

    def _prepare(self) -> None:
        for each in (self.models, self.temporary):
            each.mkdir(parents=True, exist_ok=True)
        for model_id in MODELS:
            self.write_model(model_id)
        of_models = "".join(OF_A_MODEL.format(model_id=each) for each in MODELS)
        (self._directory / "suite.toml").write_text(SETTINGS + of_models)

    def write_model(self, model_id: str, *, seed: int | None = None) -> None:
        """Put a whole file of the model into place at once, as one who replaces a file well does."""
        unfinished = self._directory / f"{model_id}.unfinished"
        seed = len(model_id) if seed is None else seed
        tiny_model(unfinished, seed=seed).replace(self.model_file(model_id))

    def model_file(self, model_id: str) -> Path:
        """Where the file of a model is."""
        return self.models / f"{model_id}.gguf"

    def set_clock(self, ahead_seconds: float) -> None:
        """Move the clock of all of its processes that are Python's. That of nats-server stays as it is."""
        self._clock.write_text(str(ahead_seconds))

    def set_defect(self, defect: inside.Defect | None) -> None:
        """Break it on purpose, or mend it."""
        self._broken.write_text(defect or "")

    # --- its life -----------------------------------------------------------------------------------------

    async def start(self) -> None:
        """Start the node, as a supervisor would."""
        self._stack = AsyncExitStack()
        self._service = await self._stack.enter_async_context(
            serving(
                self.models,
                self.data_dir,
                *("--config", str(self._directory / "suite.toml"), "--node", "box"),
                *("--http", f"127.0.0.1:{self.port}"),
                environ=self._environ(),
                within=() if self.group is None else joining(self.group),
            )
        )
        self.lives += 1

    def _environ(self) -> dict[str, str]:
        tests = Path(__file__).parents[2]
        path = (str(_SITE), str(tests), os.environ.get("PYTHONPATH", ""))
        return {
            **WITH_STANDBY,
            _MARK: self._mark,
            "TMPDIR": str(self.temporary),
            "PYTHONPATH": os.pathsep.join(filter(None, path)),
            inside.CLOCK: str(self._clock),
            inside.BROKEN: str(self._broken),
        }

    async def stop(self) -> int:
        """Stop the service in order. Returns its exit code."""
        assert self._service is not None
        code = await self._service.stop()
        await self._stack.aclose()
        self._service = None
        return code

    async def ended(self) -> None:
        """Take note that the node has ended, or wait until it has."""
        assert self._service is not None
        with anyio.fail_after(PATIENCE_SECONDS):
            await self._service.process.wait()
        await self._stack.aclose()
        self._service = None

    async def revive(self) -> None:
        """Start the node again if it has ended, as a supervisor would."""
        if self._service is not None and self._service.process.returncode is not None:
            await self.ended()
        if self._service is None:
            await self.start()

    @property
    def is_up(self) -> bool:
        """Whether the node's process is there."""
        return self._service is not None and self._service.process.returncode is None

    @property
    def errors(self) -> Path:
        """What all lives of the node wrote to stderr."""
        return self.data_dir.parent / f"{self.data_dir.name}.stderr"

    # --- its processes ------------------------------------------------------------------------------------

    @property
    def node(self) -> psutil.Process:
        """The node's process."""
        assert self._service is not None
        return psutil.Process(self._service.pid)

    def parts(self) -> Mapping[Part, Sequence[psutil.Process]]:
        """The processes that there are of each part."""
        found: dict[Part, list[psutil.Process]] = {part: [] for part in PARTS}
        if not self.is_up:
            return found
        found["node"].append(self.node)
        for child in self.node.children():
            if (part := _part_of(child)) is not None:
                found[part].append(child)
        return found

    async def part(self, part: Part) -> psutil.Process:
        """A process of this part; of actors, one that has a model."""
        if part == "actor":
            return psutil.Process(await self.actor_of(MODELS[0]))
        with anyio.fail_after(PATIENCE_SECONDS):
            while not (found := self.parts()[part]):
                await anyio.sleep(0.02)
        return found[0]

    async def actor_of(self, model_id: str) -> int:
        """The process of a model, which is loaded if it is not."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                with suppress(SuiteError):
                    await self.client.load_model(model_id)
                    if (pid := await self._pid_of(model_id)) is not None:
                        return pid
                await anyio.sleep(0.02)

    async def missed(self, model_id: str, pid: int) -> None:
        """Wait until the node no longer takes this for the process of the model."""
        with anyio.fail_after(PATIENCE_SECONDS):
            while True:
                with suppress(SuiteError):
                    if await self._pid_of(model_id) != pid:
                        return
                await anyio.sleep(0.02)

    async def _pid_of(self, model_id: str) -> int | None:
        model = (await self.client.get_model_status(model_id)).model
        return None if model is None or model.instance is None else model.instance.pid

    def processes(self) -> list[psutil.Process]:
        """Every process that the service has started, in any life, and that still runs."""
        return [each for each in psutil.process_iter() if _environ_of(each).get(_MARK) == self._mark]


def _part_of(process: psutil.Process) -> Part | None:
    with suppress(psutil.Error):
        command = process.cmdline()
        if any("nats-server" in word for word in command):
            return "nats-server"
        if "gateway" in command:
            return "gateway"
        if "suite.actors.entry" in command:
            return "actor"
    return None


def _environ_of(process: psutil.Process) -> dict[str, str]:
    with suppress(psutil.Error, OSError):
        if process.status() != psutil.STATUS_ZOMBIE:
            return process.environ()
    return {}
