"""The candidates for the next token: picks the few likely ones without sorting the whole vocabulary.

llama.cpp's samplers work on an array of all tokens, which takes 0.6 to 1.9 ms a token for a vocabulary of
262,144, for each sequence of a batch. Here the likeliest tokens are picked first, in a fraction of that time,
and llama.cpp gets only those. The module imports numpy, so it is imported only with the first sampler.
"""

from __future__ import annotations

import ctypes
import functools
from typing import TYPE_CHECKING

import msgspec
import numpy as np
from numpy.typing import NDArray

from suite.engine.bindings import lib
from suite.errors import GenerationFailed
from suite.messages.logprobs import PromptToken, TokenLogprob, TokenLogprobs

if TYPE_CHECKING:
    from suite.engine.vocabulary import Vocabulary

Logits = NDArray[np.float32]
TokenIds = NDArray[np.integer]

_ROWS = 128
_NO_LOGPROB = -9999.0
_NEGLIGIBLE = 1e-3

_token_data = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])

# The same function as in `lib`, but it gives an address: an object for a pointer takes longer than the call.
_address_of_logits = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32)(
    ctypes.cast(lib.llama_get_logits_ith, ctypes.c_void_p).value or 0
)


@functools.cache
def _floats(size: int) -> type[ctypes.Array[ctypes.c_float]]:
    return ctypes.c_float * size


def logits_of(context: int, row: int, size: int) -> Logits:
    """The logits of one row of the last batch, in llama.cpp's memory: do not change them.

    Raises GenerationFailed when llama.cpp has none for this row, or when they are not numbers.
    """
    address = _address_of_logits(context, row)
    if not address:
        raise GenerationFailed(f"llama.cpp has no logits for entry {row} of the batch")
    logits: Logits = np.ctypeslib.as_array(_floats(size).from_address(address))
    if not np.isfinite(logits.max()):  # the largest of some numbers and NaN is NaN
        raise GenerationFailed(
            "the model's logits are not numbers: its file is damaged or faulty, download it again"
        )
    return logits


def likeliest(logits: Logits, count: int) -> TokenIds:
    """The ids of the `count` largest logits, possibly with a few more, sorted by id.

    The logits are laid out as a table. The `count`-th largest of the columns' maxima is a lower bound for the
    `count` largest logits, so only the columns whose maximum reaches it are searched.
    """
    if count >= len(logits):
        return np.arange(len(logits))
    columns = len(logits) // _ROWS
    if count <= columns:
        table = logits[: _ROWS * columns].reshape(_ROWS, columns)
        largest = table.max(axis=0)
        bound = np.partition(largest, columns - count)[columns - count]
        (some,) = (largest >= bound).nonzero()
        (found,) = (table.take(some, axis=1).ravel() >= bound).nonzero()
        row, column = np.divmod(found, len(some))
        ids: TokenIds = row * columns + some[column]
        if table.size < len(logits):
            (rest,) = (logits[table.size :] >= bound).nonzero()
            ids = np.concatenate((ids, table.size + rest))
        if count <= len(ids) <= 8 * count:  # fewer where some are not numbers
            return ids
    return np.sort(np.argpartition(logits, len(logits) - count)[len(logits) - count :])


class Candidates:
    """A `llama_token_data_array` of some tokens and their logits, reused for each token."""

    def __init__(self) -> None:
        self._make_room(0)

    def _make_room(self, size: int) -> None:
        self._data = np.empty(size, _token_data)
        pointer = ctypes.cast(self._data.ctypes.data, lib.llama_token_data_p)
        self._array = lib.llama_token_data_array(data=pointer, size=0, selected=-1, sorted=False)
        self._pointer = ctypes.byref(self._array)

    def fill(self, ids: TokenIds, logits: Logits | float) -> None:
        """Replace the contents by these tokens, with a logit for each or one for all."""
        size = len(ids)
        if size > len(self._data):
            self._make_room(size)
        self._data["id"][:size] = ids
        self._data["logit"][:size] = logits
        self._array.size = size
        self._array.selected = -1
        self._array.sorted = False

    def apply(self, sampler: int) -> None:
        """Apply a sampler of llama.cpp, which may change logits, drop tokens or select one."""
        lib.llama_sampler_apply(sampler, self._pointer)

    @property
    def selected(self) -> int:
        """The token that the last sampler selected. Raises GenerationFailed if it selected none."""
        if not 0 <= self._array.selected < self._array.size:
            raise GenerationFailed("no token could be chosen: the model's logits are not numbers")
        return int(self._array.data[self._array.selected].id)

    @property
    def allowed(self) -> TokenIds:
        """The ids whose logit no sampler has set to minus infinity, as grammar samplers do."""
        data = self._data[: self._array.size]
        return data["id"][data["logit"] > -np.inf]


