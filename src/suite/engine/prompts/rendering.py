"""Renders chat templates in a separate process with limits on CPU time and memory.

A template comes with a model file, and can loop forever or allocate without limit. What it does depends on
the messages, so a trial run says nothing about the next chat. Hence every render, and the compilation (which
evaluates constants), happens in a small process next to the model's. It may use `CPU_SECONDS` of CPU time per
chat (SIGPROF ends it, even within one long operation) and `MEMORY_BYTES` more than it starts with (RLIMIT_AS,
on Linux). The process is reused, so that a chat costs one round trip over a socket (measured: 0.2 ms more for
chats of some kilobytes). It takes 17 MB, and ends with the process that started it. While it is busy with a
slow chat, other chats get another process.

Whether a chat is slow is only known when it is rendered. A renderer for quick chats gives up after
`QUICK_SECONDS` of CPU time and raises `SlowChat`; the chat is then rendered by a patient renderer, queued
behind other slow chats.
"""

from __future__ import annotations

import logging
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
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
"""The CPU time limit for one chat; real chats take milliseconds."""
QUICK_SECONDS = 0.1
"""The CPU time limit for a chat that is not to delay others."""
PATIENT_NICE = 5
"""The niceness of patient renderers' processes, so that they yield to all others on the machine."""
MEMORY_BYTES = 256 << 20
"""The memory limit for one chat, on top of what the process has. A chat is one NATS message: 1 MB at most."""
TEXT_BYTES = 4 << 20
"""The maximum length of a rendered chat."""
ANSWER_SECONDS = 60.0
"""The timeout for any answer of the process, in wall-clock time: the machine may be busy."""
PATIENCE_SECONDS = 0.5
"""How long a chat waits for the existing process before another is started, which takes about as long."""

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
    confined: bool = False


class Render(msgspec.Struct, frozen=True, kw_only=True, tag="render"):
    """Every other message to the process."""

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]
    now: datetime
    """The current time, with its time zone."""
    variables: dict[str, Any] = {}
    """More of what the template can be given."""
    opens_answer: bool = True
    """Whether the text ends where the assistant's answer begins."""
    quick_seconds: float | None = None
    """The CPU time after which the process gives up; None: no such limit."""


class Rendered(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to each message; for a setup the text is empty."""

    text: str = ""
    refusal: str | None = None
    unused: tuple[str, ...] = ()
    """Those of the variables that the template does not use."""
    takes_no_tools: bool = False
    """Whether that is why it was refused."""
    was_slow: bool = False
    """Whether the process gave up after `Render.quick_seconds`."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Rendered).decode


class SlowChat(Exception):
    """The chat takes more CPU time than a quick chat may."""


class ChatTooLong(InvalidChat):
    """The chat takes more time or memory than a chat may: another form of it would too."""


class TakesNoTools(InvalidChat):
    """The template has no place for tools, in whatever form the chat is."""


class _OverTime(Exception):
    """The chat took more CPU time than is allowed, and its process was ended."""


class _Process:
    """A process that renders chats, for one thread at a time."""

    def __init__(self) -> None:
        """Start the process. Raises GenerationFailed if that fails."""
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
        """Whether the process is running."""
        return self._process.poll() is None

    def ask(self, message: bytes) -> Rendered:
        """Send a message and return the answer.

        Raises _OverTime, InvalidChat or GenerationFailed; the process has then ended.
        """
        try:
            self._connection.send_bytes(message)
            if not self._connection.poll(ANSWER_SECONDS):
                self.end()
                raise GenerationFailed("the chat template was not rendered in time: try again")
            return _decode(self._connection.recv_bytes())
        except (OSError, EOFError):
            raise self._broken() from None

    def _broken(self) -> Exception:
        """The error for a process that has ended, according to its exit code."""
        code = self._process.wait()
        self.end()
        if code in (-signal.SIGPROF, -signal.SIGVTALRM):
            return _OverTime()
        return InvalidChat(f"the model's chat template broke its process (exit code {code}): send a prompt")

    def end(self) -> None:
        """Kill the process and wait for its end."""
        self._connection.close()
        self._process.kill()
        self._process.wait()


class Renderer:
    """Renders chats with one model's template. Any number of threads may use it at once."""

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
        confined: bool = False,
    ) -> None:
        """`tool_source` is the template for chats with tools, if the model file has one.

        With `quick_seconds` this renderer is for quick chats, and raises SlowChat for others. `confined`:
        whether its process gives up all rights (`suite.confinement`).
        """
        self._setup = Setup(
            source=source,
            tool_source=tool_source,
            bos=bos,
            eos=eos,
            cpu_seconds=cpu_seconds,
            memory_bytes=memory_bytes,
            nice=nice,
            confined=confined,
        )
        self._quick_seconds = quick_seconds
        self._now = now
        self._changed = threading.Condition()
        self._idle: _Process | None = None
        self._in_use = 0
        self._has_answered = False
        self._unusable: str | None = None
        """Why the template cannot render any chat; None as long as that is not known."""

    def start(self) -> None:
        """Start a process before the first chat. Raises InvalidChat for an invalid template."""
        with self._process():
            pass

    def render(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] = (),
        *,
        variables: Mapping[str, Any] | None = None,
        opens_answer: bool = True,
    ) -> Rendered:
        """Render a chat; with `opens_answer`, up to where the assistant's answer begins.

        Raises TakesNoTools, or InvalidChat with the template's own message if it refuses the chat, or with
        the limit that the chat exceeded. Once a template has failed to end even for the shortest chat, every
        chat is refused. Raises GenerationFailed if there is no working process, and SlowChat if this renderer
        is for quick chats and this chat is slow.
        """
        render = Render(
            messages=list(messages),
            tools=list(tools),
            now=self._now().astimezone(),
            variables=dict(variables or {}),
            opens_answer=opens_answer,
            quick_seconds=self._quick_seconds,
        )
        try:
            answer = self._ask(render)
        except _OverTime:
            if self._quick_seconds is not None:
                raise SlowChat from None
            raise ChatTooLong(self._judged()) from None
        if answer.was_slow:
            raise SlowChat
        if answer.refusal is not None:
            raise (TakesNoTools if answer.takes_no_tools else InvalidChat)(answer.refusal)
        return answer

    def close(self) -> None:
        """End the idle process. The next chat starts another one."""
        with self._changed:
            if self._idle is not None:
                self._idle.end()
                self._idle = None

    def _ask(self, render: Render) -> Rendered:
        message = _encode(render)
        with self._process() as process:
            answer = process.ask(message)
        self._has_answered = True
        return answer

    def _judged(self) -> str:
        """The message for a chat that took too long. Tests whether the chat or the template is the cause."""
        if not self._has_answered:
            try:
                self._ask(Render(messages=_SHORTEST, tools=[], now=self._now().astimezone()))
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
        """Borrow the idle process, or start another if none becomes idle within `PATIENCE_SECONDS`."""
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
