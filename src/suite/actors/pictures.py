"""The pictures of requests: read in a thread, encoded between the engine's steps, kept for the next.

A chat sends its pictures again with each turn. To encode one takes as long as hundreds of tokens of a prompt,
so the embeddings of the last ones stay in memory. Neither they nor pictures are ever written anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections import OrderedDict
from collections.abc import Generator, Mapping
from hashlib import sha256
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from suite.actors.attachments import Attachments
from suite.engine.engine import Engine
from suite.engine.llama_model import LlamaModel
from suite.engine.pictures import image
from suite.engine.pictures.tokens import EncodedPicture, unread
from suite.engine.prompts.placed_pictures import placed
from suite.engine.thread import EngineThread
from suite.errors import InvalidPicture, InvalidRequest, PromptTooLong, UnsupportedContent
from suite.identity import NewId
from suite.messages.actions.chat import ContentPart
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actor import FetchedPictures

KEPT_BYTES: Final = 64 << 20
"""The most memory for embeddings of pictures that may be sent again."""


class Pictures:
    """Reads and encodes the pictures that one model is sent."""

    def __init__(
        self,
        engine: EngineThread,
        attachments: Attachments,
        new_id: NewId,
        *,
        context_tokens: int,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._engine = engine
        self._context_tokens = context_tokens
        self._attachments = attachments
        self._new_id = new_id
        self._kept_bytes = kept_bytes
        self._kept: OrderedDict[bytes, EncodedPicture] = OrderedDict()
        """By the digests of their files, the last one used at the end."""
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def placed(
        self, request: GenerateTextRequest, fetched: FetchedPictures | None = None
    ) -> GenerateTextRequest:
        """The request with its pictures as the model reads them, in place of their files.

        `fetched` are those that the node has. Raises UnsupportedContent if the model reads none,
        InvalidPicture, PictureTooLarge, RequestTimeout, InvalidRequest, PromptTooLong and GenerationFailed.
        """
        messages = request.messages or ()
        parts = [part for message in messages for part in message.pictures]
        if not parts:
            return request
        sent = {part.picture or "": part for part in reversed(parts)}
        encoded = await self._all_encoded(sent, request, fetched)
        return msgspec.structs.replace(
            request, messages=tuple(placed(message, encoded, self._new_id) for message in messages)
        )

    async def _all_encoded(
        self,
        sent: Mapping[str, ContentPart],
        request: GenerateTextRequest,
        fetched: FetchedPictures | None,
    ) -> dict[str, EncodedPicture]:
        """The pictures of a chat, which come in the order of their last places there, the last one first.

        Once they fill the context, those before them are not read: they are cut, or the chat is refused.
        """
        encoded: dict[str, EncodedPicture] = {}
        cells = 0
        for picture, part in sent.items():
            if cells >= self._context_tokens:
                encoded[picture] = unread(sha256(picture.encode()).digest())
                continue
            encoded[picture] = each = await self._encoded(part, request, _source(part, request, fetched))
            cells += each.cells
            if cells >= self._context_tokens and request.truncate is None:
                raise PromptTooLong(
                    f"{len(encoded)} of {len(sent)} pictures take {cells} tokens and the model's context has "
                    f"{self._context_tokens}: send fewer, or truncate: left"
                )
        return encoded

    async def _encoded(
        self, part: ContentPart, request: GenerateTextRequest, source: str | None
    ) -> EncodedPicture:
        if part.attached is not None and (kept := self._find(bytes.fromhex(part.attached))) is not None:
            return kept
        data = await self._file(part, source)
        digest = sha256(data).digest()
        if (kept := self._find(digest)) is not None:
            return kept
        encoded = await self._encode(data, digest, request.priority)
        self._keep(digest, encoded)
        return encoded

    async def _file(self, part: ContentPart, source: str | None) -> bytes:
        if part.attached is None:
            return await anyio.to_thread.run_sync(_decoded, part.picture or "", limiter=self._one_at_a_time)
        if source is None:
            raise InvalidRequest("attachments is missing: a picture that is attached is asked for there")
        return await self._attachments.fetch(source, part.attached)

    async def _encode(self, data: bytes, digest: bytes, priority: int) -> EncodedPicture:
        pixels = await anyio.to_thread.run_sync(image.read, data, limiter=self._one_at_a_time)

        def encode(model: LlamaModel, engine: Engine) -> Generator[None, None, EncodedPicture]:
            if model.projector is None:
                raise UnsupportedContent(f"the model reads no pictures: {model.reads_no_pictures}")

            def seconds() -> float:
                """How long others wait at most, also those who come meanwhile."""
                if self._engine.cores is not None:
                    self._engine.cores.due(reading=True, priority=priority)
                return min(engine.spare_seconds(), model.settings.max_step_seconds)

            return (yield from model.projector.encode(pixels, digest, seconds=seconds))

        return await asyncio.wrap_future(self._engine.run_in_pieces(encode))

    def _find(self, digest: bytes) -> EncodedPicture | None:
        kept = self._kept.get(digest)
        if kept is not None:
            self._kept.move_to_end(digest)
        return kept

    def _keep(self, digest: bytes, encoded: EncodedPicture) -> None:
        self._kept[digest] = encoded
        while sum(each.size for each in self._kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)


def _source(part: ContentPart, request: GenerateTextRequest, fetched: FetchedPictures | None) -> str | None:
    """Where a picture is asked for that is not in the request: at its node, or at who sent it."""
    is_fetched = fetched is not None and part.attached in fetched.digests
    return fetched.source if fetched is not None and is_fetched else request.attachments


def _decoded(picture: str) -> bytes:
    if len(picture) > image.MOST_BYTES * 4 // 3 + 4:
        raise image.too_many_bytes(len(picture) * 3 // 4)
    try:
        return base64.b64decode("".join(picture.split()), validate=True)
    except (binascii.Error, ValueError):
        raise InvalidPicture(
            "the picture is not in base64: send its file as base64, or as a data URL"
        ) from None
