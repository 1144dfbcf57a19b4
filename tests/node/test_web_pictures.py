"""Pictures of the web are held until they are read or nobody wants them, and as many as there is room for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.actors.attachments import Attachments
from suite.bus.connection import Connection
from suite.domain.web_hosts import WebHosts
from suite.engine.pictures.image import MOST_BYTES
from suite.errors import InvalidPicture, Overloaded, PictureUnreachable
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actor import FetchedPictures
from suite.node.pictures.web_files import WebFiles
from suite.node.pictures.web_pictures import MOST_OF_HOST, WebPictures
from suite.tasks import background
from support.actors import SUBJECTS
from support.nats import running_nats
from support.web import Web, found, head, web

CAT, DOG = b"cat" * 400_000, b"dog"
SLOW = (head(200, "content-length: 3"), 3600.0)


@asynccontextmanager
async def pictures(directory: Path, held_bytes: int) -> AsyncIterator[tuple[WebPictures, Web, Connection]]:
    async with (
        web({"/cat": found(CAT), "/again": found(CAT), "/dog": found(DOG), "/slow": SLOW}) as site,
        running_nats(directory) as (_, connection),
    ):
        files = WebFiles(WebHosts.of([f"127.0.0.1:{site.port}", f"localhost:{site.port}"]))
        node = WebPictures(connection, files, held_bytes=held_bytes)
        await node.listen()
        yield node, site, connection


def asking(*urls: str) -> GenerateTextRequest:
    content = [{"type": "image_url", "image_url": each} for each in urls]
    request = {"model_id": "m", "messages": [{"role": "user", "content": content}]}
    return msgspec.convert(request, GenerateTextRequest)


async def read(connection: Connection, fetched: FetchedPictures | None) -> list[bytes]:
    """What a model's process gets of them."""
    assert fetched is not None
    ids = count()
    attachments = Attachments(connection, SUBJECTS, lambda: str(next(ids)))
    return [await attachments.fetch(fetched.source, each) for each in fetched.digests]


async def test_what_was_fetched_is_there_until_all_have_read_it_or_have_ended(tmp_path: Path) -> None:
    async with pictures(tmp_path, 10 * MOST_BYTES) as (node, site, connection):
        cat, again, dog = (site.url(path) for path in ("/cat", "/again", "/dog"))
        request, fetched = await node.fetched("first", asking(cat, again, cat))
        assert fetched is not None and len(fetched.digests) == 1 and len(site.asked) == 2
        (message,) = request.messages or ()
        assert [part.attached for part in message.pictures] == [*fetched.digests] * 3
        _, others = await node.fetched("second", asking(cat, dog))
        assert await read(connection, fetched) == [CAT]
        assert sorted(await read(connection, others)) == [CAT, DOG]
        for each in (fetched, others):
            with pytest.raises(InvalidPicture, match="not the one that was announced"):
                await read(connection, each)
        _, fetched = await node.fetched("third", asking(dog))
        node.let_go("third")
        with pytest.raises(InvalidPicture, match="not the one that was announced"):
            await read(connection, fetched)
        assert await node.fetched("fourth", asking()) == (asking(), None)


async def test_who_has_read_a_picture_and_ended_does_not_count_for_who_comes_later(tmp_path: Path) -> None:
    async with pictures(tmp_path, 10 * MOST_BYTES) as (node, site, connection):
        _, first = await node.fetched("first", asking(site.url("/dog")))
        _, second = await node.fetched("second", asking(site.url("/dog")))
        assert await read(connection, first) == [DOG]
        node.let_go("first")
        _, third = await node.fetched("third", asking(site.url("/dog")))
        assert await read(connection, second) == [DOG]
        assert await read(connection, third) == [DOG]


async def test_without_room_for_the_largest_nothing_more_is_fetched(tmp_path: Path) -> None:
    async with pictures(tmp_path, MOST_BYTES + len(CAT)) as (node, site, connection):
        with pytest.raises(PictureUnreachable):
            await node.fetched("lost", asking(site.url("/nothing")))
        await node.fetched("first", asking(site.url("/cat")))
        _, fetched = await node.fetched("second", asking(site.url("/dog")))
        with pytest.raises(Overloaded):
            await node.fetched("third", asking(site.url("/cat")))
        node.let_go("first")
        await node.fetched("third", asking(site.url("/cat")))
        assert await read(connection, fetched) == [DOG]


async def test_a_host_that_is_slow_keeps_no_pictures_of_others_waiting(tmp_path: Path) -> None:
    async with pictures(tmp_path, 16 * MOST_BYTES) as (node, site, _), background() as tasks:
        slow = asking(*(site.url(f"/slow?{number}") for number in range(16)))
        tasks.start_soon(node.fetched, "slow", slow)
        with anyio.fail_after(30):
            while len(site.asked) < MOST_OF_HOST:
                await anyio.sleep(0.01)
            _, fetched = await node.fetched("quick", asking(site.url("/dog", host="localhost")))
        assert fetched is not None
        assert len(site.asked) == MOST_OF_HOST + 1
