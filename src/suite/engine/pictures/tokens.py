"""What stands for a picture among tokens: negative numbers, made from its digest.

To slots, snapshots and the scheduler a prompt is a list of numbers, and what of it need not be read again is
decided by comparing them. The numbers of a picture are those of no other picture, nor of the same picture
through another projector, from the first one on. So conversations with pictures are reused, saved and moved
as all others, and of a picture all is reused or nothing.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Mapping, Sequence
from hashlib import shake_256
from typing import NamedTuple, Protocol


class Chunk(Protocol):
    """A piece of a picture as llama.cpp has it, with its embeddings."""


class Piece(NamedTuple):
    """A piece of a picture, which is decoded at once."""

    tokens: tuple[int, ...]
    """What stands for it: a number for each position that it takes."""
    chunk: Chunk
    cells: int
    """How many cells of the KV cache it takes: with M-RoPE far more than positions."""


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
        return cells(self.tokens, {piece.tokens[0]: piece for piece in self.pieces})


def cells(tokens: Sequence[int], pieces: Mapping[int, Piece]) -> int:
    """How many cells of the KV cache tokens take; `pieces` by the first of the tokens that stand for each."""
    if not pieces:
        return len(tokens)
    found = (pieces[token] for token in tokens if token in pieces)
    return len(tokens) + sum(piece.cells - len(piece.tokens) for piece in found)


def unread(digest: bytes) -> EncodedPicture:
    """Stands for a picture that is sure to be cut from its chat, and is therefore not read."""
    return EncodedPicture(stand_ins(digest, 1), (), 0)


def stand_ins(digest: bytes, positions: int) -> tuple[int, ...]:
    """The numbers that stand for a piece with this digest, one for each of its positions."""
    numbers = array("I", shake_256(digest).digest(4 * positions))
    if sys.byteorder == "big":
        numbers.byteswap()
    return tuple(-1 - (number >> 1) for number in numbers)


def is_stand_in(token: int) -> bool:
    """Whether this stands for a part of a picture."""
    return token < 0


def text_ahead(tokens: Sequence[int]) -> int:
    """How many tokens there are before the next picture."""
    return next((index for index, token in enumerate(tokens) if token < 0), len(tokens))
