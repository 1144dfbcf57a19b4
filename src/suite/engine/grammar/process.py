"""The process that reads and follows grammars: ``python -m suite.engine.grammar.process FD MODEL``.

`suite.engine.grammar.session` starts it, says what it is for and sends it sockets over the socket FD, one for
each grammar. It has one thread and forks a child for each: that one may die of its grammar, and the parent
then tells why.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import socket
import sys
import tempfile
import time
import traceback
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple, NoReturn

import msgspec
import numpy as np

from suite.engine.bindings import last_messages, lib
from suite.engine.candidates import Candidates, Ids
from suite.engine.grammar.session import (
    ACCEPT,
    ANSWER,
    BEGIN,
    DIED,
    TAKE,
    Death,
    Limits,
    Reading,
    ToRead,
    control,
    receive,
    send,
)
from suite.engine.schema.json_schema import to_grammar
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidGrammar, InvalidSchema, SuiteError

_ERRORS_BYTES = 4096
_TRIED_FIRST = 4096
"""Tokens that suffice to see that most grammars permit any."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ToRead).decode


def main() -> None:
    """Have a child for each socket that comes, until none can come any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Parent(socket.socket(fileno=int(sys.argv[1])), _load(sys.argv[2])).run()


def _load(path: str) -> Vocabulary:
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit("the process for grammars could not load the model's vocabulary")
    return Vocabulary(model)


class _Known(NamedTuple):
    """A child."""

    number: int
    session: socket.socket
    errors: BinaryIO


class Parent:
    """Forks, and says of a child that died what it died of."""

    def __init__(self, orders: socket.socket, vocabulary: Vocabulary) -> None:
        self._orders = orders
        self._vocabulary = vocabulary
        self._unseen = np.zeros(vocabulary.size, np.bool_)
        self._unseen[vocabulary.unseen()] = True
        self._children: dict[int, _Known] = {}

    def run(self) -> None:
        """Serve until the process that started this one has ended."""
        signal.signal(signal.SIGCHLD, self._on_death)
        while True:
            order, descriptors, _, _ = socket.recv_fds(self._orders, control.size, 1)
            if not order:
                return
            verb, number = control.unpack(order)
            # A child is known before it is mourned, and mourned before another has its pid.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            if verb == BEGIN:
                self._fork(number, socket.socket(fileno=descriptors[0]))
            else:
                self._kill(number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _fork(self, number: int, session: socket.socket) -> None:
        try:
            # A pipe could be full, and its writer wait. It is closed when the child is gone.
            errors = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            child = os.fork()
            if child == 0:
                self._become_child(session, errors)
            self._children[child] = _Known(number, session, errors)
        except OSError as error:
            sys.stderr.write(f"no process for a grammar: {error}\n")
            session.close()

    def _kill(self, number: int) -> None:
        for child, known in self._children.items():
            if known.number == number:
                os.kill(child, signal.SIGKILL)

    def _become_child(self, session: socket.socket, errors: BinaryIO) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # What others hold the other end of must end when they are told so, not when this one does.
            self._orders.close()
            for other in self._children.values():
                other.session.close()
                other.errors.close()
            os.dup2(errors.fileno(), sys.stderr.fileno())
            with suppress(EOFError, OSError):
                Child(session, errors, self._vocabulary, self._unseen).run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def _on_death(self, _number: int, _frame: FrameType | None) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                child, status = ended
                _, session, errors = self._children.pop(child)
                with session, errors, suppress(OSError):
                    if status:
                        session.setblocking(False)
                        send(session, DIED + _encode(_death(status, errors)))


def _death(status: int, errors: BinaryIO) -> Death:
    size = os.fstat(errors.fileno()).st_size
    written = os.pread(errors.fileno(), _ERRORS_BYTES, max(0, size - _ERRORS_BYTES))
    return Death(signal=os.WTERMSIG(status), errors=written.decode("utf-8", "replace").strip())


class Child:
    """Reads one grammar and follows it, as its session asks."""

    def __init__(
        self, session: socket.socket, errors: BinaryIO, vocabulary: Vocabulary, unseen: np.ndarray
    ) -> None:
        self._session = session
        self._errors = errors
        self._vocabulary = vocabulary
        self._unseen = unseen
        self._candidates = Candidates()
        self._grammar = 0

    def run(self) -> None:
        """Answer until nobody asks any more: then EOFError or OSError. May end the process at any time."""
        work = _decode(receive(self._session))
        _limit(work.limits)
        # Unhandled, its signal ends the process, even within one call into llama.cpp.
        signal.setitimer(signal.ITIMER_PROF, work.limits.read_seconds)
        try:
            reading = Reading(warnings=self._read(work))
        except SuiteError as error:
            reading = Reading(refusal=error.message, code=error.code)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(self._session, ANSWER + _encode(reading))
        allowed = time.process_time() + work.limits.total_seconds
        while True:
            request = receive(self._session)
            left = allowed - time.process_time()
            if left <= 0:
                signal.raise_signal(signal.SIGPROF)
            signal.setitimer(signal.ITIMER_PROF, min(left, work.limits.call_seconds))
            self._answer(request[:1], np.frombuffer(request[1:], np.int32))
            signal.setitimer(signal.ITIMER_PROF, 0)
            allowed += work.limits.token_seconds

    def _answer(self, request: bytes, ids: Ids) -> None:
        if request != ACCEPT:
            ids = self._permitted(ids)
            send(self._session, ANSWER + ids.tobytes())
        if request == ACCEPT or (request == TAKE and len(ids)):
            lib.llama_sampler_accept(self._grammar, int(ids[0]))  # while the model goes on

    def _permitted(self, ids: Ids) -> Ids:
        # llama.cpp takes a special token for its name, which no answer shows.
        return permitted(self._grammar, ids[~self._unseen[ids]], self._candidates)

    def _read(self, work: ToRead) -> tuple[str, ...]:
        if work.kind == "grammar":
            _check_code_points(work.source)
            self._parse(work.source)
            return ()
        constraint = to_grammar(json.loads(work.source))
        try:
            self._parse(constraint.grammar)
        except InvalidGrammar as error:
            raise InvalidSchema(f"no usable grammar can be made of the schema: {error.message}") from None
        return constraint.warnings

    def _parse(self, grammar: str) -> None:
        try:
            self._grammar = parse(grammar, self._vocabulary)
        except InvalidGrammar as error:
            # What is wrong, llama.cpp's parser writes to the standard error and nowhere else.
            written = os.pread(self._errors.fileno(), _ERRORS_BYTES, 0).decode("utf-8", "replace")
            if "bad_alloc" in written:
                raise MemoryError from None
            found = re.search(r"error parsing grammar: (.*)", written)
            raise InvalidGrammar(
                f"the grammar cannot be read: {found[1][:200]}" if found else error.message
            ) from None
        everything = np.arange(self._vocabulary.size)
        if not any(len(self._permitted(ids)) for ids in (everything[:_TRIED_FIRST], everything)):
            raise InvalidGrammar("the grammar permits none of the model's tokens at its beginning")


def parse(grammar: str, vocabulary: Vocabulary) -> int:
    """A sampler of llama.cpp for a grammar. Raises InvalidGrammar. It may abort, and take any time."""
    last_messages()
    sampler: int | None = lib.llama_sampler_init_grammar(
        vocabulary.pointer, grammar.encode("utf-8", "replace"), b"root"
    )
    if not sampler:
        raise InvalidGrammar(f"the grammar cannot be read: {last_messages() or 'it has a syntax error'}")
    return sampler


def permitted(grammar: int, ids: Ids, candidates: Candidates) -> Ids:
    """Those of the tokens that a sampler for a grammar permits next. `candidates` are filled with them."""
    if not len(ids):
        return ids
    candidates.fill(ids, 0.0)
    candidates.apply(grammar)
    return candidates.possible


def _check_code_points(text: str) -> None:
    """Refuse what no text can have: llama.cpp takes it, and completes it with bytes that are not UTF-8."""
    for escape in re.findall(r"\\(U[0-9a-fA-F]{8}|.)", text):
        if len(escape) > 1 and int(escape[1:], 16) > sys.maxunicode:
            raise InvalidGrammar(f"the grammar has \\{escape}, and Unicode ends at \\U0010FFFF")


def _limit(limits: Limits) -> None:
    """Let this process have so many bytes more than it has, where the system can tell and keep to that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
