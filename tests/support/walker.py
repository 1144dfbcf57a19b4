"""What a grammar permits, said at random: no model is needed to see whether it is right."""

from __future__ import annotations

import re
from collections.abc import Callable
from random import Random

import numpy as np

from suite.engine.bindings import lib
from suite.engine.candidates import Candidates, TokenIds
from suite.engine.grammar.process import parse, permitted
from suite.engine.grammar.session import GrammarSession
from suite.engine.vocabulary import Vocabulary

_LATE = 40
"""From this many bytes on a walk closes what it can."""
_LONGEST = 6000
_QUOTE, _BRACKETS = (b'"',), (b"}", b"]")


class Walker:
    """Follows grammars with the tokens of a vocabulary."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        shown = [id for id in range(vocabulary.size) if vocabulary.piece(id) or vocabulary.is_eog(id)]
        self._tokens = np.array(shown)
        self._candidates = Candidates()
        self._pieces = {id: vocabulary.piece(id) for id in shown}

    def walk(self, grammar: str, random: Random, letters: str = "") -> str:
        """A text that follows it. The letters come often, so that a search in free text ends."""
        sampler = parse(grammar, self._vocabulary)
        try:
            said = self._said(
                lambda ids: permitted(sampler, ids, self._candidates),
                lambda token: lib.llama_sampler_accept(sampler, token),
                random,
                letters,
            )
        finally:
            lib.llama_sampler_free(sampler)
        assert said is not None, f"{grammar!r} has no end"
        return said

    def follow(self, session: GrammarSession, random: Random, longest: int = 150) -> str | None:
        """A text that follows the grammar in its own process; None if it has no end within so many tokens."""
        return self._said(session.permitted, session.accept, random, "ab01", longest)

    def _said(
        self,
        permit: Callable[[TokenIds], TokenIds],
        accept: Callable[[int], object],
        random: Random,
        letters: str,
        longest: int = _LONGEST,
    ) -> str | None:
        said = b""
        for _ in range(longest):
            allowed = [int(id) for id in permit(self._tokens)]
            if any(self._vocabulary.is_eog(id) for id in allowed):
                return said.decode("utf-8", "replace")
            if not allowed:
                return None
            token = random.choice(self._wanted(allowed, said, random, letters))
            said += self._pieces[token]
            accept(token)
        return None

    def _wanted(self, allowed: list[int], said: bytes, random: Random, letters: str) -> list[int]:
        within_string = re.sub(rb"\\.", b"", said).count(b'"') % 2
        closing = [id for id in allowed if self._pieces[id] in (_QUOTE if within_string else _BRACKETS)]
        if closing and (len(said) > _LATE or random.random() < 0.1):
            return closing
        common = [id for id in allowed if self._pieces[id].decode("latin-1") in letters]
        if common and random.random() < 0.9:
            return common
        return [id for id in allowed if self._pieces[id].isascii()] or allowed
