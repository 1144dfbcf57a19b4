"""An engine's backend that answers at once and checks what is asked of it.

Its next token is a function of all tokens before it: whatever way they got into a sequence (in pieces,
shared, restored, decoded again), the answer is right only if the sequence holds exactly what it should.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence

from suite.engine.backend import Part
from suite.engine.sampler import Sampling
from suite.errors import GenerationFailed
from suite.messages.logprobs import TokenLogprobs

END = 0
WORDS = 50


def successor(tokens: Sequence[int], seed: int) -> int:
    """What comes after these tokens; sometimes the end."""
    return zlib.crc32(repr((tuple(tokens), seed)).encode()) % WORDS


class FakeWords:
    def ends(self, token: int) -> bool:
        return token == END

    def shown(self, token: int) -> bytes:
        return f"{token} ".encode()


class FakeSource:
    """Takes the row of the last batch, and says what follows the tokens that are there."""

    def __init__(self, backend: FakeBackend, sampling: Sampling) -> None:
        self._backend = backend
        self._seed = sampling.seed
        backend.sources += 1

    @property
    def logprobs(self) -> TokenLogprobs | None:
        return None

    def remember(self, prompt: Sequence[int]) -> None:
        pass

    def next(self, row: int) -> int:
        return successor(self._backend.rows[row], self._seed)

    def close(self) -> None:
        self._backend.sources -= 1


class FakeBackend:
    def __init__(
        self, *, slots: int, context: int, cache: int, batch: int = 16, can_share: bool = True
    ) -> None:
        self.words = FakeWords()
        self.can_share = can_share
        self.context_tokens = context
        self.batch_tokens = batch
        self.cache = cache
        self.sequences: list[list[int]] = [[] for _ in range(slots)]
        self.rows: dict[int, list[int]] = {}
        self.batches: list[list[Part]] = []
        self.sources = 0
        """Those that are not closed."""
        self.failing = False

    def decode(self, parts: Sequence[Part]) -> bool:
        count = sum(len(part.tokens) for part in parts)
        assert 0 < count <= self.batch_tokens
        assert len({part.sequence for part in parts}) == len(parts), "one part a sequence"
        if self.failing:
            self.failing = False
            raise GenerationFailed
        if sum(map(len, self.sequences)) + count > self.cache:
            return False
        self.batches.append(list(parts))
        self.rows = {}
        row = -1
        for sequence, tokens, position, wants_logits in parts:
            assert position == len(self.sequences[sequence]), "a gap or an overlap"
            assert tokens
            self.sequences[sequence] += tokens
            row += len(tokens)
            if wants_logits:
                self.rows[row] = list(self.sequences[sequence])
        return True

    def source(self, sampling: Sampling) -> FakeSource:
        return FakeSource(self, sampling)

    def cut(self, sequence: int, position: int) -> bool:
        if not self.can_share and 0 < position < len(self.sequences[sequence]):
            return False
        del self.sequences[sequence][position:]
        return True

    def length(self, sequence: int) -> int:
        return len(self.sequences[sequence])

    def share(self, source: int, target: int, tokens: int) -> None:
        assert self.can_share and not self.sequences[target]
        self.sequences[target] = self.sequences[source][:tokens]

    def save(self, sequence: int) -> bytes:
        return repr(self.sequences[sequence]).encode()

    def shortest_saved(self, sequence: int) -> int:
        return 0 if self.can_share else len(self.sequences[sequence])

    def restore(self, sequence: int, payload: bytes) -> bool:
        assert not self.sequences[sequence]
        tokens: list[int] = [int(word) for word in payload.decode().strip("[]").split(", ")]
        if sum(map(len, self.sequences)) + len(tokens) > self.cache:
            return False
        self.sequences[sequence] = tokens
        return True
