"""Follows a grammar during one generation, in another process that the grammar may crash.

A grammar can abort llama.cpp, or make it take minutes and gigabytes for a single token, early or late, and no
call can be interrupted. So grammars are never compiled or followed in the model's process. A `GrammarProcess`
beside it loads the vocabulary and forks a child for each grammar. The model's process talks to the child over
a socket, one exchange a token (ADR 16)::

    session = process.open()
    session.compile(CompileRequest(kind="grammar", source="root ::= [0-9]+", limits=Limits()))
    session.try_accept(token)
    session.close()

A message is its length, then its bytes. The child receives a `CompileRequest` as JSON, then messages of a
letter and token ids. It answers with a `CompileReply` as JSON, then with token ids. If it dies, its parent
sends a `ChildExit` instead.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec
import numpy as np

from suite.engine.gguf.names import split_name
from suite.errors import GenerationFailed, InvalidGrammar, InvalidSchema, SchemaNotSupported, SuiteError

if TYPE_CHECKING:
    from suite.engine.candidates import TokenIds

ANSWER, DIED = b"=", b"!"
"""The first byte of a message from the process: an answer, or the child has died."""
TRY_ACCEPT, FILTER, ACCEPT = b"t", b"p", b"a"
"""The first byte of a message to the child: accept this token if it is permitted and say whether it is; say
which of these tokens are permitted; accept this token."""
COMPILE_SECONDS = 60.0
"""How long to wait for a grammar to be compiled on a busy machine, with the start of the process."""
ANSWER_SECONDS = 1.0
"""How long to wait for any other answer. It is short, because all generations of the model wait for it."""

SourceKind = Literal["grammar", "schema", "calls"]
"""A grammar as it is; the JSON of a schema; the JSON of a `CallSource`."""

_NAMES = {"grammar": "the grammar", "schema": "the schema", "calls": "the grammar of the tools' schemas"}
_REFUSALS = {refusal.code: refusal for refusal in (InvalidSchema, SchemaNotSupported)}

BEGIN, END = b"+", b"-"
"""The first byte of a message to the parent: fork a child for this socket; kill that child."""

control = struct.Struct("=cQ")
"""A whole message to the parent: its first byte and the child's number."""
_length, _token = struct.Struct("=I"), struct.Struct("=i")


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of one grammar."""

    compile_seconds: float = 3.0
    """CPU time for compiling it."""
    call_seconds: float = 0.5
    """CPU time for one question about tokens."""
    total_seconds: float = 5.0
    """CPU time for all tokens of an answer, plus `token_seconds` for each."""
    token_seconds: float = 0.02
    memory_bytes: int = 512 << 20
    """Memory in addition to the vocabulary; enforced where the system supports it."""


class CompileRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The first message to the child: compile this grammar."""

    kind: SourceKind
    source: str
    limits: Limits
    strict: bool = False
    """Whether a schema is refused if any of its keywords cannot be enforced."""


