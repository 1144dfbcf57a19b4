"""Tells systemd, or another manager of services, how this process is (sd_notify(3)).

    manager = ServiceManager.take(os.environ)
    manager.ready("serves 3 models")
    tasks.start_soon(manager.feed_watchdog, is_well)
    manager.stopping()

Without such a manager nothing is sent. The protocol is a datagram of `NAME=value` lines, for which systemd's
own documentation advises a few lines of code rather than a library.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Final, Self, TypeAlias

import anyio

logger = logging.getLogger("suite.node")

START_STEP_SECONDS: Final = 5.0
"""How often a start that goes on is said to go on."""
_EXTENSIONS: Final = 4
"""How many of these steps a start may miss until the manager ends it."""
_FEEDINGS: Final = 3
"""How often the watchdog is fed in the time after which it bites: twice in vain is not enough for that."""

IsWell: TypeAlias = Callable[[], Awaitable[bool]]


class ServiceManager:
    """Who started this process and wants to know how it is; maybe nobody."""

    def __init__(self, address: str | None, watchdog_seconds: float | None) -> None:
        self._address = address
        self._watchdog_seconds = watchdog_seconds
        self._is_ready = anyio.Event()
        self._status = ""

    @classmethod
    def nobody(cls) -> Self:
        """No manager: nothing is sent."""
        return cls(None, None)

    @classmethod
    def take(cls, environ: MutableMapping[str, str]) -> Self:
        """The one that the environment names. Its variables are removed: they are not for child processes."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        is_watched = microseconds.isdecimal() and int(microseconds) > 0 and pid in ("", str(os.getpid()))
        seconds = int(microseconds) / 1e6 if is_watched else None
        if address is None or not address.startswith(("/", "@")):
            return cls.nobody()
        return cls(address, seconds)

    async def starting(self) -> None:
        """Say that the start goes on, as long as this process's event loop turns, until it is ready.

        A start may wait for NATS, or read a large log, for as long as that takes.
        """
        if self._address is None:
            return
        while not self._is_ready.is_set():
            self._tell(f"EXTEND_TIMEOUT_USEC={int(_EXTENSIONS * START_STEP_SECONDS * 1e6)}")
            with anyio.move_on_after(START_STEP_SECONDS):
                await self._is_ready.wait()

    def status(self, text: str) -> None:
        """Say in words what this process does. `systemctl status` shows it."""
        if text and text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def ready(self, text: str) -> None:
        """Say that the start is over, and what is served."""
        self._is_ready.set()
        self._tell("READY=1")
        self.status(text)

    def stopping(self) -> None:
        """Say that the process ends, in order."""
        self._tell("STOPPING=1")
        self.status("stopping: what runs is waited for")

    async def feed_watchdog(self, is_well: IsWell) -> None:
        """Say that this process works, as long as it does, so that the manager does not start it again.

        Every third of the time that the manager waits, `is_well` is asked. Returns at once if nobody watches.
        """
        if self._watchdog_seconds is None:
            return
        was_well = True
        while True:
            if await is_well():
                self._tell("WATCHDOG=1")
                was_well = True
            elif was_well:
                logger.warning("the service does not work as it should: its manager is not told that it does")
                was_well = False
            await anyio.sleep(self._watchdog_seconds / _FEEDINGS)

    def _tell(self, facts: str) -> None:
        if self._address is None:
            return
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
                channel.setblocking(False)  # a manager that does not read must not hold up the service
                channel.sendto(facts.encode(), address)
        except OSError as error:
            logger.debug("the service's manager was not told %s: %s", facts, error)
