from __future__ import annotations

import asyncio
import threading

import anyio
import anyio.lowlevel

from suite.actors.feed import CHUNK_SECONDS, Feed, News, TextDelta
from suite.errors import GenerationFailed, ModelUnloading


def only(text: str, *, is_last: bool) -> News:
    return News((TextDelta(0, text, ()),), is_last)


async def test_the_first_piece_is_there_at_once_and_those_right_after_it_go_together() -> None:
    feed = Feed(stream=True)
    feed.listener(0).on_text("a")
    assert await feed.next() == only("a", is_last=False)
    feed.listener(0).on_text("b")
    asyncio.get_running_loop().call_later(CHUNK_SECONDS / 2, feed.listener(0).on_text, "c")
    assert await feed.next() == only("bc", is_last=False)


async def test_what_is_held_back_does_not_wait_for_more() -> None:
    feed = Feed(stream=True)
    feed.listener(0).on_text("a")
    await feed.next()
    feed.listener(0).on_text("b")
    with anyio.fail_after(10):
        assert await feed.next() == only("b", is_last=False)


async def test_the_end_does_not_wait() -> None:
    feed = Feed(stream=True)
    feed.listener(0).on_text("a")
    await feed.next()
    feed.listener(0).on_text("b")
    asyncio.get_running_loop().call_soon(feed.end, None)
    asyncio.get_running_loop().call_later(CHUNK_SECONDS / 2, feed.listener(0).on_text, "too late")
    assert await feed.next() == only("b", is_last=True)


async def test_the_end_brings_all_that_is_left() -> None:
    feed = Feed(stream=True)
    feed.listener(0).on_text("a")
    feed.listener(0).on_text("b")
    feed.listener(0).on_end(None)
    assert await feed.next() == only("ab", is_last=True)
    assert feed.failure is None


async def test_without_a_stream_nothing_is_told_before_the_end() -> None:
    feed = Feed(stream=False)
    feed.listener(0).on_text("a")
    with anyio.move_on_after(0.05) as waited:
        await feed.next()
    assert waited.cancelled_caught
    feed.listener(0).on_end(None)
    assert await feed.next() == only("a", is_last=True)


async def test_the_first_failure_stands() -> None:
    feed = Feed(stream=True)
    feed.end(ModelUnloading())
    feed.listener(0).on_end(GenerationFailed())
    await anyio.lowlevel.checkpoint()
    assert isinstance(feed.failure, ModelUnloading)


async def test_nothing_is_lost_between_the_threads() -> None:
    feed = Feed(stream=True)
    pieces = [f"{n} " for n in range(5000)]

    def engine() -> None:
        for piece in pieces:
            feed.listener(0).on_text(piece)
        feed.listener(0).on_end(None)

    thread = threading.Thread(target=engine)
    thread.start()
    text, over = "", False
    while not over:
        deltas, over = await feed.next()
        assert not any(delta.logprobs for delta in deltas)
        text += "".join(delta.text for delta in deltas)
    thread.join()
    assert text == "".join(pieces)


async def test_what_is_of_several_choices_comes_together_and_is_over_when_the_last_one_is() -> None:
    feed = Feed(stream=True, choices=2)
    first, second = feed.listener(0), feed.listener(1)
    second.on_text("c")
    first.on_text("a")
    second.on_text("d")
    assert await feed.next() == News((TextDelta(0, "a", ()), TextDelta(1, "cd", ())), False)
    first.on_end(None)
    second.on_text("e")
    assert await feed.next() == News((TextDelta(1, "e", ()),), False)
    second.on_end(None)
    assert await feed.next() == News((), True)


async def test_one_choice_that_fails_ends_all() -> None:
    feed = Feed(stream=False, choices=2)
    feed.listener(1).on_end(GenerationFailed())
    assert (await feed.next()).is_last
    assert isinstance(feed.failure, GenerationFailed)
