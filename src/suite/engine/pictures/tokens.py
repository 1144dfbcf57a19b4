"""What stands for a picture among tokens: negative numbers, made from its digest.

To slots, snapshots and the scheduler a prompt is a list of numbers, and what of it need not be read again is
decided by comparing them. The numbers of a picture are those of no other picture, nor of the same picture
through another projector, from the first one on. So conversations with pictures are reused, saved and moved
as all others, and of a picture all is reused or nothing.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Sequence
from hashlib import shake_256
from typing import Final, NamedTuple, Protocol

_MOST_SURPLUS: Final = 255
"""The most cells beyond its own that one number can say: a picture is less than 256 tokens high or wide."""


class Chunk(Protocol):
    """A piece of a picture as llama.cpp has it, with its embeddings."""


class Piece(NamedTuple):
    """A piece of a picture, which is decoded at once."""

    tokens: tuple[int, ...]
    """What stands for it: a number for each position that it takes."""
    chunk: Chunk


class EncodedPicture(NamedTuple):
    """A picture as a model reads it: its pieces, with tokens of text around them."""

    tokens: tuple[int, ...]
    """All in their order; negative ones stand for pieces."""
    pieces: tuple[Piece, ...]
    size: int
    """Bytes of its embeddings."""

    @property
    def cells(self) -> int:
        """How many cells of the KV cache it takes, with the text around its pieces."""
        return cells(self.tokens)


def cells(tokens: Sequence[int]) -> int:
    """How many cells of the KV cache tokens take."""
    return len(tokens) + surplus_cells(tokens)


def surplus_cells(tokens: Sequence[int]) -> int:
    """How many cells of the KV cache tokens take beyond one each: those of pictures with M-RoPE."""
    shares = (number >> 1 & _MOST_SURPLUS for token in tokens if token < 0 and (number := ~token) & 1)
    return sum(shares)


def unread(digest: bytes) -> EncodedPicture:
    """Stands for a picture that is sure to be cut from its chat, and is therefore not read."""
    return EncodedPicture(stand_ins(digest, 1), (), 0)


def stand_ins(digest: bytes, positions: int, cells: int = 0) -> tuple[int, ...]:
    """The numbers that stand for a piece with this digest, one for each of its positions.

    With M-RoPE a piece takes more `cells` of the KV cache than positions. The numbers say how many, each a
    share, so that it is known wherever there are only tokens: when a conversation goes on, from a snapshot or
    from another node. The first number tells pieces apart, and has no share if there are others.
    """
    numbers = array("I", shake_256(digest).digest(4 * positions))
    if sys.byteorder == "big":
        numbers.byteswap()
    several = max(1, positions - 1)
    least, more = divmod(max(0, cells - positions), several)
    shares = [0] * (positions - several) + [least + (index < more) for index in range(several)]
    return tuple(_stand_in(number, share) for number, share in zip(numbers, shares, strict=True))


def _stand_in(number: int, surplus: int) -> int:
    """A negative number of 32 bits that are as good as random; its lowest bit says whether it has a share."""
    if not surplus:
        return ~(number >> 1 & ~1)
    return ~(number >> 1 & ~(_MOST_SURPLUS << 1) | min(surplus, _MOST_SURPLUS) << 1 | 1)


def is_stand_in(token: int) -> bool:
    """Whether this stands for a part of a picture."""
    return token < 0


def text_ahead(tokens: Sequence[int]) -> int:
    """How many tokens there are before the next picture."""
    return next((index for index, token in enumerate(tokens) if token < 0), len(tokens))
