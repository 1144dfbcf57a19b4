"""A grammar to follow, in the process that it has in an actor."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from suite.engine.grammar.session import CompileRequest, GrammarProcess, GrammarSession, Limits
from support.bare import Bare


@contextmanager
def following(model: Bare, grammar: str, limits: Limits | None = None) -> Iterator[GrammarSession]:
    process = GrammarProcess(model.path)
    session = process.open()
    try:
        session.compile(CompileRequest(kind="grammar", source=grammar, limits=limits or Limits()))
        yield session
    finally:
        session.close()
        process.close()
