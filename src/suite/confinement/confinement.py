"""Confines this process to what it needs, as far as the kernel can::

    found = confine(Rights(read=(model,), write=(snapshots,), ports=(4222,), starts="programs"))
    found.off  # {"network": "Landlock limits TCP connections from version 4 on, and this kernel has 3"}

There is no way back. Threads that run already keep access to files and the network, so a process calls this
before it starts any.
"""

from __future__ import annotations

import errno
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Final, Literal, NamedTuple, TypeAlias

from suite.confinement import gpus, landlock, limits, privileges, runtime, seccomp, system_calls
from suite.confinement.seccomp import Bits, Forbidden, Null, OneOf
from suite.messages.actions.status import ConfinedPart, Confinement

_NEW_NAMESPACES: Final = 0x7E020000
"""The flags CLONE_NEW* of clone(2)."""
_THREAD: Final = 0x00010000
"""The flag CLONE_THREAD of clone(2)."""
_SOCKET_TYPE: Final = 0xF
_NAME_SERVERS: Final = 53
"""The TCP port for answers that are too long for UDP."""
_FAST_OPEN: Final = 0x20000000
"""MSG_FASTOPEN connects without connect(2), which is what Landlock limits."""
_PARTS: Final[tuple[ConfinedPart, ...]] = ("privileges", "limits", "files", "network", "system_calls")

Started: TypeAlias = Literal["programs", "processes", "nothing"]
"""What a process may start: other programs, copies of itself, or threads only."""


class Limits(NamedTuple):
    """What it may take: see `suite.confinement.limits`."""

    memory_bytes: int
    file_bytes: int


class Rights(NamedTuple):
    """What a process needs, beside what every Python process does."""

    read: tuple[Path, ...] = ()
    write: tuple[Path, ...] = ()
    """Directories that exist, in which it makes files."""
    ports: tuple[int, ...] = ()
    """The TCP ports that it connects to; none: it opens no connections."""
    resolves_names: bool = False
    """Whether it asks for the addresses of names, by UDP."""
    local_sockets: bool = False
    """Whether it talks to other programs of this machine."""
    starts: Started = "nothing"
    uses_gpus: bool = False
    limits: Limits | None = None
    """None: those that it has."""
    hides_memory: bool = False
    """Whether it has passwords in its memory."""


def offered() -> Confinement:
    """What this kernel can confine, and why not the rest."""
    if sys.platform != "linux":
        return _told(dict.fromkeys(_PARTS, "only Linux can confine processes so"))
    off: dict[ConfinedPart, str] = {}
    try:
        version = landlock.version()
    except OSError as error:
        off["files"] = off["network"] = landlock.absence(error)
    else:
        if version < landlock.TCP_VERSION:
            off["network"] = (
                f"Landlock limits TCP connections from version {landlock.TCP_VERSION} on, "
                f"and this kernel has {version}"
            )
    if (absence := seccomp.absence()) is not None:
        off["system_calls"] = absence
    return _told(off)


def confine(rights: Rights) -> Confinement:
    """Take every other right from this process. Returns what was taken, and why not the rest."""
    off = dict(offered().off)
    if sys.platform != "linux":
        return _told(off)
    steps: tuple[tuple[tuple[ConfinedPart, ...], Callable[[Rights], None]], ...] = (
        (("limits",), _limit),
        (("privileges",), _drop_privileges),
        (("files", "network"), _restrict_access),
        (("system_calls",), _forbid_calls),
    )
    for parts, step in steps:
        if parts[0] not in off:
            try:
                step(rights)
            except OSError as error:
                off.update(dict.fromkeys(parts, f"the system refuses it: {error.strerror}"))
    if "files" not in off and (others := len(list(Path("/proc/self/task").iterdir())) - 1):
        off["files"] = off["network"] = f"{others} threads ran before, and keep their access"
    return _told(off)


def _told(off: Mapping[ConfinedPart, str]) -> Confinement:
    return Confinement(on=tuple(part for part in _PARTS if part not in off), off=dict(off))


