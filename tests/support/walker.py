"""What a grammar permits, said at random: no model is needed to see whether it is right."""

from __future__ import annotations

import ctypes
import math
import re
from random import Random

import numpy as np

from suite.engine.bindings import lib
from suite.engine.candidates import Candidates
from suite.engine.grammar.process import parse, permitted
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
        said = b""
        sampler = parse(grammar, self._vocabulary)
        try:
            for _ in range(_LONGEST):
                allowed = [int(id) for id in permitted(sampler, self._tokens, self._candidates)]
                if any(self._vocabulary.is_eog(id) for id in allowed):
                    return said.decode()
                token = random.choice(self._wanted(allowed, said, random, letters))
                said += self._pieces[token]
                lib.llama_sampler_accept(sampler, token)
        finally:
            lib.llama_sampler_free(sampler)
        raise AssertionError(f"{said!r} has no end")

    def _allowed(self, sampler: int) -> list[int]:
        data = (lib.llama_token_data * len(self._pieces))(
            *(lib.llama_token_data(id=id) for id in self._pieces)
        )
        candidates = lib.llama_token_data_array(data=data, size=len(data), selected=-1, sorted=False)
        lib.llama_sampler_apply(sampler, ctypes.byref(candidates))
        return [int(entry.id) for entry in data if entry.logit > -math.inf]

    def _wanted(self, allowed: list[int], said: bytes, random: Random, letters: str) -> list[int]:
        within_string = re.sub(rb"\\.", b"", said).count(b'"') % 2
        closing = [id for id in allowed if self._pieces[id] in (_QUOTE if within_string else _BRACKETS)]
        if closing and (len(said) > _LATE or random.random() < 0.1):
            return closing
        common = [id for id in allowed if self._pieces[id].decode("latin-1") in letters]
        if common and random.random() < 0.9:
            return common
        return [id for id in allowed if self._pieces[id].isascii()] or allowed
