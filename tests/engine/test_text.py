from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from suite.engine.text import TextStream

SOME_TEXT = st.text(alphabet="ab\n é漢😀", max_size=30)


def all_of(stream: TextStream, parts: list[bytes]) -> tuple[str, list[str]]:
    pieces = [stream.push(part) for part in parts]
    return "".join(pieces) + stream.finish(), pieces


def cut(data: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(point % (len(data) + 1) for point in points)})
    return [data[start:end] for start, end in pairwise(edges)]


@given(SOME_TEXT, st.lists(st.integers(0, 200)))
def test_characters_come_out_whole_however_the_bytes_are_cut(text: str, points: list[int]) -> None:
    whole, pieces = all_of(TextStream(), cut(text.encode(), points))
    assert whole == text
    assert "\ufffd" not in "".join(pieces)


@given(SOME_TEXT, st.lists(st.text(alphabet="ab\né", max_size=3), max_size=3), st.lists(st.integers(0, 200)))
def test_a_stop_string_ends_the_text_at_the_same_place_however_the_bytes_are_cut(
    text: str, stops: list[str], points: list[int]
) -> None:
    stream, reference = TextStream(stops), TextStream(stops)
    whole, _ = all_of(stream, cut(text.encode(), points))
    expected, _ = all_of(reference, [char.encode() for char in text])
    assert whole == expected
    assert stream.stopped == any(stop and stop in text for stop in stops)
    assert stream.stop_text == reference.stop_text
    assert not stream.stopped or (stream.stop_text in stops and text.startswith(f"{whole}{stream.stop_text}"))
    assert stream.stopped or whole == text
    assert not any(stop and stop in whole for stop in stops)


@given(st.binary(max_size=40), st.lists(st.integers(0, 200)))
def test_bytes_that_are_no_text_become_replacement_characters_and_never_an_error(
    data: bytes, points: list[int]
) -> None:
    whole, _ = all_of(TextStream(), cut(data, points))
    assert whole == data.decode("utf-8", "replace")


def test_what_may_begin_a_stop_string_waits_until_it_is_decided() -> None:
    stream = TextStream(["\n\n"])
    assert stream.push(b"one\n") == "one"
    assert stream.push(b"two\n") == "\ntwo"
    assert stream.push(b"\nthree") == ""
    assert stream.stopped
    assert stream.push(b"four") == ""
    assert stream.finish() == ""


def test_what_was_held_back_comes_out_at_the_end() -> None:
    stream = TextStream(["STOP"])
    assert stream.push(b"a STO") == "a "
    assert stream.finish() == "STO"


def test_the_stop_string_that_is_complete_first_counts() -> None:
    stream = TextStream(["abc", "b"])
    assert stream.push(b"abc") == "a"
    assert stream.stopped
