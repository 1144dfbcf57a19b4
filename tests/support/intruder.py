"""What somebody would try who has taken over a process of a model: it runs inside of that process.

    intruder = Intruder.prepare(directory, results=snapshots)
    intruder.environ              # given to a process, has Python import this module at its start
    await intruder.attempts(pid)  # {"read a secret": "EACCES", ...}

The process then makes each attempt when it gets SIGUSR1, and writes what came of it into a file that it has
opened before it was confined.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import anyio
import msgspec

SECONDS = 20.0
_TARGETS: Final = "INTRUDER_TARGETS"
_SITE: Final = "from support.intruder import lie_in_wait\nlie_in_wait()\n"
_ALLOWED: Final = "allowed"
_GIB: Final = 1 << 30

_libc = ctypes.CDLL(None, use_errno=True)
_NUMBERS: Final[Mapping[str, Mapping[str, int]]] = {
    "x86_64": {"bpf": 321, "fchmodat2": 452, "io_uring_setup": 425, "kexec_load": 246, "keyctl": 250,
               "mount": 165, "perf_event_open": 298, "process_vm_readv": 310, "ptrace": 101, "truncate": 76,
               "unshare": 272, "utimensat": 280},
    "aarch64": {"bpf": 280, "fchmodat2": 452, "io_uring_setup": 425, "kexec_load": 104, "keyctl": 219,
                "mount": 40, "perf_event_open": 241, "process_vm_readv": 270, "ptrace": 117, "truncate": 45,
                "unshare": 97, "utimensat": 88},
}  # fmt: skip
_HERE: Final = -100
"""AT_FDCWD."""
_kept: Final[list[object]] = []
_PTRACE_SEIZE, _NEW_USER = 0x4206, 0x10000000


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """What the attempts are made on."""

    results: str
    """The directory in which the process may write."""
    secret: str
    """A file that is none of its business."""
    model: str
    permitted_port: int
    other_port: int
    attempts: tuple[str, ...] = ()
    """Which attempts are made; empty: all, which nobody but a confined process should."""
    without_landlock: bool = False
    """Whether the process finds a kernel that has no Landlock."""


class Intruder(NamedTuple):
    """Lies in wait in all Python processes with its environment."""

    site: Path
    targets: Targets

    @classmethod
    def prepare(cls, site: Path, targets: Targets) -> Intruder:
        site.mkdir()
        (site / "sitecustomize.py").write_text(_SITE)
        return cls(site, targets)

    @property
    def environ(self) -> dict[str, str]:
        tests = Path(__file__).parents[1]
        paths = filter(None, (str(self.site), str(tests), os.environ.get("PYTHONPATH")))
        return {"PYTHONPATH": os.pathsep.join(paths), _TARGETS: msgspec.json.encode(self.targets).decode()}

    async def attempts(self, pid: int) -> dict[str, str]:
        """Have a process make all attempts; what came of each."""
        results = anyio.Path(self.targets.results, f"{pid}.json")
        os.kill(pid, signal.SIGUSR1)
        with anyio.fail_after(SECONDS):
            while not (text := await results.read_text()).endswith("\n"):
                await anyio.sleep(0.02)
        found: dict[str, str] = json.loads(text)
        return found


def lie_in_wait() -> None:
    """Called at the start of a process."""
    targets = msgspec.json.decode(os.environ[_TARGETS], type=Targets)
    try:
        results = Path(targets.results, f"{os.getpid()}.json").open("w", encoding="utf-8")  # noqa: SIM115
    except OSError:
        return  # this process is none of those that are watched
    if targets.without_landlock:
        _take_landlock_away()

    def attack(_number: int, _frame: object) -> None:
        of_children = signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # for those of the attempts
        json.dump({name: _outcome(ATTEMPTS[name], targets) for name in targets.attempts or ATTEMPTS}, results)
        results.write("\n")
        results.flush()
        signal.signal(signal.SIGCHLD, of_children)

    signal.signal(signal.SIGUSR1, attack)


def _take_landlock_away() -> None:
    """Have the kernel answer as one without Landlock does."""
    from suite.confinement import seccomp, system_calls
    from suite.confinement.privileges import drop

    numbers = {machine: {**known, "landlock": 444} for machine, known in system_calls.NUMBERS.items()}
    vars(seccomp)["NUMBERS"] = numbers
    drop()
    seccomp.install([seccomp.Forbidden("landlock", error=errno.ENOSYS)])


def _outcome(attempt: Callable[[Targets], object], targets: Targets) -> str:
    try:
        found = attempt(targets)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    except MemoryError:
        return "ENOMEM"
    return _ALLOWED if found is None else str(found)


def _call(name: str, *arguments: int) -> None:
    """A system call as C makes it: what Python's own functions would check does not protect."""
    words = [ctypes.c_ulong(each) for each in arguments]
    if _libc.syscall(_NUMBERS[platform.machine()][name], *words) < 0:
        raise OSError(ctypes.get_errno(), name)


