"""The process that compiles and follows grammars: ``python -m suite.engine.grammar.process FD MODEL``.

With ``confined`` behind, it gives up all rights before it opens the model's file (ADR 68).
`suite.engine.grammar.session` starts it, explains why it exists, and sends it a socket for each grammar over
the socket FD. The process has one thread and forks a child for each grammar. A grammar may crash its child;
the parent then reports why.
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
from codecs import getincrementaldecoder
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NamedTuple, NoReturn

import msgspec
import numpy as np

from suite.confinement.confinement import Rights, confine
from suite.engine.bindings import last_messages, lib
from suite.engine.candidates import Candidates, TokenIds
from suite.engine.grammar.call_source import CallSource
from suite.engine.grammar.calls import Trigger, call_grammar
from suite.engine.grammar.session import (
    ACCEPT,
    ANSWER,
    BEGIN,
    DIED,
    TRY_ACCEPT,
    ChildExit,
    CompileReply,
    CompileRequest,
    Limits,
    control,
    receive,
    send,
)
from suite.engine.schema.json_schema import not_supported, to_grammar
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidGrammar, InvalidSchema, SuiteError

_ERRORS_BYTES = 4096
_LONGEST_MARKER = 256
"""How many of the last characters may be the beginning of a call's marker."""
_LONGEST_BEGINNING = 1024
"""How many of an answer's first characters may be the beginning of its call: the name is far shorter."""
_TRIED_FIRST = 4096
"""For most grammars, this many tokens are enough to find one that it permits at the start."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(CompileRequest).decode
_decode_calls = msgspec.json.Decoder(CallSource).decode


def main() -> None:
    """Fork a child for each socket received, until the process that sends them has ended."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    descriptor, model, *options = sys.argv[1:]
    if options == ["confined"]:
        # Of its directory, the process that started this one may read the model's parts only.
        confine(Rights(read=(Path(model), Path(model).parent), starts="processes"))
    Parent(socket.socket(fileno=int(descriptor)), _load(model)).run()


def _load(path: str) -> Vocabulary:
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit("the process for grammars could not load the model's vocabulary")
    return Vocabulary(model)


class _ChildRecord(NamedTuple):
    """What the parent knows of a child."""

    number: int
    session: socket.socket
    errors: BinaryIO


class Parent:
    """Forks the children, and reports why a child died."""

    def __init__(self, orders: socket.socket, vocabulary: Vocabulary) -> None:
        self._orders = orders
        self._vocabulary = vocabulary
        self._unseen = np.zeros(vocabulary.size, np.bool_)
        self._unseen[vocabulary.invisible_tokens()] = True
        vocabulary.control_tokens  # noqa: B018 - known before the fork, so that each child need not find them
        self._children: dict[int, _ChildRecord] = {}

    def run(self) -> None:
        """Serve until the process that started this one has ended."""
        signal.signal(signal.SIGCHLD, self._on_death)
        while True:
            order, descriptors, _, _ = socket.recv_fds(self._orders, control.size, 1)
            if not order:
                return
            verb, number = control.unpack(order)
            # A child is recorded before its death is handled, and that is handled before its pid is reused.
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
            if verb == BEGIN:
                self._fork(number, socket.socket(fileno=descriptors[0]))
            else:
                self._kill(number)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGCHLD})

    def _fork(self, number: int, session: socket.socket) -> None:
        try:
            errors = _open_buffer()  # closed when the child is gone
            child = os.fork()
            if child == 0:
                self._become_child(session, errors)
            self._children[child] = _ChildRecord(number, session, errors)
        except OSError as error:
            sys.stderr.write(f"the process for a grammar cannot be started: {error}\n")
            session.close()

    def _kill(self, number: int) -> None:
        for child, known in self._children.items():
            if known.number == number:
                os.kill(child, signal.SIGKILL)

    def _become_child(self, session: socket.socket, errors: BinaryIO) -> NoReturn:
        code = 1
        try:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            # Close the other sockets: they must close when their owners say so, not when this child ends.
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
                        send(session, DIED + _encode(_child_exit(status, errors)))


