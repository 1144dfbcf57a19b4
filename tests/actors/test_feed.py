from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel

from suite.actors.feed import CHUNK_SECONDS, Feed, TextDelta
from suite.errors import GenerationFailed, ModelUnloading


async def test_the_first_piece_is_there_at_once_and_those_right_after_it_go_together() -> None:
    feed = Feed(stream=True)
    feed.on_text("a")
    assert await feed.next() == TextDelta("a", (), False)
    feed.on_text("b")
    asyncio.get_running_loop().call_later(CHUNK_SECONDS / 2, feed.on_text, "c")
    assert await feed.next() == TextDelta("bc", (), False)


async def test_what_is_held_back_does_not_wait_for_more() -> None:
    feed = Feed(stream=True)
    feed.on_text("a")
    await feed.next()
    feed.on_text("b")
    with anyio.fail_after(10):
        assert await feed.next() == TextDelta("b", (), False)


async def test_the_end_does_not_wait() -> None:
    feed = Feed(stream=True)
    feed.on_text("a")
    await feed.next()
    feed.on_text("b")
    asyncio.get_running_loop().call_soon(feed.end, None)
    asyncio.get_running_loop().call_later(CHUNK_SECONDS / 2, feed.on_text, "too late")
    assert await feed.next() == TextDelta("b", (), True)


async def test_the_end_brings_all_that_is_left() -> None:
    feed = Feed(stream=True)
    feed.on_text("a")
    feed.on_text("b")
    feed.on_end(None)
    assert await feed.next() == TextDelta("ab", (), True)
    assert feed.failure is None


async def test_without_a_stream_nothing_is_told_before_the_end() -> None:
    feed = Feed(stream=False)
    feed.on_text("a")
    with anyio.move_on_after(0.05) as waited:
        await feed.next()
    assert waited.cancelled_caught
    feed.on_end(None)
    assert await feed.next() == TextDelta("a", (), True)


async def test_the_first_failure_stands() -> None:
    feed = Feed(stream=True)
    feed.end(ModelUnloading())
    feed.on_end(GenerationFailed())
    await anyio.lowlevel.checkpoint()
    assert isinstance(feed.failure, ModelUnloading)


async def test_nothing_is_lost_between_the_threads() -> None:
    feed = Feed(stream=True)
    pieces = [f"{n} " for n in range(5000)]

    def engine() -> None:
        for piece in pieces:
            feed.on_text(piece)
        feed.on_end(None)

    thread = threading.Thread(target=engine)
    thread.start()
    text, over = "", False
    while not over:
        more, logprobs, over = await feed.next()
        assert not logprobs
        text += more
    thread.join()
    assert text == "".join(pieces)
