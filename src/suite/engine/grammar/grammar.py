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
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext

import anyio
import anyio.to_thread
import msgspec

from suite.engine.backend import LeaveCore
from suite.engine.grammar.call_source import CallSource, call_source, offered_tools
from suite.engine.grammar.session import CompileRequest, GrammarProcess, GrammarSession, Limits, SourceKind
from suite.engine.prompts.call_form import PLAIN, CallForm
from suite.errors import InvalidGrammar, InvalidRequest, InvalidSchema, SchemaNotSupported, SuiteError
from suite.messages.actions.generation import GenerateTextRequest

MAX_BYTES = 64 * 1024
"""The largest grammar or schema."""
MAX_CALLS_BYTES = 1024 * 1024
"""The largest schemas of all tools together."""
_NO_CALL = "the answer is no call of a tool: it follows the schema, and this model's calls look like any JSON"
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

    session: GrammarSession | None
    """None: it could not be made, and the answer does not depend on it."""
    warnings: tuple[str, ...]
    """The keywords of the schema that the grammar cannot enforce."""
    is_optional: bool = False
    """Whether the answer goes on freely where the grammar cannot be followed."""


class _Source(msgspec.Struct, frozen=True, kw_only=True):
    """What the grammar of a request is made from."""

    kind: SourceKind
    text: str
    strict: bool = False
    is_optional: bool = False


class Grammars:
    """The grammars of the requests to one model. Nothing here blocks the event loop."""

    def __init__(
        self,
        model_path: str,
        limits: Limits | None = None,
        leave_core: LeaveCore = nullcontext,
        *,
        confined: bool = False,
    ) -> None:
        """`leave_core` is entered while a grammar is compiled: models then compute with a thread less.

        `confined`: whether grammars are followed in processes without rights (`suite.confinement`).
        """
        self._process = GrammarProcess(model_path, confined=confined)
        self._limits = Limits() if limits is None else limits
        self._refused: OrderedDict[bytes, SuiteError] = OrderedDict()
        self._leave_core = leave_core
        self._compiling = anyio.CapacityLimiter(_MAX_CONCURRENT)

    @asynccontextmanager
    async def for_request(
        self, request: GenerateTextRequest, form: Callable[[], CallForm] = lambda: PLAIN
    ) -> AsyncIterator[OpenGrammar | None]:
        """Open the grammar of a request for the duration of the context; None if it has none.

        `form` tells how the model writes calls; it is asked if the request has tools. Raises InvalidRequest
        for a request with several grammars, InvalidGrammar, InvalidSchema or SchemaNotSupported for one that
        cannot be used, and GenerationFailed when the process that compiles it fails.
        """
        if request.tools:  # then the model's template may have to be read, which takes a while
            wanted, warnings = await anyio.to_thread.run_sync(_wanted, request, form)
        else:
            wanted, warnings = _wanted(request, form)
        if wanted is None:
            yield None
            return
        async with AsyncExitStack() as stack:
            try:
                grammar = await stack.enter_async_context(self._opened(wanted))
            except InvalidSchema as error:
                if not wanted.is_optional:
                    raise
                why = f"calls do not follow the schemas of the tools: {error.message}"
                grammar = OpenGrammar(session=None, warnings=(why,), is_optional=True)
            yield msgspec.structs.replace(grammar, warnings=(*warnings, *grammar.warnings))

    @asynccontextmanager
    async def open(self, kind: SourceKind, source: str) -> AsyncIterator[OpenGrammar]:
        """Open a grammar, or the JSON text of a schema. Raises the errors of `for_request`."""
        async with self._opened(_Source(kind=kind, text=source)) as grammar:
            yield grammar

    @asynccontextmanager
    async def _opened(self, source: _Source) -> AsyncIterator[OpenGrammar]:
        _check(source)
        named = f"{source.kind}{source.strict}\n{source.text}"
        digest = hashlib.sha256(named.encode("utf-8", "replace")).digest()
        if (refused := self._refused.get(digest)) is not None:
            raise type(refused)(refused.message)  # a new one, since an exception collects its traceback
        session = self._process.open()
        try:
            warnings = await self._compile(
                session,
                digest,
                CompileRequest(
                    kind=source.kind, source=source.text, strict=source.strict, limits=self._limits
                ),
            )
            yield OpenGrammar(session=session, warnings=warnings, is_optional=source.is_optional)
        finally:
            session.close()

    async def _compile(
        self, session: GrammarSession, digest: bytes, compile_request: CompileRequest
    ) -> tuple[str, ...]:
        try:
            return await anyio.to_thread.run_sync(
                self._compiled, session, compile_request, abandon_on_cancel=True, limiter=self._compiling
            )
        except (InvalidGrammar, InvalidSchema, SchemaNotSupported) as error:
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


def _check(source: _Source) -> None:
    refusal = InvalidGrammar if source.kind == "grammar" else InvalidSchema
    if source.kind == "calls":
        most, has = MAX_CALLS_BYTES, "the schemas of the tools have"
    else:
        most, has = MAX_BYTES, f"the {source.kind} has"
    if len(source.text.encode("utf-8", "replace")) > most:
        raise refusal(f"{has} more than {most // 1024} KiB")
    if "\0" in source.text:
        raise refusal(f"{has} a NUL character")


def _wanted(
    request: GenerateTextRequest, form: Callable[[], CallForm]
) -> tuple[_Source | None, tuple[str, ...]]:
    """What the grammar of a request is made from, and a warning if the answer cannot be a call."""
    answer = _answer(request)
    if not offered_tools(request):
        return answer, ()
    has_to_call = request.tool_choice != "auto"
    if request.grammar is not None:
        if has_to_call:
            raise InvalidRequest("tool_choice and grammar: send one of them")
        return answer, ()
    if answer is None or has_to_call:
        return _calls(call_source(request, form())), ()
    if not form().is_told_apart:
        return answer, (_NO_CALL,)
    schema = {"type": "object"} if answer.kind == "grammar" else msgspec.json.decode(answer.text)
    return _calls(call_source(request, form(), schema, strict=answer.strict)), ()


def _calls(calls: CallSource) -> _Source:
    text = msgspec.json.encode(calls).decode()
    return _Source(kind="calls", text=text, is_optional=calls.is_optional)


def _answer(request: GenerateTextRequest) -> _Source | None:
    """What the answer itself has to follow."""
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
        return _Source(kind="grammar", text=request.grammar)
    schema, strict = request.json_schema, False
    if form is not None and form.type != "text":
        schema = form.schema if form.json_schema is None else form.json_schema.schema
        strict = form.json_schema is not None and bool(form.json_schema.strict)
        if schema is None and form.type == "json_schema":
            raise InvalidRequest("response_format: json_schema.schema is missing")
        if schema is None:
            return _Source(kind="grammar", text=JSON_OBJECT)
    if schema is None:
        return None
    return _Source(kind="schema", text=msgspec.json.encode(schema).decode(), strict=strict)
