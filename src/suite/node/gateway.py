"""The gateway of a node: a child process that serves its models over HTTP, started again when it dies.

The node has the socket, so connections that come while the child is started again wait for it.
"""

from __future__ import annotations

import logging
import os
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from subprocess import DEVNULL, PIPE
from typing import Final

import anyio
import anyio.abc
import msgspec
from anyio.streams.buffered import BufferedByteReceiveStream

from suite.bus import parent
from suite.config import Settings
from suite.config.layers import Key, variable
from suite.domain.breaker import SERVICE_POLICY, Policy
from suite.domain.exit_codes import described
from suite.extras import require
from suite.listening import listening, url_of
from suite.messages.events import BreakerEvent
from suite.messages.gateway import GatewayEvent, GatewayNews, GatewayServes
from suite.messages.upcasters import decode_event
from suite.node.breakers import Breakers

logger = logging.getLogger("suite.node")

STOP_SECONDS: Final = 2.0
"""How long the process may take to end in order before it is killed: it needs less (`NODE_DRAIN_SECONDS`)."""
SHARED: Final = (
    *("node", "log_format", "metrics"),
    *("trace", "trace_ratio", "trace_slow_seconds", "trace_content", "trace_store_mb"),
)
"""The settings of a node that its gateway has too, beside those of the table `http`."""
POLICY: Final = Policy(failures=1, first_pause_seconds=0.2, longest_pause_seconds=30.0)
"""The pauses before a process is started again that dies again and again."""


_LONGEST_LINE: Final = 64 * 1024

_news_of = msgspec.json.Decoder(GatewayNews).decode


class GatewayProcess:
    """Keeps one process of ``suite gateway`` running."""

    def __init__(self, settings: Settings, opened: socket.socket, breakers: Breakers) -> None:
        self._settings = settings
        self._opened = opened
        self._breaker = breakers.make("gateway", "http", POLICY)
        self._service = breakers.make("service", "nodes", SERVICE_POLICY)
        """What the process tells of the service, which it reaches as any client does."""
        self.url = url_of(opened, secure=settings.http.tls_certificate is not None)
        self.pid: int | None = None
        """The process that serves now; None: there is none at the moment."""
        self.problem: str | None = None
        """Why nothing is served over HTTP at the moment."""

    @classmethod
    @contextmanager
    def opened(cls, settings: Settings, breakers: Breakers) -> Iterator[GatewayProcess | None]:
        """The gateway that the settings ask for, with its socket open; None if they ask for none.

        Raises PortTaken, InvalidConfiguration, and NotInstalled without the extra ``http``.
        """
        if settings.http.listen is None:
            yield None
            return
        require("http", "serving over HTTP")
        with listening(*settings.http.address) as opened:
            yield cls(settings, opened, breakers)

    async def run(self) -> None:
        """Run the process, and start it again when it ends, until this is cancelled."""
        while True:
            while not self._breaker.try_use():  # noqa: ASYNC110 - only time has to pass
                await anyio.sleep(self._breaker.wait_seconds)
            try:
                async with self._process() as process:
                    await self._watch(process)
                    exit_code = await process.wait()
            except OSError as error:
                self._complain(f"the gateway cannot be started ({error})")
            else:
                self._complain(f"the gateway has ended ({described(exit_code)}): the log above may say why")

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[anyio.abc.Process]:
        """The process, which ends in order when the block is left."""
        descriptor = self._opened.fileno()
        process = await anyio.open_process(
            parent.command(sys.executable, "-m", "suite", "gateway", *self._arguments(descriptor)),
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=None,
            env=self._environment(),
            pass_fds=(descriptor,),
            start_new_session=True,  # Ctrl-C is for the node, which ends this one last
        )
        self.pid = process.pid
        try:
            yield process
        finally:
            self.pid = None
            with anyio.CancelScope(shield=True):
                await _end(process)

    def _arguments(self, descriptor: int) -> tuple[str, ...]:
        return "--data-dir", str(self._settings.data_dir.absolute()), "--socket", str(descriptor)

    def _environment(self) -> dict[str, str]:
        """The settings that it needs, as variables; other settings of the node are none of its business."""
        settings = self._settings
        values: dict[Key, object] = {(name,): getattr(settings, name) for name in SHARED}
        values |= {("http", name): value for name, value in msgspec.structs.asdict(settings.http).items()}
        if settings.nats.url is not None:
            nats = settings.nats
            values |= {("nats", "user"): nats.user, ("nats", "password"): nats.password}
            values |= {("nats", "credentials"): nats.credentials, ("nats", "inbox_prefix"): nats.inbox_prefix}
        others = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
        return others | {variable(key): _text(value) for key, value in values.items() if value is not None}

    async def _watch(self, process: anyio.abc.Process) -> None:
        """Hear what the process tells, until it ends."""
        assert process.stdout is not None
        lines = BufferedByteReceiveStream(process.stdout)
        with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
            while True:
                try:
                    self._hear(await lines.receive_until(b"\n", _LONGEST_LINE))
                except anyio.DelimiterNotFound:
                    logger.warning("the gateway writes a line of over %d bytes, which is lost", _LONGEST_LINE)
                    await lines.receive(_LONGEST_LINE)  # its rest comes as another line, which says nothing

    def _hear(self, line: bytes) -> None:
        try:
            news = _news_of(line)
        except msgspec.MsgspecError:
            logger.info("the gateway writes: %s", line.decode(errors="replace"))
            return
        match news:
            case GatewayServes():  # and so it has reached the service
                logger.info("the models are at %s/v1", self.url)
                self.problem = None
                self._breaker.succeeded()
                self._service.succeeded()
            case GatewayEvent():
                self._follow(news)

    def _follow(self, news: GatewayEvent) -> None:
        try:
            event = decode_event(news.event_type, bytes(news.body))
        except msgspec.MsgspecError as error:
            logger.warning("an event of the gateway cannot be read (%s: %s)", news.event_type, error)
            return
        if isinstance(event, BreakerEvent):
            self._service.follow(event)

    def _complain(self, problem: str) -> None:
        self._breaker.failed(problem)
        self.problem = f"nothing is served over HTTP: {problem}; it is started again"
        logger.warning("%s", self.problem)


def _text(value: object) -> str:
    """A setting as a variable."""
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


async def _end(process: anyio.abc.Process) -> None:
    if process.returncode is None:
        process.terminate()
        with anyio.move_on_after(STOP_SECONDS):
            await process.wait()
    if process.returncode is None:
        process.kill()
    await process.wait()
    await process.aclose()