def _read(path: str) -> None:
    with open(path, "rb") as file:  # noqa: PTH123
        file.read(1)


def _list(directory: Path) -> None:
    list(directory.iterdir())


def _move(path: str, directory: str) -> None:
    Path(path).rename(Path(directory, "moved"))


def _open(path: str, flags: int) -> None:
    os.close(os.open(path, flags, 0o600))


def _with_open(path: str, change: Callable[[int], None]) -> None:
    with open(path, "rb") as file:  # noqa: PTH123
        change(file.fileno())


def _write_then_date(path: str) -> None:
    with open(path, "wb") as file:  # noqa: PTH123
        os.utime(file.fileno(), (1e9, 1e9))


def _address(text: str) -> int:
    """Where a text is, for as long as this process lives."""
    buffer = ctypes.create_string_buffer(os.fsencode(text))
    _kept.append(buffer)
    return ctypes.addressof(buffer)


def _low_address(text: str) -> int:
    """An address of which the lower half is 0: a check of that half alone takes it for none."""
    wanted, fixed = 7 << 32, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
    _libc.mmap.restype = _libc.memcpy.restype = ctypes.c_void_p
    found = _libc.mmap(ctypes.c_void_p(wanted), ctypes.c_size_t(4096), 3, fixed, -1, ctypes.c_long(0))
    assert found == wanted
    data = os.fsencode(text) + b"\0"
    _libc.memcpy(ctypes.c_void_p(wanted), data, ctypes.c_size_t(len(data)))
    return wanted


def _connect(port: int) -> None:
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def _listen() -> None:
    with socket.socket() as listening:
        listening.listen()


def _fast_open(port: int) -> None:
    with socket.socket() as connecting:
        connecting.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", port))


def _own(path: str) -> str:
    return Path("/proc/self", path).read_text(encoding="utf-8")


def _status(field: str) -> str:
    return next(line.split()[1] for line in _own("status").splitlines() if line.startswith(f"{field}:"))


def _start(*command: str) -> None:
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _start_python(code: str) -> str:
    """What a Python that is started from here can do, with nobody lying in wait in it."""
    command = [sys.executable, "-S", "-E", "-c", code]
    return str(subprocess.run(command, check=False, stderr=subprocess.DEVNULL).returncode)


def _many_files() -> None:
    opened: list[int] = []
    try:
        while len(opened) < 5000:
            opened.append(os.dup(0))
    finally:
        for each in opened:
            os.close(each)


def _large_file(directory: str) -> None:
    descriptor = os.open(directory, os.O_TMPFILE | os.O_WRONLY, 0o600)
    try:
        os.truncate(descriptor, 100 * _GIB)
    finally:
        os.close(descriptor)


