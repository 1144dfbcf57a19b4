"""An embedded nats-server: a child process with JetStream, two accounts and the users of both.

    async with EmbeddedServer.start(data / "nats") as server:
        async with Connection.open(server.access, name="box1") as connection: ...

The server ends with this process, however this process ends. If the server dies, it is started again.
`EmbeddedServer.admit` changes the users of a running server; who is still among them stays connected.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
from anyio.abc import Process, TaskGroup

from suite.bus import parent, store
from suite.bus.accounts import User, accounts, role_of
from suite.bus.cluster import Cluster, is_loopback
from suite.bus.credentials import Credentials, new_password
from suite.bus.staging import Staging
from suite.bus.store_lock import StoreLock
from suite.data_directory import write_private
from suite.errors import DataDirUnusable, PortTaken, ServerNotFound, Unavailable
from suite.messages.actor import NatsAccess
from suite.messages.subjects import Subjects
from suite.tasks import background

log = logging.getLogger("suite.bus")

OLDEST_VERSION = (2, 12)
"""The first version that refuses an atomic batch as a whole (NATS ADR-50)."""
MAX_PAYLOAD_BYTES = 1024 * 1024
UNLIMITED_BYTES = 2**62
"""JetStream's storage limit. The default is three quarters of the space that is free at the start, and what
is stored already counts against it: a store that fills half of a disk could not be written after a restart.
"""
MAX_PENDING_BYTES = 32 * 1024 * 1024
"""How much may wait for a connection that does not read. Above that, the server closes the connection."""
LIVENESS = {"ping_interval": "750ms", "ping_max": 2}
"""How often a silent connection is asked whether it is still there, and how many of these may be unanswered,
where several nodes share a server: a node that is frozen or out of reach is disconnected within 3 s, and gets
no requests any more (ADR 59). Clients that do not read for so long are disconnected too, and connect again.
"""
START_SECONDS = 600.0
"""Time limit for a start. The server reads its whole store when it starts, after a kill byte by byte: a
million events took 25 s where the processors had ten times more to do than they could."""
STOP_SECONDS = 1.0
"""A server that is asked to stop is killed after this time. It syncs every write, so a kill loses nothing
that was acknowledged."""
RELOAD_SECONDS = 5.0
"""How long the server may take to read a configuration that was changed."""
LAST_RETRY_SECONDS = 5.0
PORT_SECONDS = 1.0
"""How long a port may still be taken at the start: the server of a killed process takes a moment to die."""
HOST = "127.0.0.1"
ANY_HOST = ("0.0.0.0", "::")
"""Addresses to listen on that mean all of the machine's, loopback included."""

_reloaded = re.compile(
    r"Reloaded server configuration|Failed to reload server configuration: (?P<reason>.+)\n"
).search