class LogitsProcessor:
    """Adds a bias to the logits of some tokens, and applies penalties to tokens that occurred recently."""

    def __init__(self, bias: dict[int, float], *, repeat: float, presence: float, frequency: float) -> None:
        self._bias_ids = np.fromiter(bias.keys(), np.intp, len(bias))
        self._biases = np.fromiter(bias.values(), np.float32, len(bias))
        self._repeat, self._presence, self._frequency = repeat, presence, frequency
        self._adjusted: Logits | None = None

    def apply(self, logits: Logits, counts: dict[int, int]) -> Logits:
        """The adjusted logits, valid until the next call. `counts` has how often each token occurred."""
        if self._adjusted is None:
            self._adjusted = np.empty_like(logits)
        adjusted = self._adjusted
        np.copyto(adjusted, logits)
        if len(self._bias_ids):
            adjusted[self._bias_ids] += self._biases
        if counts:
            ids = np.fromiter(counts.keys(), np.intp, len(counts))
            times = np.fromiter(counts.values(), np.float32, len(counts))
            values = adjusted[ids]
            values = np.where(values > 0, values / self._repeat, values * self._repeat)
            adjusted[ids] = values - (times * self._frequency + self._presence)
        return adjusted


def rest_is_negligible(
    tried: TokenIds, allowed: TokenIds, logits: Logits, *, min_p: float, temperature: float
) -> bool:
    """Whether a draw may leave out the tokens that are less likely than all those tried.

    It may if min-p would drop even the likeliest of them, or if all of them together have a negligible
    probability, both relative to the allowed tokens.
    """
    if min_p > 0 and logits[tried].min() < logits[allowed].max() + np.log(min_p):
        return True
    weights = np.exp((logits - logits.max()) / max(temperature, 1.0))
    of_allowed = float(weights[allowed].sum())
    weights[tried] = 0
    return float(weights.sum()) < _NEGLIGIBLE * of_allowed


def logprobs_of(logits: Logits, token: int, count: int, vocabulary: Vocabulary) -> TokenLogprobs:
    """Log probabilities of a token and of the `count` likeliest ones, from the model's unadjusted logits."""
    total = _log_total(logits)
    piece = vocabulary.piece(token, special=True)
    return TokenLogprobs(
        id=token,
        token=piece.decode("utf-8", "replace"),
        bytes=tuple(piece),
        logprob=_logprob(logits, token, total),
        top_logprobs=_top(logits, total, count, vocabulary),
    )


def prompt_token(token: int, logits: Logits | None, count: int, vocabulary: Vocabulary) -> PromptToken:
    """A token of a prompt with the log probabilities as of `logprobs_of`; without logits it has none."""
    if logits is not None:
        return msgspec.convert(
            logprobs_of(logits, token, count, vocabulary), PromptToken, from_attributes=True
        )
    piece = vocabulary.piece(token, special=True)
    text = piece.decode("utf-8", "replace")
    return PromptToken(id=token, token=text, bytes=tuple(piece), logprob=None, top_logprobs=())


def _log_total(logits: Logits) -> float:
    """The logarithm of what all probabilities are to be divided by."""
    highest = logits.max()
    return float(highest + np.log(np.exp(logits - highest).sum(dtype=np.float64)))


def _logprob(logits: Logits, token: int, total: float) -> float:
    return max(float(logits[token] - total), _NO_LOGPROB)


def _top(logits: Logits, total: float, count: int, vocabulary: Vocabulary) -> tuple[TokenLogprob, ...]:
    """The `count` likeliest tokens, the likeliest first."""
    if not count:
        return ()
    ids = likeliest(logits, count)
    best = ids[np.argsort(-logits[ids], kind="stable")][:count]
    return tuple(
        TokenLogprob(
            id=id,
            token=(piece := vocabulary.piece(id, special=True)).decode("utf-8", "replace"),
            bytes=tuple(piece),
            logprob=_logprob(logits, id, total),
        )
        for id in map(int, best)
    )
