"""Renders chat templates in a process of their own, where time and memory are bounded.

A template comes with a model file and can loop for ever or allocate without end; what it does depends on the
messages, so that a trial says nothing about the next chat. Hence every render, and the compilation, which
evaluates constants, happens in one small process beside the model's: it may take `CPU_SECONDS` of computing
a chat (SIGPROF ends it, even within one long operation) and `MEMORY_BYTES` more than it starts with
(RLIMIT_AS, on Linux). The process is kept, so that a chat costs one exchange over a socket (measured: 0.2 ms
more for chats of some kilobytes), and it ends with the process that started it. It takes 17 MB.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from suite.errors import GenerationFailed, InvalidChat, SuiteError
from suite.identity import Now

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

CPU_SECONDS = 5.0
"""For one chat; real ones take milliseconds."""
MEMORY_BYTES = 256 << 20
"""For one chat, on top of what the process has; a message of NATS, and so a chat, is a megabyte at most."""
TEXT_BYTES = 4 << 20
"""The longest text that a chat may become."""
ANSWER_SECONDS = 60.0
"""For any answer, on a machine that is busy with other things."""


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag="setup"):
    """The first message to the process."""

    source: str
    tool_source: str | None
    bos: str
    eos: str
    cpu_seconds: float
    memory_bytes: int


class Render(msgspec.Struct, frozen=True, kw_only=True, tag="render"):
    """Every other message to the process."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    now: datetime
    """With its time zone."""


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to each of them; to a setup an empty text."""

    text: str = ""
    refusal: str | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Rendered).decode


class Renderer:
    """One model's template. Any thread may use it; one chat is rendered at a time."""

    def __init__(
        self,
        source: str,
        *,
        tool_source: str | None = None,
        bos: str,
        eos: str,
        now: Now,
        cpu_seconds: float = CPU_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        """`tool_source` is the template that a file may have for chats with tools."""
        self._setup = Setup(
            source=source,
            tool_source=tool_source,
            bos=bos,
            eos=eos,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
        )
        self._now = now
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection
        self._unusable: str | None = None
        """Why no chat can be rendered, once that is known."""

    def start(self) -> None:
        """Have the process ready before the first chat. Raises InvalidChat for an invalid template."""
        with self._lock:
            self._ready()

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> str:
        """The text of a chat up to where the assistant's answer begins.

        Raises InvalidChat with the template's own words when it refuses the chat, or for what limit it broke;
        one that came to no end is not tried again. Raises GenerationFailed if no process can be had.
        """
        request = _encode(Render(messages=list(messages), tools=list(tools), now=self._now().astimezone()))
        with self._lock:
            self._ready()
            answer = self._ask(request)
        if answer.refusal is not None:
            raise InvalidChat(answer.refusal)
        return answer.text

    def give_up(self, reason: str) -> None:
        """Refuse every chat from now on, in these words."""
        self._unusable = reason

    def close(self) -> None:
        """End the process. The next chat starts another."""
        with self._lock:
            self._end()

    def _ready(self) -> None:
        if self._unusable is None and (self._process is None or self._process.poll() is not None):
            self._end()
            self._open()
            refusal = self._ask(_encode(self._setup)).refusal
            self._unusable = refusal
        if self._unusable is not None:
            self._end()
            raise InvalidChat(self._unusable)

    def _open(self) -> None:
        from multiprocessing.connection import Connection  # slow to import, and only chats need it

        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "suite.engine.template_process", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise GenerationFailed(f"no process for the chat template: {error}") from None
        self._connection = Connection(ours.detach())

    def _ask(self, message: bytes) -> Rendered:
        try:
            self._connection.send_bytes(message)
            if not self._connection.poll(ANSWER_SECONDS):
                self._end()
                raise GenerationFailed("the chat template was not rendered in time: try again")
            return _decode(self._connection.recv_bytes())
        except (OSError, EOFError):
            raise self._broken() from None

    def _broken(self) -> SuiteError:
        """Why the process is gone, as far as that can be told."""
        assert self._process is not None
        code = self._process.wait()
        self._end()
        if code == -signal.SIGPROF:
            # Each try would take as long again, and other chats wait for it.
            self._unusable = "the model's chat template does not come to an end: send a prompt instead"
            return InvalidChat(self._unusable)
        return InvalidChat(f"the model's chat template broke its process (exit code {code}): send a prompt")

    def _end(self) -> None:
        if self._process is not None:
            self._connection.close()
            self._process.kill()
            self._process.wait()
            self._process = None