ATTEMPTS: Final[Mapping[str, Callable[[Targets], object]]] = {
    "read its model": lambda to: _read(to.model),
    "write among its snapshots": lambda to: _open(f"{to.results}/new", os.O_CREAT | os.O_WRONLY),
    "remove a snapshot": lambda to: Path(to.results, "new").unlink(),
    "connect to NATS": lambda to: _connect(to.permitted_port),
    "start Python": lambda _: _start(sys.executable, "-S", "-E", "-c", ""),
    "read a secret": lambda to: _read(to.secret),
    "read the passwords of users": lambda _: _read("/etc/shadow"),
    "list a directory": lambda to: _list(Path(to.secret).parent),
    "read the variables of its node": lambda _: _read(f"/proc/{os.getppid()}/environ"),
    "write over a secret": lambda to: _open(to.secret, os.O_WRONLY),
    "write over its model": lambda to: _open(to.model, os.O_WRONLY),
    "make a file": lambda to: _open(f"{to.secret}.new", os.O_CREAT | os.O_WRONLY),
    "remove a secret": lambda to: Path(to.secret).unlink(),
    "move a secret here": lambda to: _move(to.secret, to.results),
    "read a secret by another program": lambda to: _start_python(f"open({to.secret!r})"),
    "start a shell": lambda _: _start("/bin/sh", "-c", ":"),
    "note when a snapshot was used": lambda to: _write_then_date(f"{to.results}/used"),
    "change the mode of a secret": lambda to: Path(to.secret).chmod(0o666),
    "change its mode by another call": lambda to: _call("fchmodat2", _HERE, _address(to.secret), 0o666, 0),
    "change the mode of its model": lambda to: _with_open(to.model, lambda file: os.fchmod(file, 0o666)),
    "change the owner of a secret": lambda to: os.chown(to.secret, os.getuid(), os.getgid()),
    "change the owner of a link": lambda to: os.lchown(to.secret, os.getuid(), os.getgid()),
    "change the owner of its model": lambda to: _with_open(to.model, lambda file: os.fchown(file, -1, -1)),
    "change the times of a secret": lambda to: os.utime(to.secret, (1e9, 1e9)),
    "change them by an odd address": lambda to: _call("utimensat", _HERE, _low_address(to.secret), 0, 0),
    "change attributes of a secret": lambda to: os.setxattr(to.secret, "user.x", b"1"),
    "change attributes of a link": lambda to: os.setxattr(to.secret, "user.x", b"1", follow_symlinks=False),
    "change attributes of its model": lambda to: _with_open(
        to.model, lambda file: os.setxattr(file, "user.x", b"1")
    ),
    "remove attributes of a secret": lambda to: os.removexattr(to.secret, "user.x"),
    "empty a secret": lambda to: _call("truncate", _address(to.secret), 0),
    "signal its node": lambda _: os.kill(os.getppid(), 0),
    "connect elsewhere": lambda to: _connect(to.other_port),
    "connect elsewhere with the first data": lambda to: _fast_open(to.other_port),
    "send datagrams": lambda _: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).close(),
    "use a socket of the machine": lambda _: socket.socket(socket.AF_UNIX).close(),
    "use another protocol": lambda _: socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close(),
    "listen": lambda _: _listen(),
    "debug its node": lambda _: _call("ptrace", _PTRACE_SEIZE, os.getppid(), 0, 0),
    "read the memory of its node": lambda _: _call("process_vm_readv", os.getppid(), 0, 0, 0, 0, 0),
    "make namespaces": lambda _: _call("unshare", _NEW_USER),
    "mount": lambda _: _call("mount", 0, 0, 0, 0, 0),
    "load a program into the kernel": lambda _: _call("bpf", 0, 0, 0),
    "read keys": lambda _: _call("keyctl", 0, 0, 0, 0, 0),
    "load another kernel": lambda _: _call("kexec_load", 0, 1 << 30, 0, 0),
    "make calls that nobody sees": lambda _: _call("io_uring_setup", 1, 0),
    "watch the processor": lambda _: _call("perf_event_open", 0, 0, 0, 0, 0),
    "take much memory": lambda _: mmap.mmap(-1, 64 * _GIB, flags=mmap.MAP_PRIVATE).close(),
    "open many files": lambda _: _many_files(),
    "write a large file": lambda to: _large_file(to.results),
    "core files": lambda _: resource.getrlimit(resource.RLIMIT_CORE)[1],
    "new privileges": lambda _: {"1": "none"}.get(_status("NoNewPrivs"), "some"),
    "capabilities": lambda _: "files" if int(_status("CapEff"), 16) & ~6 == 0 else "more",
    "who may read its memory": lambda _: {0: "nobody"}.get(_libc.prctl(3, 0, 0, 0, 0), "its user"),
}
"""By what is tried. Where nothing is attempted, what is found."""
