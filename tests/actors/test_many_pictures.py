"""How many pictures of one chat are encoded: those that the model's context has room for."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import Future
from itertools import count
from typing import Any, cast

import msgspec
import pytest

from suite.actors.attachments import Attachments
from suite.actors.pictures import Pictures
from suite.engine.engine import Engine
from suite.engine.llama_model import LlamaModel
from suite.engine.pictures.image import Image
from suite.engine.pictures.tokens import EncodedPicture, Piece, stand_ins
from suite.engine.prompts.placed_pictures import PlacedPicture
from suite.engine.thread import EngineThread
from suite.errors import PromptTooLong
from suite.messages.actions.generation import GenerateTextRequest
from support.pictures import in_base64, picture

CONTEXT = 20
CELLS = 8


class Encoder:
    """Encodes each picture as one position of `CELLS` cells, and counts them."""

    cores = None
    reads_no_pictures = ""

    def __init__(self) -> None:
        self.encoded = 0
        self.projector = self

    def run_in_pieces(
        self, work: Callable[[LlamaModel, Engine], Generator[None, None, EncodedPicture]]
    ) -> Future[Any]:
        done: Future[Any] = Future()
        try:
            next(work(cast(LlamaModel, self), cast(Engine, None)))
        except StopIteration as end:
            done.set_result(end.value)
        return done

    def encode(
        self, image: Image, digest: bytes, *, seconds: Callable[[], float]
    ) -> Generator[None, None, EncodedPicture]:
        assert seconds is not None
        self.encoded += 1
        own = stand_ins(digest, 1, CELLS)
        yield from ()
        return EncodedPicture(own, (Piece(own, image),), 4)


def chat(*colors: int, **fields: Any) -> GenerateTextRequest:
    """Each color is a turn with a picture."""
    messages = [
        {
            "role": "user",
            "content": [{"type": "image", "data": in_base64(picture((color, 0, 0), size=(1, 1)))}],
        }
        for color in colors
    ]
    return msgspec.convert({"model_id": "m", "messages": messages, **fields}, GenerateTextRequest)


async def placed(encoder: Encoder, request: GenerateTextRequest) -> list[int]:
    """How many pieces each picture of a chat has then."""
    ids = count()
    pictures = Pictures(
        cast(EngineThread, encoder),
        cast(Attachments, None),
        lambda: str(next(ids)),
        context_tokens=CONTEXT,
    )
    messages = (await pictures.placed(request)).messages or ()
    parts = [part for message in messages for part in message.content or () if not isinstance(part, str)]
    return [len(part.encoded.pieces) for part in parts if isinstance(part, PlacedPicture)]


async def test_more_than_fit_are_refused_before_they_are_encoded() -> None:
    encoder = Encoder()
    with pytest.raises(PromptTooLong, match="3 of 200 pictures take 24 tokens"):
        await placed(encoder, chat(*range(200)))
    assert encoder.encoded == 3
    assert await placed(encoder, chat(1, 2, 1, 2)) == [1, 1, 1, 1]


async def test_of_a_chat_that_may_be_cut_the_last_ones_are_encoded() -> None:
    encoder = Encoder()
    assert await placed(encoder, chat(1, 2, 3, 4, 5, 1, truncate="left")) == [1, 0, 0, 1, 1, 1]
    assert encoder.encoded == 3
