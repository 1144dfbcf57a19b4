"""Pictures on their way through a chat template, as marks in the text for which their tokens are put in."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from suite.engine.pictures.tokens import EncodedPicture, Piece, is_stand_in
from suite.errors import InvalidChat
from suite.messages.actions.chat import ChatMessage, ContentPart


class PlacedPicture(ContentPart, frozen=True, kw_only=True):
    """A part of a message that has a picture as its model reads it."""

    mark: str
    """What stands for it in the text; it occurs nowhere else."""
    encoded: EncodedPicture

    def __post_init__(self) -> None:
        """It has no base64 any more."""

    @property
    def plain(self) -> str:
        """The mark, which templates take for a text."""
        return self.mark


class Pictures(NamedTuple):
    """The pictures of a chat, by their marks."""

    by_mark: Mapping[str, EncodedPicture] = {}

    @classmethod
    def of(cls, messages: Sequence[ChatMessage]) -> Pictures:
        """Those of these messages."""
        parts = (
            each for message in messages if isinstance(message.content, tuple) for each in message.content
        )
        return cls({part.mark: part.encoded for part in parts if isinstance(part, PlacedPicture)})

    @property
    def pieces(self) -> dict[int, Piece]:
        """Their pieces, by the first of the tokens that stand for each."""
        return {piece.tokens[0]: piece for encoded in self.by_mark.values() for piece in encoded.pieces}

    def tokens(self, text: str, tokenize: Callable[[str, bool], list[int]], *, begins: bool) -> list[int]:
        """The tokens of a text with these marks in it. Raises InvalidChat if it ends with a picture."""
        tokens: list[int] = []
        for part, encoded in self._split(text):
            if part or begins:
                tokens += tokenize(part, begins)
            begins = False
            if encoded is not None:
                tokens += encoded.tokens
        if tokens and is_stand_in(tokens[-1]):
            raise InvalidChat("the chat ends with a picture: put a text after it")
        return tokens

    def _split(self, text: str) -> Iterator[tuple[str, EncodedPicture | None]]:
        """The text in parts, each with the picture that follows it."""
        start = 0
        for found in re.finditer("|".join(map(re.escape, self.by_mark)), text) if self.by_mark else ():
            yield text[start : found.start()], self.by_mark[found[0]]
            start = found.end()
        yield text[start:], None


def without_rest_of_picture(tokens: list[int], pieces: Mapping[int, Piece]) -> list[int]:
    """The tokens without the rest of a picture whose beginning was cut off."""
    start = 0
    while start < len(tokens) and is_stand_in(tokens[start]) and tokens[start] not in pieces:
        start += 1
    return tokens[start:]


def placed(
    message: ChatMessage, encoded: Mapping[str, EncodedPicture], new_id: Callable[[], str]
) -> ChatMessage:
    """The message with its pictures as its model reads them; `encoded` has them by `ContentPart.picture`."""
    if not isinstance(message.content, tuple):
        return message
    parts = tuple(
        part
        if part.picture is None
        else PlacedPicture(type=part.type, mark=f"[picture {new_id()}]", encoded=encoded[part.picture])
        for part in message.content
    )
    return msgspec.structs.replace(message, content=parts)
