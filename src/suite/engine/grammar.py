"""What an answer has to follow: a grammar of the client's, or one made of a JSON schema.

Some grammars abort llama.cpp, some take it minutes and gigabytes, and the process that would suffer serves
other clients too. So each new one is read and tried in a process of its own under limits (`grammar_probe`)::

    constraint = await grammars.of(request)  # None: the answer is free

What came of it is remembered, so that each grammar is tried once in an actor's life.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import subprocess
import sys
from collections import OrderedDict
from typing import Literal

import anyio
import msgspec

from suite.errors import GenerationFailed, InvalidGrammar, InvalidRequest, InvalidSchema, SuiteError
from suite.messages.actions.generation import GenerateTextRequest

MAX_BYTES = 64 * 1024
"""Of a grammar or a schema."""
CPU_SECONDS = 3
"""What reading and trying a grammar may take, beside loading the vocabulary."""
MEMORY_BYTES = 512 * 1024**2
"""What a grammar may need, beside the vocabulary."""
_WALL_SECONDS = 60.0
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
"""Any JSON object; it is ours and need not be tried."""


class Constraint(msgspec.Struct, frozen=True, kw_only=True):
    """A grammar that is safe to use."""

    grammar: str
    """GBNF."""
    warnings: tuple[str, ...] = ()
    """What of a schema the grammar cannot enforce."""


class ToProbe(msgspec.Struct, frozen=True, kw_only=True):
    """What the probing process is to try; it gets this as JSON on its standard input."""

    model_path: str
    kind: Literal["grammar", "schema"]
    source: str
    cpu_seconds: int
    memory_bytes: int


class Probed(msgspec.Struct, frozen=True, kw_only=True):
    """What the probing process found, the last line of its standard output."""

    constraint: Constraint | None = None
    code: str = ""
    message: str = ""


class Grammars:
    """The grammars of one actor's clients. Everything runs in the event loop and waits for the process."""

    def __init__(
        self, model_path: str, *, cpu_seconds: int = CPU_SECONDS, memory_bytes: int = MEMORY_BYTES
    ) -> None:
        """The limits are for reading and trying one grammar."""
        self._model_path = model_path
        self._cpu_seconds = cpu_seconds
        self._memory_bytes = memory_bytes
        self._known: OrderedDict[bytes, Constraint | SuiteError] = OrderedDict()
        self._probing = anyio.Lock()

    async def of(self, request: GenerateTextRequest) -> Constraint | None:
        """What the answer to a request has to follow; None: nothing.

        Raises InvalidRequest for two at once, InvalidGrammar or InvalidSchema for what cannot be used, and
        GenerationFailed when it could not be tried.
        """
        wanted = _wanted(request)
        return wanted if wanted is None or isinstance(wanted, Constraint) else await self.check(*wanted)

    async def check(self, kind: Literal["grammar", "schema"], source: str) -> Constraint:
        """A grammar, or the JSON of a schema, as it can be used. Raises as `of` does."""
        digest = hashlib.sha256(f"{kind}\n{source}".encode("utf-8", "replace")).digest()
        if digest not in self._known:
            async with self._probing:  # one at a time: each takes a core
                if digest not in self._known:
                    self._remember(digest, await self._probe(kind, source))
        found = self._known[digest]
        self._known.move_to_end(digest)
        if isinstance(found, SuiteError):
            raise type(found)(found.message)  # anew, for an exception keeps what it went through
        return found

    def _remember(self, digest: bytes, found: Constraint | SuiteError) -> None:
        self._known[digest] = found
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)

    async def _probe(self, kind: Literal["grammar", "schema"], source: str) -> Constraint | SuiteError:
        refusal = InvalidGrammar if kind == "grammar" else InvalidSchema
        if len(source.encode("utf-8", "replace")) > MAX_BYTES:
            return refusal(f"the {kind} has more than {MAX_BYTES // 1024} KiB")
        if "\0" in source:
            return refusal(f"the {kind} has a NUL character")
        work = ToProbe(
            model_path=self._model_path,
            kind=kind,
            source=source,
            cpu_seconds=self._cpu_seconds,
            memory_bytes=self._memory_bytes,
        )
        try:
            with anyio.fail_after(_WALL_SECONDS):
                ended = await anyio.run_process(
                    [sys.executable, "-m", "suite.engine.grammar_probe"],
                    input=msgspec.json.encode(work),
                    check=False,
                    env={**os.environ, "GGML_NO_BACKTRACE": "1"},
                    start_new_session=True,
                )
        except (TimeoutError, OSError) as error:
            raise GenerationFailed(f"the {kind} could not be tried: {error or 'out of time'}") from error
        return _verdict(work, ended, refusal)


def _wanted(request: GenerateTextRequest) -> Constraint | tuple[Literal["grammar", "schema"], str] | None:
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
    if form is not None and form.type == "json_object":
        return Constraint(grammar=JSON_OBJECT)
    if form is not None and form.type == "json_schema":
        schema = form.schema if form.json_schema is None else form.json_schema.schema
        if schema is None:
            raise InvalidRequest("response_format: json_schema.schema is missing")
    return None if schema is None else ("schema", msgspec.json.encode(schema).decode())


def _verdict(
    work: ToProbe, ended: subprocess.CompletedProcess[bytes], refusal: type[SuiteError]
) -> Constraint | SuiteError:
    """What the end of the probing process says of the grammar. Raises GenerationFailed if nothing."""
    kind = work.kind
    ready, _, result = ended.stdout.decode("utf-8", "replace").partition("\n")
    errors = ended.stderr.decode("utf-8", "replace").strip()
    if ready != "ready":
        raise GenerationFailed(f"the {kind} could not be tried: {errors[-300:] or ended.returncode}")
    if "bad_alloc" in errors or "MemoryError" in errors:
        return refusal(f"the {kind} needs more than {work.memory_bytes // 1024**2} MiB: make it simpler")
    if ended.returncode == 0:
        probed = msgspec.json.decode(result, type=Probed)
        if probed.constraint is not None:
            return probed.constraint
        found = refusal if probed.code == "" else _REFUSALS[probed.code]
        # What is wrong, llama.cpp's parser writes to the standard error and nowhere else.
        parser = re.search(r"error parsing grammar: (.*)", errors)
        return found(probed.message if parser is None else f"the grammar cannot be read: {parser[1][:200]}")
    if -ended.returncode in (signal.SIGXCPU, signal.SIGKILL):
        return refusal(
            f"the {kind} takes more than {work.cpu_seconds} s to read or to follow: make it simpler"
        )
    last = errors.splitlines()[-1][:200] if errors else f"it ended with code {ended.returncode}"
    return refusal(f"the {kind} would end llama.cpp: {last}")


_REFUSALS = {error.code: error for error in (InvalidGrammar, InvalidSchema)}
