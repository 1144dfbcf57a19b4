"""A grammar at work for one generation, in a process that may die of it.

A grammar can abort llama.cpp, or take it minutes and gigabytes for one token, at once or late, and no call
can be interrupted. So none is read or followed in the process of the model. Beside that one there is a
`GrammarProcess`, which holds the vocabulary and forks a child for each grammar; the model's process speaks
with the child over a socket (one exchange a token)::

    session = process.open()
    session.read(ToRead(kind="grammar", source="root ::= [0-9]+", limits=Limits()))
    session.takes(token)
    session.close()

A message is its length, then its bytes. To the child go a `ToRead` as JSON, then a letter and token ids each
time; back come a `Reading` as JSON, then ids. What is left to say of a child that died, its parent says.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from suite.errors import GenerationFailed, InvalidGrammar, InvalidSchema

if TYPE_CHECKING:
    from suite.engine.candidates import Ids

ANSWER, DIED = b"=", b"!"
"""How a message from the process begins."""
TAKE, PERMIT, ACCEPT = b"t", b"p", b"a"
"""How a message to the process begins: accept this token if it is permitted and say whether, say which of
these are permitted, accept this token."""
READ_SECONDS = 60.0
"""For reading a grammar, on a machine that is busy with other things, the start of the process included."""
ANSWER_SECONDS = 1.0
"""For any other answer: all generations of the model wait for it."""

Kind = Literal["grammar", "schema"]

BEGIN, END = b"+", b"-"
"""How a message to the parent begins: here is a socket for a child, that child is no longer wanted."""

control = struct.Struct("=cQ")
"""A whole message to the parent, with the child's number."""
_length, _token = struct.Struct("=I"), struct.Struct("=i")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What one grammar may take."""

    read_seconds: float = 3.0
    """CPU time for reading it."""
    call_seconds: float = 0.5
    """CPU time for what is asked about one token."""
    total_seconds: float = 5.0
    """CPU time for all tokens of an answer, beside `token_seconds` of each."""
    token_seconds: float = 0.02
    memory_bytes: int = 512 << 20
    """Beside the vocabulary; where the system can tell and keep to it."""


class ToRead(msgspec.Struct, frozen=True, kw_only=True):
    """The first message to the child."""

    kind: Kind
    source: str
    limits: Limits


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to it."""

    warnings: tuple[str, ...] = ()
    """What of a schema the grammar cannot enforce."""
    refusal: str | None = None
    code: str = ""
    """Of the refusal."""


class Death(msgspec.Struct, frozen=True, kw_only=True):
    """How the child ended, where it did not end well."""

    signal: int
    """0: it ended by itself."""
    errors: str
    """What it wrote to its standard error."""


_encode = msgspec.json.Encoder().encode
_decode_reading = msgspec.json.Decoder(Reading).decode
_decode_death = msgspec.json.Decoder(Death).decode