def _limit(rights: Rights) -> None:
    if rights.limits is not None:
        limits.limit(memory_bytes=rights.limits.memory_bytes, file_bytes=rights.limits.file_bytes)


def _drop_privileges(rights: Rights) -> None:
    privileges.drop()
    if rights.hides_memory:
        privileges.hide_memory()


def _restrict_access(rights: Rights) -> None:
    ruleset = landlock.Ruleset(landlock.version())
    allow = ruleset.allow
    _each(partial(allow, rights=landlock.READ), chain(runtime.read(), rights.read))
    _each(partial(allow, rights=landlock.DEVICE), map(Path, runtime.DEVICES))
    _each(partial(allow, rights=landlock.WRITE), rights.write)
    if rights.starts == "programs":
        _each(partial(allow, rights=landlock.EXECUTE), runtime.run())
    if rights.uses_gpus:
        _each(partial(allow, rights=landlock.DEVICE), gpus.devices())
        _each(partial(allow, rights=landlock.WRITE), gpus.written())
    for port in (*rights.ports, *((_NAME_SERVERS,) if rights.resolves_names else ())):
        ruleset.allow_port(port)
    if rights.ports:
        ruleset.allow_any_own_port()  # clients of HTTP try IPv6 so
    ruleset.restrict()


def _each(allow: Callable[[Path], None], paths: Iterable[Path]) -> None:
    for path in paths:
        allow(path)


def _forbid_calls(rights: Rights) -> None:
    seccomp.install(_forbidden(rights))


def _forbidden(rights: Rights) -> Iterator[Forbidden]:
    """The calls that a process with these rights does not make."""
    never = chain(
        system_calls.OF_OTHER_PROCESSES,
        system_calls.OF_THE_KERNEL,
        system_calls.OF_KEYS,
        system_calls.OF_CLOCKS,
        system_calls.OF_NAMESPACES,
        system_calls.OF_ATTRIBUTES,
        system_calls.UNSEEN,
        # What drivers of GPUs do with their own files, nobody could list.
        () if rights.uses_gpus else system_calls.OF_ATTRIBUTES_OF_OPEN_FILES,
        () if rights.local_sockets else system_calls.OF_SERVERS,
        () if rights.starts == "programs" else system_calls.OF_NEW_PROGRAMS,
    )
    yield from map(Forbidden, never)
    yield from _forbidden_sockets(rights)
    yield Forbidden("utimensat", unless=Null(1))  # by a path instead of a descriptor
    # The arguments of clone3 cannot be seen. Where it does not exist, the C library takes clone.
    yield Forbidden("clone3", error=errno.ENOSYS)
    if rights.starts == "nothing":
        yield from map(Forbidden, ("fork", "vfork"))
        yield Forbidden("clone", unless=OneOf(0, (_THREAD,), _THREAD))
    else:
        yield Forbidden("clone", when=Bits(0, _NEW_NAMESPACES))


def _forbidden_sockets(rights: Rights) -> Iterator[Forbidden]:
    """All sockets but those of TCP, which Landlock limits to ports. Pairs of connected sockets stay."""
    if not rights.ports:
        yield Forbidden("socket")
        return
    families = [socket.AF_INET, socket.AF_INET6]
    kinds = [socket.SOCK_STREAM]
    protocols = [0, socket.IPPROTO_TCP]
    if rights.resolves_names:
        kinds.append(socket.SOCK_DGRAM)
        protocols.append(socket.IPPROTO_UDP)
    if rights.local_sockets:
        families.append(socket.AF_UNIX)
        kinds.append(socket.SOCK_SEQPACKET)
    yield Forbidden("socket", unless=OneOf(0, tuple(families)))
    yield Forbidden("socket", unless=OneOf(1, tuple(kinds), _SOCKET_TYPE))
    yield Forbidden("socket", unless=OneOf(2, tuple(protocols)))
    for call, flags in (("sendto", 3), ("sendmsg", 2), ("sendmmsg", 3)):
        yield Forbidden(call, when=Bits(flags, _FAST_OPEN))
