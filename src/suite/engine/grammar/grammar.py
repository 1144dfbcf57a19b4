"""Constrains answers to a grammar: the client's own, or one made from a JSON schema.

Each grammar is compiled, and later followed, in another process under limits
(`suite.engine.grammar.session`)::

    async with grammars.for_request(request) as grammar:  # None: the answer is not constrained
        ...  # sample with grammar.session

Refused grammars are remembered, so that they are not compiled again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext

import anyio
import anyio.to_thread
import msgspec

from suite.engine.backend import LeaveCore
from suite.engine.grammar.session import CompileRequest, GrammarProcess, GrammarSession, Limits, SourceKind
from suite.errors import InvalidGrammar, InvalidRequest, InvalidSchema, SuiteError
from suite.messages.actions.generation import GenerateTextRequest

MAX_BYTES = 64 * 1024
"""The largest grammar or schema."""
_MAX_CONCURRENT = 2
"""The most grammars that are compiled at the same time, since each takes a core."""
_MAX_REMEMBERED = 256

JSON_OBJECT = r"""
root   ::= "{" ws (member (ws "," ws member)* ws)? "}"
value  ::= root | array | string | number | "true" | "false" | "null"
array  ::= "[" ws (value (ws "," ws value)* ws)? "]"
member ::= string ws ":" ws value
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
ws     ::= | " " | "\n" [ \t]{0,20}
"""
"""A grammar of any JSON object."""


class SchemaGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """The grammar of a JSON schema."""

    grammar: str
    """In GBNF, llama.cpp's notation."""
    warnings: tuple[str, ...] = ()
    """The keywords of the schema that the grammar cannot enforce."""


class OpenGrammar(msgspec.Struct, frozen=True, kw_only=True):
    """A compiled grammar for one answer, as long as it is open."""

    session: GrammarSession
    warnings: tuple[str, ...]
    """The keywords of the schema that the grammar cannot enforce."""


class Grammars:
    """The grammars of the requests to one model. Nothing here blocks the event loop."""

    def __init__(
        self, model_path: str, limits: Limits | None = None, leave_core: LeaveCore = nullcontext
    ) -> None:
        """`leave_core` is entered while a grammar is compiled: models then compute with a thread less."""
        self._process = GrammarProcess(model_path)
        self._limits = Limits() if limits is None else limits
        self._refused: OrderedDict[bytes, SuiteError] = OrderedDict()
        self._leave_core = leave_core
        self._compiling = anyio.CapacityLimiter(_MAX_CONCURRENT)

    @asynccontextmanager
    async def for_request(self, request: GenerateTextRequest) -> AsyncIterator[OpenGrammar | None]:
        """Open the grammar of a request for the duration of the context; None if it has none.

        Raises InvalidRequest for a request with several, InvalidGrammar or InvalidSchema for one that cannot
        be used, and GenerationFailed when the process that compiles it fails.
        """
        wanted = _wanted(request)
        if wanted is None:
            yield None
            return
        async with self.open(*wanted) as grammar:
            yield grammar

    @asynccontextmanager
    async def open(self, kind: SourceKind, source: str) -> AsyncIterator[OpenGrammar]:
        """Open a grammar, or the JSON text of a schema. Raises the errors of `for_request`."""
        _check(kind, source)
        digest = hashlib.sha256(f"{kind}\n{source}".encode("utf-8", "replace")).digest()
        if (refused := self._refused.get(digest)) is not None:
            raise type(refused)(refused.message)  # a new one, since an exception collects its traceback
        session = self._process.open()
        try:
            warnings = await self._compile(
                session, digest, CompileRequest(kind=kind, source=source, limits=self._limits)
            )
            yield OpenGrammar(session=session, warnings=warnings)
        finally:
            session.close()

    async def _compile(
        self, session: GrammarSession, digest: bytes, compile_request: CompileRequest
    ) -> tuple[str, ...]:
        try:
            return await anyio.to_thread.run_sync(
                self._compiled, session, compile_request, abandon_on_cancel=True, limiter=self._compiling
            )
        except (InvalidGrammar, InvalidSchema) as error:
            self._refused[digest] = error
            if len(self._refused) > _MAX_REMEMBERED:
                self._refused.popitem(last=False)
            raise

    def _compiled(self, session: GrammarSession, compile_request: CompileRequest) -> tuple[str, ...]:
        with self._leave_core():
            return session.compile(compile_request)

    def close(self) -> None:
        """End the process for grammars. Open grammars stay usable."""
        self._process.close()


def _check(kind: SourceKind, source: str) -> None:
    refusal = InvalidGrammar if kind == "grammar" else InvalidSchema
    if len(source.encode("utf-8", "replace")) > MAX_BYTES:
        raise refusal(f"the {kind} has more than {MAX_BYTES // 1024} KiB")
    if "\0" in source:
        raise refusal(f"the {kind} has a NUL character")


def _wanted(request: GenerateTextRequest) -> tuple[SourceKind, str] | None:
    form = request.response_format
    given = [
        name
        for name, value in (
            ("grammar", request.grammar),
            ("json_schema", request.json_schema),
            ("response_format", None if form is None or form.type == "text" else form),
        )
        if value is not None
    ]
    if len(given) > 1:
        raise InvalidRequest(f"{' and '.join(given)}: send one of them")
    if request.grammar is not None:
        return "grammar", request.grammar
    schema = request.json_schema
    if form is not None and form.type != "text":
        schema = form.schema if form.json_schema is None else form.json_schema.schema
        if schema is None and form.type == "json_schema":
            raise InvalidRequest("response_format: json_schema.schema is missing")
        if schema is None:
            return "grammar", JSON_OBJECT
    return None if schema is None else ("schema", msgspec.json.encode(schema).decode())
