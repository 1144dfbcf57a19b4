"""The pictures that a node fetches for requests, until the processes of models have them (ADR 79).

A model's process has no network. So its node fetches what a request names, before it hands the request over,
and the process asks for it in parts, as it asks clients for what they have attached
(`suite.messages.attachments`). The node does not look into the files: they are read where all pictures are,
in the process without rights.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from hashlib import sha256
from typing import Final

import anyio
import anyio.to_thread
import msgspec

from suite.bus.connection import Connection, Message
from suite.domain.web_hosts import WebAddress
from suite.engine.pictures.image import MOST_BYTES
from suite.errors import InvalidPicture, InvalidRequest, Overloaded, PictureUnreachable, SuiteError
from suite.messages.actions.chat import ChatMessage, ContentPart
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actor import FetchedPictures
from suite.messages.attachments import AskForPart
from suite.node.pictures.web_files import WebFiles

logger = logging.getLogger("suite.pictures")

MOST_PICTURES: Final = 16
"""So many different URLs may be in a request."""
MOST_AT_ONCE: Final = 8
"""So many pictures are fetched at the same time, for all requests."""
MOST_OF_HOST: Final = 4
"""So many of these come from one host: one that is slow does not keep the pictures of others waiting."""
HELD_BYTES: Final = 16 * MOST_BYTES
"""The most memory for pictures that are being fetched, each of which may become the largest, and for those
that no process has asked for yet."""
REQUEST_SECONDS: Final = 60.0
"""How long all pictures of a request may take together, with their wait for others."""

_decode = msgspec.json.Decoder(AskForPart).decode


class _Held:
    """A picture that processes may ask for."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.generations: set[str] = set()
        """Those that it is held for."""
        self.reads = 0
        """How many of these have read it to its end, at most."""


class _Turns:
    """Who may fetch now."""

    def __init__(self) -> None:
        self._all = anyio.CapacityLimiter(MOST_AT_ONCE)
        self._of_hosts: dict[str, anyio.CapacityLimiter] = {}
        """Of those that are fetched from, or waited for."""

    @asynccontextmanager
    async def turn(self, host: str) -> AsyncIterator[None]:
        """Fetch from a host during the block, once it is its turn."""
        of_host = self._of_hosts.setdefault(host, anyio.CapacityLimiter(MOST_OF_HOST))
        try:
            async with of_host, self._all:
                yield
        finally:
            if not of_host.borrowed_tokens and not of_host.statistics().tasks_waiting:
                self._of_hosts.pop(host, None)


class WebPictures:
    """The pictures of the web of one node's requests."""

    def __init__(self, connection: Connection, files: WebFiles, *, held_bytes: int = HELD_BYTES) -> None:
        self._connection = connection
        self._files = files
        self._most_bytes = held_bytes
        self._bytes = 0
        self._turns = _Turns()
        self._held: dict[str, _Held] = {}
        """By the digests of their files."""
        self._inbox = connection.new_inbox()

    async def listen(self) -> None:
        """Answer the processes that ask for pictures."""
        await self._connection.listen(self._inbox, self._send)

    def check(self, parts: Iterable[tuple[str, ContentPart]]) -> None:
        """Check, without fetching anything, that the pictures of the web among these parts may be fetched.

        Each part comes with how to name it. Raises PictureNotAllowed, InvalidPicture and InvalidRequest.
        """
        urls = set()
        for field, part in parts:
            if part.url is None:
                continue
            urls.add(part.url)
            try:
                self._files.rule(_address(part.url))
            except SuiteError as error:
                raise type(error)(f"{field} has the URL of a picture: {error.message}") from None
        if len(urls) > MOST_PICTURES:
            raise InvalidRequest(
                f"{len(urls)} pictures would have to be fetched, and at most {MOST_PICTURES} are for a "
                "request: send the others themselves, as data URLs"
            )

    async def fetched(
        self, generation_id: str, request: GenerateTextRequest
    ) -> tuple[GenerateTextRequest, FetchedPictures | None]:
        """Fetch the pictures of a request, and return it with their digests in place of their URLs.

        They are held until `let_go`, which has to be called for the generation also if this fails. Raises
        PictureNotAllowed, PictureUnreachable, PictureTooLarge, InvalidPicture and Overloaded.
        """
        messages = request.messages or ()
        urls = {part.url for message in messages for part in message.pictures if part.url is not None}
        if not urls:
            return request, None
        digests: dict[str, str] = {}

        async def fetch(url: str) -> None:
            digests[url] = await self._fetch(generation_id, url)

        with anyio.move_on_after(REQUEST_SECONDS) as limit:
            try:
                async with anyio.create_task_group() as tasks:
                    for url in urls:
                        tasks.start_soon(fetch, url)
            except ExceptionGroup as group:
                raise group.exceptions[0] from None
        if limit.cancelled_caught:
            raise PictureUnreachable(
                f"the {len(urls)} pictures of the request did not come within {REQUEST_SECONDS:g} s"
            )
        replaced = tuple(_with_digests(each, digests) for each in messages)
        fetched = FetchedPictures(digests=tuple(sorted(set(digests.values()))), source=self._inbox)
        return msgspec.structs.replace(request, messages=replaced), fetched

    def let_go(self, generation_id: str) -> None:
        """Hold nothing for a generation any more."""
        for digest, held in list(self._held.items()):
            if generation_id in held.generations:
                held.generations.discard(generation_id)
                held.reads = max(0, held.reads - 1)  # its own does not count for those who come later
            if not held.generations:
                self._drop(digest)

    async def _fetch(self, generation_id: str, url: str) -> str:
        address = _address(url)
        async with self._turns.turn(address.host):
            with self._room():
                data = await self._files.fetch(address)
                digest = (await anyio.to_thread.run_sync(sha256, data)).hexdigest()
                if digest not in self._held:
                    self._held[digest] = _Held(data)
                    self._bytes += len(data)
                self._held[digest].generations.add(generation_id)
        logger.debug("a picture of %d bytes came from %s", len(data), address.origin)
        return digest

    @contextmanager
    def _room(self) -> Iterator[None]:
        """Have room for the largest picture during the block. Raises Overloaded if there is none."""
        if self._bytes + MOST_BYTES > self._most_bytes:
            raise Overloaded("this node has as many fetched pictures as it may: send the request again later")
        self._bytes += MOST_BYTES
        try:
            yield
        finally:
            self._bytes -= MOST_BYTES

    async def _send(self, message: Message) -> None:
        """Send a part of a picture to the process that asks for it."""
        with suppress(SuiteError, msgspec.MsgspecError):  # whoever asks gives up, and says so
            ask = _decode(message.data)
            held = self._held.get(ask.attached)
            part = b"" if held is None else held.data[ask.offset : ask.offset + ask.length]
            await self._connection.publish(ask.answer, part)
            if held is not None and not part:
                held.reads += 1
                if held.reads >= len(held.generations):
                    self._drop(ask.attached)

    def _drop(self, digest: str) -> None:
        if (held := self._held.pop(digest, None)) is not None:
            self._bytes -= len(held.data)


def _address(url: str) -> WebAddress:
    """Raises InvalidPicture."""
    try:
        return WebAddress.of(url)
    except ValueError as error:
        raise InvalidPicture(f"the URL cannot be used: {error}") from None


def _with_digests(message: ChatMessage, digests: dict[str, str]) -> ChatMessage:
    if not isinstance(message.content, tuple):
        return message
    parts = tuple(
        part if part.url is None else ContentPart(type="image", attached=digests[part.url])
        for part in message.content
    )
    return msgspec.structs.replace(message, content=parts)
