"""Renders chat templates in a process of their own, where time and memory are bounded.

A template comes with a model file and can loop for ever or allocate without end; what it does depends on the
messages, so that a trial says nothing about the next chat. Hence every render, and the compilation, which
evaluates constants, happens in one small process beside the model's: it may take `CPU_SECONDS` of computing
a chat (SIGPROF ends it, even within one long operation) and `MEMORY_BYTES` more than it starts with
(RLIMIT_AS, on Linux). The process is kept, so that a chat costs one exchange over a socket (measured: 0.2 ms
more for chats of some kilobytes), and it ends with the process that started it. It takes 17 MB. While a chat
takes long in it, others get a process of their own.

Which chats take long only shows when they are tried. A renderer of quick chats gives up after
`QUICK_SECONDS` of computing and says so (`SlowChat`); such a chat is rendered by a patient one, behind others
of its kind.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any

import msgspec

from suite.errors import GenerationFailed, InvalidChat, SuiteError
from suite.identity import Now

if TYPE_CHECKING:
    from multiprocessing.connection import Connection

logger = logging.getLogger("suite.engine")

CPU_SECONDS = 5.0
"""For one chat; real ones take milliseconds."""
QUICK_SECONDS = 0.1
"""For one that nobody has to wait for."""
PATIENT_NICE = 5
"""By how much processes of patient renderers stand back behind all others of the machine."""
MEMORY_BYTES = 256 << 20
"""For one chat, on top of what the process has; a message of NATS, and so a chat, is a megabyte at most."""
TEXT_BYTES = 4 << 20
"""The longest text that a chat may become."""
ANSWER_SECONDS = 60.0
"""For any answer, on a machine that is busy with other things."""
PATIENCE_SECONDS = 0.5
"""How long a chat waits for the process that is there: starting another takes about as long."""

_SHORTEST: list[dict[str, Any]] = [{"role": "user", "content": "-"}]
_ENDLESS = "the model's chat template does not come to an end: send a prompt instead"


class Setup(msgspec.Struct, frozen=True, kw_only=True, tag="setup"):
    """The first message to the process."""

    source: str
    tool_source: str | None
    bos: str
    eos: str
    cpu_seconds: float
    memory_bytes: int
    nice: int = 0


class Render(msgspec.Struct, frozen=True, kw_only=True, tag="render"):
    """Every other message to the process."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    now: datetime
    """With its time zone."""
    quick_seconds: float | None = None
    """After so much computing it is given up."""


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to each of them; to a setup an empty text."""

    text: str = ""
    refusal: str | None = None
    was_slow: bool = False
    """It was given up."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Rendered).decode


class SlowChat(Exception):
    """It takes more computing than a quick chat may."""


class _OverTime(Exception):
    """It took more computing than is allowed, and the process was ended for it."""


class _Process:
    """A process that renders, for one thread at a time."""

    def __init__(self) -> None:
        """Start it. Raises GenerationFailed."""
        from multiprocessing.connection import Connection  # slow to import, and only chats need it

        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", "suite.engine.prompts.template_process", str(theirs.fileno())],
                    pass_fds=(theirs.fileno(),),
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                ours.close()
                raise GenerationFailed(f"no process for the chat template: {error}") from None
        self._connection: Connection = Connection(ours.detach())

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, message: bytes) -> Rendered:
        """Its answer. After an error, which is _OverTime, InvalidChat or GenerationFailed, it has ended."""
        try:
            self._connection.send_bytes(message)
            if not self._connection.poll(ANSWER_SECONDS):
                self.end()
                raise GenerationFailed("the chat template was not rendered in time: try again")
            return _decode(self._connection.recv_bytes())
        except (OSError, EOFError):
            raise self._broken() from None

    def _broken(self) -> Exception:
        """Why it is gone, as far as that can be told."""
        code = self._process.wait()
        self.end()
        if code in (-signal.SIGPROF, -signal.SIGVTALRM):
            return _OverTime()
        return InvalidChat(f"the model's chat template broke its process (exit code {code}): send a prompt")

    def end(self) -> None:
        """End it."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Renderer:
    """One model's template. Any number of threads may use it at once."""

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
        quick_seconds: float | None = None,
        nice: int = 0,
    ) -> None:
        """`tool_source` is the template that a file may have for chats with tools.

        With `quick_seconds` it is for quick chats, and gives up others.
        """
        self._setup = Setup(
            source=source,
            tool_source=tool_source,
            bos=bos,
            eos=eos,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            nice=nice,
        )
        self._quick_seconds = quick_seconds
        self._now = now
        self._changed = threading.Condition()
        self._idle: _Process | None = None
        self._in_use = 0
        self._has_answered = False
        self._unusable: str | None = None
        """Why no chat can be rendered, once that is known."""

    def start(self) -> None:
        """Have a process ready before the first chat. Raises InvalidChat for an invalid template."""
        with self._process():
            pass

    def render(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> str:
        """The text of a chat up to where the assistant's answer begins.

        Raises InvalidChat with the template's own words when it refuses the chat, or for what limit the chat
        broke; no chat is tried any more once a template has come to no end with the shortest one. Raises
        GenerationFailed if no process can be had, and SlowChat if it is for quick chats and this is none.
        """
        try:
            answer = self._ask(messages, tools)
        except _OverTime:
            if self._quick_seconds is not None:
                raise SlowChat from None
            raise InvalidChat(self._judged()) from None
        if answer.was_slow:
            raise SlowChat
        if answer.refusal is not None:
            raise InvalidChat(answer.refusal)
        return answer.text

    def close(self) -> None:
        """End the process that waits for a chat. The next chat starts another."""
        with self._changed:
            if self._idle is not None:
                self._idle.end()
                self._idle = None

    def _ask(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]]) -> Rendered:
        chat = _encode(
            Render(
                messages=list(messages),
                tools=list(tools),
                now=self._now().astimezone(),
                quick_seconds=self._quick_seconds,
            )
        )
        with self._process() as process:
            answer = process.ask(chat)
        self._has_answered = True
        return answer

    def _judged(self) -> str:
        """What a chat that took too long is refused with: is it the chat, or the template?"""
        if not self._has_answered:
            try:
                self._ask(_SHORTEST, ())
            except _OverTime:
                self._unusable = _ENDLESS
                return _ENDLESS
            except SuiteError as error:
                logger.warning("whether the chat template ends is not known: %s", error.message)
        return (
            f"the model's chat template takes more than {self._setup.cpu_seconds:g} s for this chat: "
            "send a shorter one, or a prompt"
        )

    @contextmanager
    def _process(self) -> Iterator[_Process]:
        """The process that waits for a chat; another where it does not come back soon."""
        with self._changed:
            self._changed.wait_for(lambda: self._idle or not self._in_use, PATIENCE_SECONDS)
            if self._unusable is not None:
                raise InvalidChat(self._unusable)
            process, self._idle = self._idle, None
            self._in_use += 1
        try:
            if process is not None and not process.alive:
                process.end()
                process = None
            process = process or self._opened()
            yield process
        finally:
            with self._changed:
                self._in_use -= 1
                if process is not None and process.alive and self._idle is None:
                    process, self._idle = None, process
                self._changed.notify()
            if process is not None:
                process.end()

    def _opened(self) -> _Process:
        process = _Process()
        try:
            refusal = process.ask(_encode(self._setup)).refusal
        except _OverTime:
            refusal = _ENDLESS
        if refusal is not None:
            process.end()
            self._unusable = refusal
            raise InvalidChat(refusal)
        return process