def send(connection: socket.socket, message: bytes) -> None:
    """Send a message. Raises OSError, of which TimeoutError is one."""
    connection.sendall(_length.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes:
    """The next message. Raises EOFError or OSError, of which TimeoutError is one."""
    (length,) = _length.unpack(_receive_exactly(connection, _length.size))
    return _receive_exactly(connection, length)


def _receive_exactly(connection: socket.socket, length: int) -> bytes:
    data = connection.recv(length)
    while len(data) < length:
        more = connection.recv(length - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class GrammarSession:
    """One grammar, for one generation at most. Any thread may close it while another waits for an answer."""

    def __init__(self, connection: socket.socket, end: Callable[[], None]) -> None:
        """`end` ends the child, whatever it does."""
        self._socket = connection
        self._end = end
        self._lock = threading.Lock()
        self._work: ToRead | None = None

    def read(self, work: ToRead) -> tuple[str, ...]:
        """Have the grammar read; it blocks. What of a schema it cannot enforce.

        Raises InvalidGrammar or InvalidSchema for what cannot be used, GenerationFailed without a process.
        """
        self._work = work
        refusal = InvalidGrammar if work.kind == "grammar" else InvalidSchema
        try:
            answer = self._ask(_encode(work), READ_SECONDS)
        except TimeoutError:
            raise GenerationFailed(f"the {work.kind} was not read in time: try again") from None
        except _Died as error:
            raise refusal(_reason(error.death, work, reading=True)) from None
        except (OSError, EOFError):
            raise GenerationFailed(
                f"the process that reads grammars ended before it read the {work.kind}"
            ) from None
        found = _decode_reading(answer)
        if found.refusal is not None:
            raise (InvalidSchema if found.code == InvalidSchema.code else refusal)(found.refusal)
        return found.warnings

    def takes(self, token: int) -> bool:
        """Whether the grammar permits the token; if so, the answer has it from now on.

        This and what follows raise InvalidGrammar when the grammar takes more than it may.
        """
        return bool(self._follow(TAKE, _token.pack(token)))

    def permitted(self, ids: Ids) -> Ids:
        """Those of the tokens that the grammar permits next."""
        return np.frombuffer(self._follow(PERMIT, ids.astype(np.int32).tobytes()), np.int32)

    def accept(self, token: int) -> None:
        """The answer has this token, which was permitted, from now on."""
        self._follow(ACCEPT, _token.pack(token))

    def close(self) -> None:
        """End it, and the wait of a thread for its answer."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._end()
        with self._lock:  # else another file could get the number that a thread still reads from
            self._socket.close()

    def _follow(self, request: bytes, ids: bytes) -> bytes:
        assert self._work is not None, "a grammar is read before it is followed"
        try:
            return self._ask(request + ids, ANSWER_SECONDS)
        except TimeoutError:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # nobody may take the late answer for the next one's
            raise InvalidGrammar(
                f"the grammar gave no answer within {ANSWER_SECONDS:g} s: make it less ambiguous"
            ) from None
        except _Died as error:
            raise InvalidGrammar(_reason(error.death, self._work, reading=False)) from None
        except (OSError, EOFError):
            raise GenerationFailed("the grammar's process is gone: try again") from None

    def _ask(self, message: bytes, seconds: float) -> bytes:
        with self._lock:
            self._socket.settimeout(seconds)
            with suppress(ConnectionError):  # what it died of can still be read
                send(self._socket, message)
            if message[:1] == ACCEPT:
                return b""
            answer = receive(self._socket)
        if answer[:1] == DIED:
            raise _Died(_decode_death(answer[1:]))
        return answer[1:]


class GrammarProcess:
    """The process beside the model's that has a child for each grammar. Any thread may use it.

    It is started for the first grammar, for most models never get one, and ends with the process that started
    it; so do its children, but for what the limits of each still let it do.
    """

    def __init__(self, model_path: str) -> None:
        self._model_path = model_path
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket
        self._opened = 0

    def open(self) -> GrammarSession:
        """A child for one grammar. Raises GenerationFailed when no process can be started."""
        ours, theirs = socket.socketpair()
        with theirs, self._lock:
            try:
                if self._process is None or self._process.poll() is not None:
                    self._end()
                    self._start()
                self._opened += 1
                number = self._opened
                socket.send_fds(self._control, [control.pack(BEGIN, number)], [theirs.fileno()])
            except OSError as error:
                ours.close()
                raise GenerationFailed(f"no process for the grammar: {error}") from None
        return GrammarSession(ours, lambda: self._kill(number))

    def close(self) -> None:
        """End the process; sessions that are open go on. The next one starts another."""
        with self._lock:
            self._end()

    def _kill(self, number: int) -> None:
        with self._lock, suppress(OSError):
            if self._process is not None:
                self._control.sendall(control.pack(END, number))

    def _start(self) -> None:
        self._control, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    "suite.engine.grammar.process",
                    str(theirs.fileno()),
                    self._model_path,
                ],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # One thread, for it forks; and an abort that does not wait for a debugger.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"},
            )

    def _end(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
            self._process = None


class _Died(Exception):
    def __init__(self, death: Death) -> None:
        self.death = death


def _reason(death: Death, work: ToRead, *, reading: bool) -> str:
    kind, limits = work.kind if reading else "grammar", work.limits
    if "bad_alloc" in death.errors or "MemoryError" in death.errors:
        return f"the {kind} needs more than {limits.memory_bytes >> 20} MiB: make it simpler"
    if death.signal == signal.SIGPROF and reading:
        return f"the {kind} takes more than {limits.read_seconds:g} s to read: make it simpler"
    if death.signal == signal.SIGPROF:
        return (
            f"the grammar took more than {limits.call_seconds:g} s for a token, or more than "
            f"{limits.total_seconds:g} s for all: make it less ambiguous"
        )
    last = death.errors.splitlines()[-1][:200] if death.errors else f"signal {death.signal}"
    return f"the {kind} would end llama.cpp: {last}"
