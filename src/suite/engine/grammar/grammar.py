"""What an answer has to follow: a grammar of the client's, or one made of a JSON schema.

Each is read, and later followed, in a process of its own under limits (`grammar_session`)::

    async with grammars.of(request) as constraint:  # None: the answer is free
        ...  # sampling with constraint.session

One that was refused is remembered, so that it is not tried again.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.to_thread
import msgspec

from suite.engine.grammar.session import GrammarProcess, GrammarSession, Kind, Limits, ToRead
from suite.errors import InvalidGrammar, InvalidRequest, InvalidSchema, SuiteError
from suite.messages.actions.generation import GenerateTextRequest

MAX_BYTES = 64 * 1024
"""Of a grammar or a schema."""
_READ_AT_ONCE = 2
"""Each takes a core."""
_REMEMBERED = 256

JSON_OBJECT = r"""
root   ::= "{" ws (member (ws "," ws member)* ws)? "}"
value  ::= root | array | string | number | "true" | "false" | "null"
array  ::= "[" ws (value (ws "," ws value)* ws)? "]"
member ::= string ws ":" ws value
string ::= "\"" ([^"\\\x00-\x1F\x7F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
number ::= "-"? ("0" | [1-9] [0-9]{0,15}) ("." [0-9]{1,15})? ([eE] [-+]? [0-9]{1,2})?
ws     ::= | " " | "\n" [ \t]{0,20}
"""
"""Any JSON object."""


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """What a schema becomes."""

    grammar: str
    """GBNF."""
    warnings: tuple[str, ...] = ()
    """What of a schema the grammar cannot enforce."""


class Following(msgspec.Struct, frozen=True, kw_only=True):
    """What one answer follows."""

    session: GrammarSession
    warnings: tuple[str, ...]
    """What of a schema it cannot enforce."""


class Grammars:
    """The grammars of one actor's clients. Nothing here keeps the event loop waiting."""

    def __init__(self, model_path: str, limits: Limits | None = None) -> None:
        self._process = GrammarProcess(model_path)
        self._limits = Limits() if limits is None else limits
        self._refused: OrderedDict[bytes, SuiteError] = OrderedDict()
        self._reading = anyio.CapacityLimiter(_READ_AT_ONCE)

    @asynccontextmanager
    async def of(self, request: GenerateTextRequest) -> AsyncIterator[Following | None]:
        """What the answer to a request follows, for as long as the context is open; None: nothing.

        Raises InvalidRequest for two at once, InvalidGrammar or InvalidSchema for what cannot be used, and
        GenerationFailed when it could not be read.
        """
        wanted = _wanted(request)
        if wanted is None:
            yield None
            return
        async with self.opened(*wanted) as following:
            yield following

    @asynccontextmanager
    async def opened(self, kind: Kind, source: str) -> AsyncIterator[Following]:
        """A grammar, or the JSON of a schema, ready to be followed. Raises as `of` does."""
        _check(kind, source)
        digest = hashlib.sha256(f"{kind}\n{source}".encode("utf-8", "replace")).digest()
        if (refused := self._refused.get(digest)) is not None:
            raise type(refused)(refused.message)  # anew, for an exception keeps what it went through
        session = self._process.open()
        try:
            warnings = await self._read(
                session, digest, ToRead(kind=kind, source=source, limits=self._limits)
            )
            yield Following(session=session, warnings=warnings)
        finally:
            session.close()

    async def _read(self, session: GrammarSession, digest: bytes, work: ToRead) -> tuple[str, ...]:
        try:
            return await anyio.to_thread.run_sync(
                session.read, work, abandon_on_cancel=True, limiter=self._reading
            )
        except (InvalidGrammar, InvalidSchema) as error:
            self._refused[digest] = error
            if len(self._refused) > _REMEMBERED:
                self._refused.popitem(last=False)
            raise

    def close(self) -> None:
        """End the process for grammars; what is being followed goes on."""
        self._process.close()


def _check(kind: Kind, source: str) -> None:
    refusal = InvalidGrammar if kind == "grammar" else InvalidSchema
    if len(source.encode("utf-8", "replace")) > MAX_BYTES:
        raise refusal(f"the {kind} has more than {MAX_BYTES // 1024} KiB")
    if "\0" in source:
        raise refusal(f"the {kind} has a NUL character")


def _wanted(request: GenerateTextRequest) -> tuple[Kind, str] | None:
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
