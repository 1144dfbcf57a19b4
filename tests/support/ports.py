"""Ports for servers of tests, which nobody else gets by chance before they listen or while they are away."""

from __future__ import annotations

import socket
from contextlib import ExitStack, suppress
from pathlib import Path
from random import SystemRandom
from typing import Final

_GIVEN_AWAY: Final = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST: Final = 10_000
_random: Final = SystemRandom()  # not one that each worker of pytest has seeded alike


def free_port() -> int:
    """A port of loopback that nobody has."""
    return free_ports(1)[0]


def free_ports(count: int) -> list[int]:
    """So many ports of loopback that nobody has.

    They lie below those that the kernel gives to whoever wants any, of which each new connection takes one.
    """
    end = int(_GIVEN_AWAY.read_text().split()[0])
    found: list[int] = []
    with ExitStack() as taken:
        while len(found) < count:
            probe, port = taken.enter_context(socket.socket()), _random.randrange(_FIRST, end)
            with suppress(OSError):  # somebody has it
                probe.bind(("127.0.0.1", port))
                found.append(port)
    return found
