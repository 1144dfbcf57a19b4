"""An engine's backend that answers at once and checks what is asked of it.

Its next token is a function of all tokens before it: whatever way they got into a sequence (in pieces,
shared, restored, decoded again), the answer is right only if the sequence holds exactly what it should.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection, Sequence

from suite.engine.adapters import NO_ADAPTERS, AdapterSet
from suite.engine.backend import BatchEntry
from suite.engine.pictures.tokens import Piece, cells, is_stand_in
from suite.engine.sampler import SamplingParams
from suite.errors import GenerationFailed, InvalidGrammar
from suite.messages.logprobs import PromptToken, TokenLogprobs

END = 0
WORDS = 50


def successor(tokens: Sequence[int], seed: int) -> int:
    """What comes after these tokens; sometimes the end."""
    return zlib.crc32(repr((tuple(tokens), seed)).encode()) % WORDS


def computed(tokens: Sequence[int], adapters: AdapterSet) -> list[int]:
    """What a sequence holds of tokens, which depends on the adapters that they are decoded with."""
    shift = zlib.crc32(adapters.key.encode())
    return [token + shift for token in tokens]


class FakeTokenizer:
    """Each token is its number and a space."""

    def tokenize(self, text: str, *, begins: bool) -> list[int]:
        assert not begins
        return [int(word) for word in text.split()]

    def is_eog(self, token: int) -> bool:
        return token == END

    def visible_bytes(self, token: int) -> bytes:
        return f"{token} ".encode()


class FakeSampler:
    """Takes the row of the last batch, and says what follows the tokens that are there."""

    def __init__(self, backend: FakeBackend, sampling: SamplingParams) -> None:
        self._backend = backend
        self._seed = sampling.seed
        backend.open_samplers += 1

    @property
    def logprobs(self) -> TokenLogprobs | None:
        return None

    def accept_prompt(self, prompt: Sequence[int]) -> None:
        pass

    def sample(self, row: int, exempt: Collection[int] | None = ()) -> int:
        self._backend.exempt.append(exempt)
        if self._seed in self._backend.refusing:
            raise InvalidGrammar("no token is permitted")
        return successor(self._backend.rows[row], self._seed)

    def close(self) -> None:
        self._backend.open_samplers -= 1


class FakeBackend:
    """`window`: what was restored cannot be cut back any more, as where a window slides.

    `separate`: each sequence has room for a context of its own, and `cache` counts for nothing.
    """

    def __init__(
        self,
        *,
        slots: int,
        context: int,
        cache: int,
        batch: int = 16,
        can_share: bool = True,
        window: bool = False,
        separate: bool = False,
        exchange_steps: float = 1.0,
    ) -> None:
        self.vocabulary = FakeTokenizer()
        self.can_share = can_share
        self.in_background = False
        self.window = window
        self.separate = separate
        self.has_room_for_pictures = True
        self.moved = 0
        """How often sequences changed places."""
        self._exchange_steps = exchange_steps
        self.context_tokens = context
        self.batch_tokens = batch
        self.cache_tokens = cache
        self.sequences: list[list[int]] = [[] for _ in range(slots)]
        self.restored = [0] * slots
        """How many tokens of each sequence came from a saved state."""
        self.rows: dict[int, list[int]] = {}
        self.batches: list[list[BatchEntry]] = []
        self.parts: dict[int, int] = {}
        """How many cells are left of the picture that a sequence has a part of."""
        self.pictures = 0
        """How many pieces of pictures were decoded."""
        self.open_samplers = 0
        """Those that are not closed."""
        self.failing = False
        self.refusing: set[int] = set()
        """Seeds of samplings that find no token."""
        self.unable: dict[str, Exception] = {}
        """What `save` and `exchange` raise, by their names."""
        self.threads = 0
        self.adapters = NO_ADAPTERS
        self.exempt: list[Collection[int] | None] = []
        """What was exempt from the grammar of each token."""
        self.scored_tokens = 4

    @property
    def decoded(self) -> int:
        """Tokens that were decoded so far."""
        return sum(len(entry.tokens) for batch in self.batches for entry in batch)

    def use_threads(self, threads: int) -> None:
        self.threads = threads

    def use_adapters(self, adapters: AdapterSet) -> None:
        self.adapters = adapters

    def _decoded(self, tokens: Sequence[int]) -> list[int]:
        return computed(tokens, self.adapters)

    def decode(self, entries: Sequence[BatchEntry]) -> bool:
        count = sum(len(entry.tokens) for entry in entries)
        assert 0 < count <= self.batch_tokens
        assert len({entry.sequence for entry in entries}) == len(entries), "one part a sequence"
        if self.failing:
            self.failing = False
            for entry in entries:
                self.sequences[entry.sequence] = [END]  # anything may be there
            raise GenerationFailed
        if not self._has_room(count):
            return False
        self.batches.append(list(entries))
        self.rows = {}
        row = -1
        assert [entry.sequence for entry in entries] == sorted(entry.sequence for entry in entries)
        assert sum(len(entry.tokens) for entry in entries if entry.is_scored) <= self.scored_tokens
        for sequence, tokens, position, wants_logits, is_scored in entries:
            assert position == len(self.sequences[sequence]), "a gap or an overlap"
            assert sequence not in self.parts, "amid a picture"
            assert tokens
            assert not any(map(is_stand_in, tokens)), "pictures are decoded apart"
            if is_scored:
                for index in range(len(tokens)):
                    self.rows[row + 1 + index] = [
                        *self.sequences[sequence],
                        *self._decoded(tokens[: index + 1]),
                    ]
            self.sequences[sequence] += self._decoded(tokens)
            assert len(self.sequences[sequence]) <= self.context_tokens
            row += len(tokens)
            if wants_logits:
                self.rows[row] = list(self.sequences[sequence])
        return True

    def decode_picture(
        self, sequence: int, position: int, piece: Piece, *, left: int | None, most: int
    ) -> int | None:
        assert position == len(self.sequences[sequence]), "a gap or an overlap"
        assert left == self.parts.get(sequence), "a part is missing, or decoded twice"
        assert most > 0
        if not (self.has_room_for_pictures and self._has_room(len(piece.tokens))):
            self.parts.pop(sequence, None)
            return None
        left = max(0, (cells(piece.tokens) if left is None else left) - most)
        if left:
            self.parts[sequence] = left
            return left
        self.parts.pop(sequence, None)
        self.sequences[sequence] += self._decoded(piece.tokens)
        self.pictures += 1
        return 0

    def score(self, token: int, row: int | None, alternatives: int) -> PromptToken:
        """Its text is all that was before it."""
        before = "" if row is None else repr(self.rows[row])
        return PromptToken(id=token, token=before, bytes=(alternatives,), logprob=None, top_logprobs=())

    def sampler(self, sampling: SamplingParams) -> FakeSampler:
        return FakeSampler(self, sampling)

    def truncate(self, sequence: int, position: int) -> bool:
        if 0 < position < self.min_prefix(sequence):
            return False
        del self.sequences[sequence][position:]
        self.parts.pop(sequence, None)
        self.restored[sequence] = min(self.restored[sequence], position)
        return True

    def length(self, sequence: int) -> int:
        return len(self.sequences[sequence])

    def copy_prefix(self, source: int, target: int, tokens: int) -> None:
        assert self.can_share and not self.sequences[target]
        if tokens >= self.min_prefix(source):
            self.sequences[target] = self.sequences[source][:tokens]
            self.restored[target] = self.restored[source]

    def exchange(self, first: int, second: int) -> None:
        assert self.separate
        if "exchange" in self.unable:
            self.sequences[first] = self.sequences[second] = [END]  # anything may be there
            raise self.unable.pop("exchange")
        held, restored = self.sequences, self.restored
        held[first], held[second] = held[second], held[first]
        parts = {first: self.parts.pop(second, None), second: self.parts.pop(first, None)}
        self.parts |= {sequence: left for sequence, left in parts.items() if left is not None}
        restored[first], restored[second] = restored[second], restored[first]
        self.moved += 1

    def exchange_steps(self, first: int, second: int) -> float:
        return self._exchange_steps * (len(self.sequences[first]) + len(self.sequences[second]))

    def _has_room(self, tokens: int) -> bool:
        return self.separate or sum(map(len, self.sequences)) + tokens <= self.cache_tokens

    def min_prefix(self, sequence: int) -> int:
        return self.restored[sequence] if self.can_share else len(self.sequences[sequence])

    def save(self, sequence: int) -> bytes:
        if "save" in self.unable:
            raise self.unable["save"]
        return repr(self.sequences[sequence]).encode()

    def min_saved_prefix(self, sequence: int) -> int:
        return len(self.sequences[sequence]) if self.window else self.min_prefix(sequence)

    def restore(self, sequence: int, payload: bytes | memoryview[int]) -> bool:
        assert not self.sequences[sequence]
        tokens: list[int] = [int(word) for word in bytes(payload).decode().strip("[]").split(", ")]
        if not self._has_room(len(tokens)):
            return False
        self.sequences[sequence] = tokens
        self.restored[sequence] = len(tokens) if self.window else 0
        return True