class EmbeddedServer:
    """A running nats-server, and the access data of its users."""

    def __init__(
        self,
        directory: Path,
        program: str,
        subjects: Subjects,
        users: Sequence[User],
        *,
        host: str = HOST,
        cluster: Cluster | None = None,
        is_shared: bool = False,
    ) -> None:
        self._directory = directory
        self._is_shared = is_shared or cluster is not None
        self._host = host
        self.cluster = cluster
        """Its part in a cluster; None: it is alone."""
        self._log_file = directory / "nats-server.log"
        self._program = program
        self._subjects = subjects
        # Who knows these passwords of an earlier start, such as a process that outlived its node, is out.
        self._own = tuple(User(role, role, new_password()) for role in ("suite", "mirror"))
        self.users = tuple(users)
        """Who may connect besides the suite's own processes. `admit` changes it."""
        self._launching = anyio.Lock()
        self._staging = Staging(directory / "jetstream", subjects.stream)
        self._process: Process
        self._lock: StoreLock
        self._stopping = False
        self.is_starting = False
        """Whether the process was started and does not listen yet: it reads its store."""
        self.port = 0
        """The port for clients. It stays the same when the server is started again."""

    @classmethod
    @asynccontextmanager
    async def start(
        cls,
        directory: Path,
        *,
        subjects_root: str = "suite",
        port: int = 0,
        users: Sequence[User] | None = None,
        host: str = HOST,
        cluster: Cluster | None = None,
        is_shared: bool = False,
    ) -> AsyncIterator[EmbeddedServer]:
        """Start a server, and stop it when the block is left.

        Its store, configuration and log are in ``directory``. ``port`` 0 takes the one of the last start
        there, or a free one. Without ``users`` there is one for each role, with a new password. ``host`` is
        where it listens for clients: on anything but loopback their connections are encrypted, with the
        certificate of its ``cluster``. ``is_shared``: whether other nodes use it too, as they do in a cluster
        (`LIVENESS`). Start it from the main thread: the kernel kills it when the thread that started it ends.
        Raises ServerNotFound, PortTaken, DataDirUnusable, LogOfOtherKind, and Unavailable if the server does
        not start.
        """
        program = await find_server()
        admitted = Credentials.new().listed() if users is None else users
        subjects = Subjects(subjects_root)
        server = cls(directory, program, subjects, admitted, host=host, cluster=cluster, is_shared=is_shared)
        await anyio.to_thread.run_sync(server._take_directory)
        try:
            await anyio.to_thread.run_sync(store.adopt, directory / "jetstream")
            store.require_kind(directory / "jetstream", clustered=cluster is not None)
            await anyio.to_thread.run_sync(server._prepare_directory)
            async with background() as tasks:
                try:
                    await server._launch_first(port)
                    tasks.start_soon(server._staging.settle)
                    tasks.start_soon(server._watch, tasks)
                    yield server
                finally:
                    await server._stop()
                    server._staging.give_up()
        finally:
            server._lock.release()

    @property
    def pid(self) -> int:
        """The process id of the current server process."""
        return self._process.pid

    @property
    def access(self) -> NatsAccess:
        """Access for the suite's own processes: all of the suite's subjects."""
        return self.access_of("suite")

    @property
    def operator(self) -> NatsAccess:
        """Access for whoever runs the suite: every action."""
        return self.access_of("operator")

    @property
    def client(self) -> NatsAccess:
        """Access for clients: requests of actions."""
        return self.access_of("client")

    @property
    def consumer(self) -> NatsAccess:
        """Access for reading events, in the readers' account."""
        return self.access_of("consumer")

    @property
    def mirror(self) -> NatsAccess:
        """Access for maintaining the mirror of the log, in the readers' account."""
        return self.access_of("mirror")

    def access_of(self, name: str) -> NatsAccess:
        """Access for the user of this name. Raises KeyError if there is none."""
        user = {each.name: each for each in (*self._own, *self.users)}[name]
        scheme = "nats" if self._ca is None else "tls"
        host = HOST if self._host in ANY_HOST else self._host
        return NatsAccess(
            url=f"{scheme}://{host}:{self.port}",
            user=user.name,
            password=user.password,
            ca_file=self._ca,
            inbox_prefix=role_of(user, self._subjects).inbox_prefix,
        )

    @property
    def _ca(self) -> str | None:
        """The certificate with which clients check the server; None where connections are not encrypted."""
        if self.cluster is None or is_loopback(self._host):
            return None
        return str(self.cluster.files(self._directory)[0])

    async def admit(self, users: Sequence[User], announce: Callable[[], None] = lambda: None) -> None:
        """Replace the users, and wait until the server has taken the change.

        Who is no longer among them, or has another password, is disconnected; all others stay connected.
        ``announce`` runs in a thread just before, when `access_of` knows the new users already. Raises what
        it raises, DataDirUnusable if the server's configuration cannot be written, and Unavailable if the
        server does not take it; `users` are then those of before, and this may be called again.
        """
        before, self.users = self.users, tuple(users)
        try:
            async with self._launching:  # a server that starts takes the signal for its end
                await anyio.to_thread.run_sync(self._write_configuration)
                try:
                    await anyio.to_thread.run_sync(announce)
                finally:  # who is revoked is put out, also when nobody can be told a new password
                    await self._reload()
        except BaseException:
            self.users = before
            raise

    def free_bytes(self) -> int:
        """Free bytes on the disk that holds the store. Raises OSError."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    def total_bytes(self) -> int:
        """Size in bytes of the disk that holds the store. Raises OSError."""
        status = os.statvfs(self._directory)
        return status.f_blocks * status.f_frsize

    def unwritable(self) -> Path | None:
        """The first path in the store that this process may not read and write; None if there is none."""
        for directory, _, files in os.walk(self._directory / "jetstream"):
            for path in (Path(directory), *(Path(directory, name) for name in files)):
                if not os.access(path, os.R_OK | os.W_OK) and path.exists():
                    return path
        return None

    async def restart(self) -> None:
        """Restart the server on the same port and wait until it is up; connections then reconnect."""
        pid = self.pid
        with anyio.CancelScope(shield=True):
            await self._end_process()
        while self.pid == pid or self._process.returncode is not None:  # noqa: ASYNC110 - `_watch` starts it
            await anyio.sleep(0.05)

    # --- the process --------------------------------------------------------------------------------------

    def _take_directory(self) -> None:
        """Have the directory to ourselves, also against the server of a node that was just killed."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = StoreLock.take(self._directory)
        except OSError as error:
            raise self._unusable(error) from error

    def _prepare_directory(self) -> None:
        try:
            self._directory.chmod(0o700)
            (self._directory / "nats-server.out").touch(mode=0o600)
            for stale in self._directory.glob("nats-server_*.ports"):
                stale.unlink()
        except OSError as error:
            raise self._unusable(error) from error
        self._write_configuration()
        if (barred := self.unwritable()) is not None:
            raise DataDirUnusable(
                f"{barred} cannot be read and written: mend its rights, or choose another with --data-dir"
            )

    async def _reload(self) -> None:
        """Have the server read its configuration, and wait until its log says what came of it."""
        if self._process.returncode is not None:
            return  # it reads the configuration when it is started again
        end = self._log_size()
        self._process.send_signal(signal.SIGHUP)
        with anyio.move_on_after(RELOAD_SECONDS):
            while self._process.returncode is None:
                if (found := _reloaded(self._logged_since(end))) is not None:
                    if found["reason"]:
                        raise Unavailable(f"nats-server refuses its configuration: {found['reason']}")
                    return
                await anyio.sleep(0.01)
            return
        raise Unavailable(f"nats-server has not read its configuration within {RELOAD_SECONDS:g} s")

    def _log_size(self) -> int:
        return self._log_file.stat().st_size

    def _logged_since(self, size: int) -> str:
        """What the server has logged since its log had this size; all of it, if a new one was begun."""
        with self._log_file.open("rb") as file:
            if self._log_size() >= size:
                file.seek(size)
            return file.read().decode(errors="replace")

    def _write_configuration(self) -> None:
        try:
            if self.cluster is not None:
                self.cluster.write_files(self._directory)
            write_private(
                self._directory / "nats-server.conf", json.dumps(self._configuration(), indent=2).encode()
            )
        except OSError as error:
            raise self._unusable(error) from error

    def _configuration(self) -> dict[str, Any]:
        # The server's configuration format is a superset of JSON, so nothing has to be quoted by hand.
        return {
            "host": self._host,
            **self._clustering(),
            "max_payload": MAX_PAYLOAD_BYTES,
            "max_pending": MAX_PENDING_BYTES,
            **(LIVENESS if self._is_shared else {}),
            "jetstream": {
                "store_dir": str(self._directory / "jetstream"),
                "sync_interval": "always",
                "max_file_store": UNLIMITED_BYTES,
                "strict": True,
            },
            "accounts": accounts(self._subjects, (*self._own, *self.users)),
            "ports_file_dir": str(self._directory),
            "logfile": str(self._log_file),
            "logfile_size_limit": 1024 * 1024,
            "logfile_max_num": 3,
        }

    def _clustering(self) -> dict[str, Any]:
        if self.cluster is None:
            return {}
        tls = {} if self._ca is None else self.cluster.client_tls(self._directory)
        return {**self.cluster.configuration(self._directory), **tls}

    def _unusable(self, error: OSError) -> DataDirUnusable:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        advice = "free some space" if full else "choose another with --data-dir"
        return DataDirUnusable(f"{self._directory} cannot be written ({error.strerror}): {advice}")

    async def _launch_first(self, port: int) -> None:
        """Start the process on this port, or on that of the last start: clients may still know it."""
        wanted = port or last_port(self._directory) or 0
        try:
            await self._launch_soon(wanted)
        except PortTaken:
            if port:
                raise
            log.warning("port %d of the last start is taken: clients that know only it stay away", wanted)
            await self._launch(0)
        await anyio.to_thread.run_sync(self._remember_port)

    async def _launch_soon(self, port: int) -> None:
        until = time.monotonic() + PORT_SECONDS
        while True:
            try:
                return await self._launch(port)
            except PortTaken:
                if time.monotonic() > until:
                    raise
            await anyio.sleep(0.1)

    def _remember_port(self) -> None:
        if last_port(self._directory) == self.port:
            return
        try:
            write_private(_port_file(self._directory), b"%d\n" % self.port)
        except OSError as error:
            raise self._unusable(error) from error

    async def _launch(self, port: int) -> None:
        """Start the process and wait until it listens. If that fails, the process is ended."""
        async with self._launching:
            await self._start_process(port)
            self.is_starting = True
            try:
                self.port = await self._listening(port)
            except BaseException:
                await self._end_process()
                raise
            finally:
                self.is_starting = False

    async def _start_process(self, port: int) -> None:
        configuration = self._directory / "nats-server.conf"
        arguments = [self._program, "-c", str(configuration), "-p", str(port or -1)]
        output = self._directory / "nats-server.out"
        with anyio.CancelScope(shield=True), output.open("wb") as file:
            self._process = await anyio.open_process(
                # In order: the next server then need not read the whole store.
                parent.command(*arguments, death=signal.SIGTERM),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                # A session of its own, so that a Ctrl-C at the terminal reaches only this process.
                start_new_session=True,
                pass_fds=(self._lock.descriptor,),
            )
            self._lock.note(self._process.pid)

    async def _listening(self, wanted: int) -> int:
        """Wait for the file that the server writes once it listens, and return the port in it."""
        file = self._directory / f"{Path(self._program).name}_{self._process.pid}.ports"
        with anyio.move_on_after(START_SECONDS):
            while self._process.returncode is None:
                if (port := _port_in(file)) is not None:
                    file.unlink()
                    return port
                await anyio.sleep(0.01)
        said = self._last_words()
        if "address already in use" in said:
            raise PortTaken(
                f"port {wanted} is in use: choose another, or leave it out and a free one is taken"
            )
        raise Unavailable(f"nats-server did not start, see {self._log_file}: {said}")

    def _last_words(self) -> str:
        texts = []
        for name in ("nats-server.out", "nats-server.log"):
            path = self._directory / name
            if path.exists():
                texts += path.read_text(errors="replace")[-4096:].splitlines()[-3:]
        return " | ".join(texts)

    async def _watch(self, tasks: TaskGroup) -> None:
        while True:
            code = await self._process.wait()
            if self._stopping:
                return
            log.error("nats-server ended with %d; it is started again", code)
            await self._relaunch()
            tasks.start_soon(self._staging.settle)

    async def _relaunch(self) -> None:
        delay = 0.05
        while True:
            try:
                await self._launch(self.port)
            except (PortTaken, Unavailable, OSError) as error:
                log.error("nats-server does not come up: %s", error)
            else:
                log.warning("nats-server is up again on port %d", self.port)
                return
            await anyio.sleep(delay)
            delay = min(2 * delay, LAST_RETRY_SECONDS)

    async def _stop(self) -> None:
        self._stopping = True
        if hasattr(self, "_process"):
            await self._end_process()

    async def _end_process(self) -> None:
        """End the process, whatever its state: ask it to stop first, then kill it."""
        with anyio.CancelScope(shield=True):
            if self._process.returncode is None:
                self._process.terminate()
                with anyio.move_on_after(STOP_SECONDS):
                    await self._process.wait()
            if self._process.returncode is None:
                self._process.kill()
            await self._process.wait()