def _open_buffer() -> BinaryIO:
    """A file without a name: of a pipe, a child that writes much would wait until it is read."""
    if sys.platform == "linux":  # in memory, for this process may write no files
        return os.fdopen(os.memfd_create("errors"), "w+b", buffering=0)
    return tempfile.TemporaryFile(buffering=0)


def _child_exit(status: int, errors: BinaryIO) -> ChildExit:
    size = os.fstat(errors.fileno()).st_size
    written = os.pread(errors.fileno(), _ERRORS_BYTES, max(0, size - _ERRORS_BYTES))
    return ChildExit(signal=os.WTERMSIG(status), errors=written.decode("utf-8", "replace").strip())


class Child:
    """Compiles one grammar, and answers its session's questions about tokens."""

    def __init__(
        self, session: socket.socket, errors: BinaryIO, vocabulary: Vocabulary, unseen: np.ndarray
    ) -> None:
        self._session = session
        self._errors = errors
        self._vocabulary = vocabulary
        self._unseen = unseen
        self._candidates = Candidates()
        self._grammar = 0
        self._asleep: SleepingGrammar | None = None
        """What the answer is until it begins a call; None: it follows the grammar."""

    def run(self) -> None:
        """Serve until the session closes its socket, which raises EOFError or OSError.

        A limit or a crash of llama.cpp may end the process at any time.
        """
        compile_request = _decode(receive(self._session))
        _limit(compile_request.limits)
        # Unhandled, its signal ends the process, even within one call into llama.cpp.
        signal.setitimer(signal.ITIMER_PROF, compile_request.limits.compile_seconds)
        try:
            reply = CompileReply(warnings=self._compile(compile_request))
        except SuiteError as error:
            reply = CompileReply(refusal=error.message, code=error.code)
        signal.setitimer(signal.ITIMER_PROF, 0)
        send(self._session, ANSWER + _encode(reply))
        allowed = time.process_time() + compile_request.limits.total_seconds
        while True:
            request = receive(self._session)
            left = allowed - time.process_time()
            if left <= 0:
                signal.raise_signal(signal.SIGPROF)
            signal.setitimer(signal.ITIMER_PROF, min(left, compile_request.limits.call_seconds))
            self._answer(request[:1], np.frombuffer(request[1:], np.int32))
            signal.setitimer(signal.ITIMER_PROF, 0)
            allowed += compile_request.limits.token_seconds

    def _answer(self, request: bytes, ids: TokenIds) -> None:
        if request != ACCEPT:
            ids = self._permitted(ids)
            send(self._session, ANSWER + ids.tobytes())
        if request == ACCEPT or (request == TRY_ACCEPT and len(ids)):
            self._accept(int(ids[0]))  # while the model goes on

    def _accept(self, token: int) -> None:
        if self._asleep is None:
            lib.llama_sampler_accept(self._grammar, token)
        elif woken := self._asleep.hear(token):
            self._grammar, self._asleep = woken, None

    def _permitted(self, ids: TokenIds) -> TokenIds:
        if self._asleep is not None:
            return ids
        # llama.cpp matches a special token by its name, which is not part of any answer.
        return permitted(self._grammar, ids[~self._unseen[ids]], self._candidates)

    def _compile(self, compile_request: CompileRequest) -> tuple[str, ...]:
        if compile_request.kind == "grammar":
            _check_code_points(compile_request.source)
            self._parse(compile_request.source)
            return ()
        if compile_request.kind == "calls":
            return self._compile_calls(compile_request.source)
        converted = to_grammar(json.loads(compile_request.source))
        if compile_request.strict and converted.warnings:
            raise not_supported("strict", converted.warnings)
        self._parse_made(converted.grammar)
        return converted.warnings

    def _compile_calls(self, source: str) -> tuple[str, ...]:
        calls = _decode_calls(source)
        made = call_grammar(calls)
        for name, token in self._vocabulary.control_tokens.items():
            if name in calls.form.text:  # a model writes its markers as such a token, or as text
                self._unseen[token] = False
        self._parse_made(made.grammar)
        if made.triggers:
            self._asleep = SleepingGrammar(made.grammar, made.triggers, self._vocabulary)
        return made.warnings

    def _parse_made(self, grammar: str) -> None:
        try:
            self._parse(grammar)
        except InvalidGrammar as error:
            raise InvalidSchema(f"the schema gives no usable grammar: {error.message}") from None

    def _parse(self, grammar: str) -> None:
        try:
            self._grammar = parse(grammar, self._vocabulary)
        except InvalidGrammar as error:
            # llama.cpp's parser writes its error messages only to standard error.
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