class CompileReply(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a CompileRequest."""

    warnings: tuple[str, ...] = ()
    """The keywords of the schema that the grammar cannot enforce."""
    refusal: str | None = None
    """Why the grammar cannot be used; None: it can."""
    code: str = ""
    """The error code of the refusal."""


class ChildExit(msgspec.Struct, frozen=True, kw_only=True):
    """How a child died."""

    signal: int
    """The signal that killed it; 0: it exited."""
    errors: str
    """The end of its standard error."""


_encode = msgspec.json.Encoder().encode
_decode_compile_reply = msgspec.json.Decoder(CompileReply).decode
_decode_child_exit = msgspec.json.Decoder(ChildExit).decode


def send(connection: socket.socket, message: bytes) -> None:
    """Send a message. Raises OSError, including TimeoutError."""
    connection.sendall(_length.pack(len(message)) + message)


def receive(connection: socket.socket) -> bytes:
    """Receive the next message. Raises EOFError, or OSError including TimeoutError."""
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
    """One grammar for one generation. Any thread may close it, even while another waits for an answer."""

    def __init__(self, connection: socket.socket, end: Callable[[], None]) -> None:
        """`end` kills the child."""
        self._socket = connection
        self._end = end
        self._lock = threading.Lock()
        self._compile_request: CompileRequest | None = None

    def compile(self, compile_request: CompileRequest) -> tuple[str, ...]:
        """Compile the grammar; blocks. Returns warnings about keywords of a schema that it cannot enforce.

        Raises InvalidGrammar, InvalidSchema or SchemaNotSupported if it cannot be used, GenerationFailed if
        its process fails.
        """
        self._compile_request = compile_request
        try:
            answer = self._ask(_encode(compile_request), COMPILE_SECONDS)
        except TimeoutError:
            raise GenerationFailed(f"{self._what} was not read in time: try again") from None
        except _Died as error:
            raise self._explained(error.child_exit, while_compiling=True) from None
        except (OSError, EOFError):
            raise GenerationFailed(
                f"the process that reads grammars ended before it read {self._what}"
            ) from None
        found = _decode_compile_reply(answer)
        if found.refusal is not None:
            raise _REFUSALS.get(found.code, self._refusal)(found.refusal)
        return found.warnings

    def refused(self, why: str) -> SuiteError:
        """The error about what the client sent, of which this grammar was made."""
        return self._refusal(f"{self._what} {why}")

    @property
    def _kind(self) -> SourceKind:
        assert self._compile_request is not None, "a grammar is compiled before it is followed"
        return self._compile_request.kind

    @property
    def _what(self) -> str:
        return _NAMES[self._kind]

    @property
    def _refusal(self) -> type[SuiteError]:
        return InvalidGrammar if self._kind == "grammar" else InvalidSchema

    def try_accept(self, token: int) -> bool:
        """Accept the token as the next one if the grammar permits it. Returns whether it does.

        Raises InvalidGrammar, or InvalidSchema if it was made from schemas, when the grammar exceeds its
        limits, as do `permitted` and `accept`.
        """
        return bool(self._follow(TRY_ACCEPT, _token.pack(token)))

    def permitted(self, ids: TokenIds) -> TokenIds:
        """The tokens among `ids` that the grammar permits next."""
        return np.frombuffer(self._follow(FILTER, ids.astype(np.int32).tobytes()), np.int32)

    def accept(self, token: int) -> None:
        """Accept a token, which must be permitted, as the next one of the answer."""
        self._follow(ACCEPT, _token.pack(token))

    def close(self) -> None:
        """Kill the child. A thread that waits for its answer gets an error."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._end()
        with self._lock:  # else another file could get the descriptor that a thread still reads from
            self._socket.close()

    def _follow(self, request: bytes, ids: bytes) -> bytes:
        try:
            return self._ask(request + ids, ANSWER_SECONDS)
        except TimeoutError:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # a late answer must not be taken for the next one
            raise self.refused(f"gave no answer within {ANSWER_SECONDS:g} s: make it simpler") from None
        except _Died as error:
            raise self._explained(error.child_exit, while_compiling=False) from None
        except (OSError, EOFError):
            raise GenerationFailed("the grammar's process is gone: try again") from None

    def _explained(self, child_exit: ChildExit, *, while_compiling: bool) -> SuiteError:
        assert self._compile_request is not None
        limits = self._compile_request.limits
        if "bad_alloc" in child_exit.errors or "MemoryError" in child_exit.errors:
            return self.refused(f"needs more than {limits.memory_bytes >> 20} MiB: make it simpler")
        if child_exit.signal == signal.SIGPROF and while_compiling:
            return self.refused(f"takes more than {limits.compile_seconds:g} s to read: make it simpler")
        if child_exit.signal == signal.SIGPROF:
            return self.refused(
                f"took more than {limits.call_seconds:g} s for a token, or more than "
                f"{limits.total_seconds:g} s for all: make it less ambiguous"
            )
        last = child_exit.errors.splitlines()[-1:] or [f"signal {child_exit.signal}"]
        return self.refused(f"would crash llama.cpp: {last[0][:200]}")

    def _ask(self, message: bytes, seconds: float) -> bytes:
        with self._lock:
            self._socket.settimeout(seconds)
            with suppress(ConnectionError):  # if it died, the reason can still be read
                send(self._socket, message)
            if message[:1] == ACCEPT:
                return b""
            answer = receive(self._socket)
        if answer[:1] == DIED:
            raise _Died(_decode_child_exit(answer[1:]))
        return answer[1:]


def _open_model(model_path: str) -> int | None:
    """A descriptor of the model's file, which is the loaded one even when its path has another file by then.

    None where a process cannot open what a descriptor refers to, and for a model of several files.
    """
    if sys.platform != "linux" or split_name(Path(model_path).name) is not None:
        return None
    try:
        return os.open(model_path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # then the process says why


class GrammarProcess:
    """The process beside the model's that forks a child for each grammar. Any thread may use it.

    It is started with the first grammar, because most models never get one, and ends with the process that
    started it. So do its children, unless one is busy: then it ends at its limits at the latest.
    """

    def __init__(self, model_path: str, *, confined: bool = False) -> None:
        """`confined`: whether it and its children give up all rights (`suite.confinement`)."""
        self._model_path = model_path
        self._confined = confined
        self._model = _open_model(model_path)
        if self._model is not None:
            weakref.finalize(self, os.close, self._model)
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket
        self._opened = 0

    def open(self) -> GrammarSession:
        """Fork a child for one grammar. Raises GenerationFailed when no process can be started."""
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
                raise GenerationFailed(f"the grammar's process cannot be started: {error}") from None
        return GrammarSession(ours, lambda: self._kill(number))

    def close(self) -> None:
        """End the process. Open sessions stay usable, and the next `open` starts another process."""
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
                    self._model_path if self._model is None else f"/proc/self/fd/{self._model}",
                    *(("confined",) if self._confined else ()),
                ],
                pass_fds=(theirs.fileno(),) if self._model is None else (theirs.fileno(), self._model),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                # It must have one thread, because it forks; and an abort must not wait for a debugger.
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "GGML_NO_BACKTRACE": "1"},
            )

    def _end(self) -> None:
        if self._process is not None:
            self._control.close()
            self._process.kill()
            self._process.wait()
            self._process = None


class _Died(Exception):
    def __init__(self, child_exit: ChildExit) -> None:
        self.child_exit = child_exit
