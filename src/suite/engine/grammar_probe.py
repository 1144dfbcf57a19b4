"""The process that tries one grammar and may die of it: ``python -m suite.engine.grammar_probe``.

Standard input has a `ToProbe`. The first line of the standard output says that the vocabulary is loaded: what
happens from then on, be it an abort, is the grammar's doing. The second is a `Probed`.

A grammar is tried by following it at random. Most of its cost shows in reading it and in its first steps;
what comes later, `Sampler` sees by its time. To be quick the walks ask it about some hundred tokens a step,
and only at their beginning about the whole vocabulary.
"""

from __future__ import annotations

import json
import math
import re
import resource
import string
import sys
import time
from pathlib import Path

import msgspec
import numpy as np

from suite.engine.bindings import lib
from suite.engine.candidates import Ids, permitted
from suite.engine.grammar import Constraint, Probed, ToProbe
from suite.engine.json_schema import to_grammar
from suite.engine.sampler import GRAMMAR_SECONDS, read_grammar
from suite.engine.vocabulary import Vocabulary
from suite.errors import InvalidGrammar, InvalidSchema, SuiteError

_WALKS = 4
_STEPS = 400
_TOKENS_A_STEP = 256
_TRIAL_SECONDS = 0.4


def main() -> None:
    """Try what the standard input has."""
    work = msgspec.json.decode(sys.stdin.buffer.read(), type=ToProbe)
    vocabulary = _load(work.model_path)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    _limit(work)
    try:
        found = Probed(constraint=_try(work, vocabulary))
    except SuiteError as error:
        found = Probed(code=error.code, message=error.message)
    sys.stdout.buffer.write(msgspec.json.encode(found))


def _load(path: str) -> Vocabulary:
    lib.llama_backend_init()
    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(path.encode(), params)
    if not model:
        raise SystemExit("the model's vocabulary cannot be loaded")
    return Vocabulary(model)


def _limit(work: ToProbe) -> None:
    """Let the system end this process where the grammar asks for too much, from what is used by now."""
    used = math.ceil(time.process_time()) + work.cpu_seconds
    resource.setrlimit(resource.RLIMIT_CPU, (used, used + 1))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    except OSError:
        return  # a system without it: the time limit has to do
    size = pages * resource.getpagesize() + work.memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (size, size))


def _try(work: ToProbe, vocabulary: Vocabulary) -> Constraint:
    if work.kind == "grammar":
        constraint = Constraint(grammar=work.source)
        _check_code_points(work.source)
        _walk(constraint.grammar, vocabulary)
        return constraint
    constraint = to_grammar(json.loads(work.source))
    try:
        _walk(constraint.grammar, vocabulary)
    except InvalidGrammar as error:
        raise InvalidSchema(f"no usable grammar can be made of the schema: {error.message}") from None
    return constraint


def _check_code_points(text: str) -> None:
    """Refuse what no text can have: llama.cpp takes it, and completes it with bytes that are not UTF-8."""
    for escape in re.findall(r"\\(U[0-9a-fA-F]{8}|.)", text):
        if len(escape) > 1 and int(escape[1:], 16) > sys.maxunicode:
            raise InvalidGrammar(f"the grammar has \\{escape}, and Unicode ends at \\U0010FFFF")


def _walk(text: str, vocabulary: Vocabulary) -> None:
    """Follow the grammar at random. Raises InvalidGrammar where that leads nowhere or takes too long."""
    random = np.random.default_rng(0)
    logits = np.zeros(vocabulary.size, np.float32)
    everything = np.arange(vocabulary.size)
    letters = {token for character in {*text, *string.printable} for token in vocabulary.tokenize(character)}
    spelling = np.array(sorted(letters))
    deadline = time.process_time() + _TRIAL_SECONDS
    grammar = read_grammar(text, vocabulary)
    beginnings = _timed(grammar, everything, logits)
    if not len(beginnings):
        raise InvalidGrammar("the grammar permits none of the model's tokens at its beginning")
    for _ in range(_WALKS):
        allowed = beginnings
        for _ in range(_STEPS):
            token = int(random.choice(allowed))
            if vocabulary.ends(token):
                break
            started = time.process_time()
            lib.llama_sampler_accept(grammar, token)
            _check(started)
            some = random.choice(everything, min(_TOKENS_A_STEP, len(everything)), replace=False)
            allowed = _timed(grammar, np.union1d(some, spelling), logits)
            if not len(allowed):
                allowed = _timed(grammar, everything, logits)
            if not len(allowed):
                raise InvalidGrammar("the grammar leads to where it permits none of the model's tokens")
            if time.process_time() > deadline:
                return
        lib.llama_sampler_free(grammar)
        grammar = read_grammar(text, vocabulary)


def _timed(grammar: int, ids: Ids, logits: np.ndarray) -> Ids:
    started = time.process_time()
    allowed = permitted(grammar, ids, logits)
    _check(started)
    return allowed


def _check(started: float) -> None:
    if time.process_time() - started > GRAMMAR_SECONDS:
        raise InvalidGrammar(
            f"the grammar takes more than {GRAMMAR_SECONDS:g} s for one token: make it simpler"
        )


if __name__ == "__main__":
    main()