def last_port(directory: Path) -> int | None:
    """The port of the last server in this directory, which the next one takes again if it can."""
    try:
        port = int(_port_file(directory).read_bytes())
    except (OSError, ValueError):
        return None
    return port if 0 < port < 2**16 else None


def _port_file(directory: Path) -> Path:
    return directory / "port"


def _port_in(ports_file: Path) -> int | None:
    """The port in the file that the server writes once it listens; None before that."""
    try:
        address: str = json.loads(ports_file.read_bytes())["nats"][0]
    except (OSError, ValueError, LookupError):
        return None
    return int(address.rpartition(":")[2])


async def find_server() -> str:
    """Find nats-server on the PATH, or beside this Python. Raises ServerNotFound, also if it is too old."""
    path = shutil.which("nats-server") or shutil.which("nats-server", path=str(Path(sys.executable).parent))
    if path is None:
        raise ServerNotFound
    try:
        said = (await anyio.run_process([path, "--version"], check=False)).stdout.decode(errors="replace")
    except OSError as error:
        raise ServerNotFound(f"{path} cannot be run: {error.strerror}") from error
    found = re.search(r"v(\d+)\.(\d+)\.\d+", said)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_VERSION:
        wanted = ".".join(map(str, OLDEST_VERSION))
        raise ServerNotFound(
            f"{path} is {said.strip() or 'no nats-server'}: {wanted} or newer is needed,"
            " install model-manager-suite[serve]"
        )
    return path