class SleepingGrammar:
    """A grammar that is followed from where the answer begins a call."""

    def __init__(self, grammar: str, triggers: Sequence[Trigger], vocabulary: Vocabulary) -> None:
        self._grammar = grammar
        self._triggers = [(re.compile(each.pattern), each) for each in triggers]
        self._vocabulary = vocabulary
        self._said = ""
        self._decoder = getincrementaldecoder("utf-8")("replace")

    def hear(self, token: int) -> int | None:
        """Take in the next token. Returns the grammar's sampler if the answer follows it from here on."""
        self._said += self._decoder.decode(self._vocabulary.piece(token, special=True))
        for expression, trigger in self._triggers:
            found = expression.match(self._said) if trigger.is_start else expression.search(self._said)
            if found is not None:
                woken = self._woken(trigger.root, self._said[found.end() :])
                self._said = self._said[found.end() :]
                return woken
        if not any(trigger.is_start for _, trigger in self._triggers):
            self._said = self._said[-_LONGEST_MARKER:]
        elif not self._may_begin:
            self._triggers, self._said = [], ""
        return None

    @property
    def _may_begin(self) -> bool:
        """Whether the answer, which has to begin with its call, may still be the beginning of one."""
        said = self._said.lstrip()
        return len(said) <= _LONGEST_BEGINNING and said[:1] in ("", "{", "<")

    def _woken(self, root: str, rest: str) -> int | None:
        """The grammar, after the part of a call that came with its beginning.

        None if it does not permit that part: then the call is none of those offered, and the model is free.
        """
        sampler, candidates = parse(self._grammar, self._vocabulary, root), Candidates()
        for token in self._vocabulary.tokenize(rest, begins=False, special=False) if rest else ():
            if not len(permitted(sampler, np.array([token]), candidates)):
                lib.llama_sampler_free(sampler)
                return None
            lib.llama_sampler_accept(sampler, token)
        return sampler


def parse(grammar: str, vocabulary: Vocabulary, root: str = "root") -> int:
    """llama.cpp's sampler for a grammar. Raises InvalidGrammar. It may abort the process or run for ever."""
    last_messages()
    sampler: int | None = lib.llama_sampler_init_grammar(
        vocabulary.pointer, grammar.encode("utf-8", "replace"), root.encode()
    )
    if not sampler:
        raise InvalidGrammar(f"the grammar cannot be read: {last_messages() or 'it has a syntax error'}")
    return sampler


def permitted(grammar: int, ids: TokenIds, candidates: Candidates) -> TokenIds:
    """The tokens among `ids` that the grammar's sampler permits next. Overwrites `candidates`."""
    if not len(ids):
        return ids
    candidates.fill(ids, 0.0)
    candidates.apply(grammar)
    return candidates.allowed


def _check_code_points(text: str) -> None:
    """Raise InvalidGrammar for escapes of no character, of which llama.cpp makes invalid UTF-8."""
    for escape in re.findall(r"\\(U[0-9a-fA-F]{8}|u[0-9a-fA-F]{4}|.)", text):
        code = int(escape[1:], 16) if len(escape) > 1 else 0
        if code > sys.maxunicode:
            raise InvalidGrammar(f"the grammar has \\{escape}, and Unicode ends at \\U0010FFFF")
        if 0xD800 <= code <= 0xDFFF:
            raise InvalidGrammar(
                f"the grammar has \\{escape}, half of a surrogate pair, which is no character: write the "
                "character itself"
            )


def _limit(limits: Limits) -> None:
    """Limit how much memory this process may add to what it has, where the system supports that."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        size = pages * resource.getpagesize() + limits.memory_bytes
        resource.setrlimit(resource.RLIMIT_AS, (size, size))


if __name__ == "__main__":
    main()
