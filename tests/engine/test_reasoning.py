from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.engine import Engine
from suite.engine.reasoning import FORMATS, AnswerStream, Piece, Reasoning, format_of, marker_tokens
from suite.engine.slots import Slots
from support.backend import WORDS, FakeBackend
from support.generations import alone, asked, drain

THINK, HARMONY = FORMATS[0], FORMATS[-1]


def told_apart(data: bytes, cuts: Sequence[int], reasoning: Reasoning, stops: Sequence[str] = ()) -> Piece:
    """The text and the reasoning of an answer that comes in pieces."""
    stream = AnswerStream(reasoning, stops)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    pieces = [stream.push(0, data[begin:end]) for begin, end in pairwise(places)]
    pieces.append(stream.finish())
    return Piece("".join(each.text for each in pieces), "".join(each.reasoning for each in pieces))


@pytest.mark.parametrize(
    ("answer", "opened", "text", "thought"),
    [
        ("<think>\nTwo é.\n</think>\n\nIt is 4.\n", False, "It is 4.\n", "Two é."),
        ("Two.\n\nAnd two.\n</think>\n\n4", True, "4", "Two.\n\nAnd two."),
        ("\n<think>\n\n</think>\n\n4", False, "4", ""),
        ("no <think>ing</think>", False, "no <think>ing</think>", ""),
        ("< 4", False, "< 4", ""),
        (" \n", False, " \n", ""),
        ("<think>cut off </thi", False, "", "cut off </thi"),
        ("<thi", False, "<thi", ""),
        ("a </think><think>b</think> c", True, "<think>b</think> c", "a"),
    ],
)
@given(cuts=st.lists(st.integers(0, 99), max_size=12))
def test_reasoning_is_told_apart_however_it_is_cut(
    answer: str, opened: bool, text: str, thought: str, cuts: list[int]
) -> None:
    reasoning = Reasoning(form=THINK, opened=opened)
    assert told_apart(answer.encode(), cuts, reasoning) == Piece(text, thought)


@given(cuts=st.lists(st.integers(0, 199), max_size=12))
def test_the_headers_of_channels_are_no_part_of_the_answer(cuts: list[int]) -> None:
    final = b"<|channel|>final<|message|>4"
    thought = b"<|channel|>analysis<|message|>Two.<|end|><|start|>assistant" + final
    reasoning = Reasoning(form=HARMONY, opened=False)
    assert told_apart(thought, cuts, reasoning) == Piece("4", "Two.")
    assert told_apart(final, cuts, reasoning) == Piece("4")


def test_stop_strings_end_the_answer_and_not_the_reasoning() -> None:
    stream = AnswerStream(Reasoning(form=THINK, opened=True), ["\n\n"])
    assert stream.push(0, b"One.\n\nTwo.") == Piece("", "One.\n\nTwo.")
    assert not stream.stopped
    assert stream.push(0, b"</think>\n\nA.\n\nB.") == Piece("A.")
    assert stream.stopped
    assert stream.hidden == b"\n\nB."


def test_the_tokens_of_the_reasoning_are_counted_with_its_markers() -> None:
    stream = AnswerStream(Reasoning(form=THINK, opened=False))
    for data in (b"<th", b"ink>", b"a", b"b", b"</think>", b"\n\n", b"c"):
        stream.push(0, data)
    assert stream.reasoning_tokens == 5
    answer = AnswerStream(Reasoning(form=THINK, opened=False))
    answer.push(0, b"<table>")
    assert answer.reasoning_tokens == 0


def test_control_tokens_without_text_are_markers_all_the_same() -> None:
    tokens = marker_tokens(HARMONY, {"<|channel|>": 1, "<|message|>": 2, "<|end|>": 3, "<|call|>": 4})
    assert tokens == {1: b"<|channel|>", 2: b"<|message|>", 3: b"<|end|>"}
    stream = AnswerStream(Reasoning(form=HARMONY, opened=False, tokens=tokens))
    said = [stream.push(token, data) for token, data in ((1, b""), (9, b"analysis"), (2, b""), (9, b"Hm"))]
    assert said[-1] == Piece("", "Hm")


def test_a_grammar_begins_with_the_answer() -> None:
    tokens = {7: b"<think>", 8: b"</think>"}
    stream = AnswerStream(Reasoning(form=THINK, opened=False, tokens=tokens))
    assert stream.exempt == {7}  # it may think, or answer at once
    stream.push(7, b"")
    assert stream.exempt is None
    stream.push(9, b"So")
    assert stream.exempt is None
    stream.push(8, b"")
    assert not stream.exempt
    assert stream.exempt is not None
    stream.push(9, b"{")
    assert not stream.exempt
    assert stream.exempt is not None


@pytest.mark.parametrize("first", [b"<", b"<thi"])
def test_a_grammar_that_saw_the_beginning_of_a_marker_sees_the_rest(first: bytes) -> None:
    """A schema's ``[`` may be that of ``[THINK]``, and the ``<`` of a call that of ``<think>``."""
    stream = AnswerStream(Reasoning(form=THINK, opened=False, tokens={7: b"<think>", 8: b"</think>"}))
    stream.push(9, b"\n")
    assert stream.exempt == {7}
    stream.push(9, first)
    assert stream.exempt is not None
    assert not stream.exempt
    channels = AnswerStream(Reasoning(form=HARMONY, opened=False, tokens={1: b"<|channel|>"}))
    channels.push(1, b"")
    assert channels.exempt is None, "the grammar saw nothing of it"


@settings(deadline=None)
@given(prompt=st.lists(st.integers(1, 4), min_size=1, max_size=8), end=st.integers(1, WORDS - 1))
def test_the_engine_tells_reasoning_apart_and_frees_it_of_the_grammar(prompt: list[int], end: int) -> None:
    """The answer begins within the reasoning, which a control token ends, or nothing does."""
    backend = FakeBackend(slots=1, context=100, cache=100)
    engine = Engine(backend, Slots(1), prompt_step_tokens=4)
    reasoning = Reasoning(form=THINK, opened=True, tokens={end: b"</think>"})
    each = asked(prompt, max_tokens=60, reasoning=reasoning)
    engine.submit(each.generation, each.heard)
    drain(engine)
    answer, _ = alone(prompt, 60, 1, 100)
    thought = answer.index(end) if end in answer else len(answer)
    assert each.heard.reasoning.split() == [str(token) for token in answer[:thought]]
    assert each.heard.tokens == answer[thought + 1 :]
    assert each.generation.reasoning_tokens == len(answer[: thought + 1])
    assert [exempt is None for exempt in backend.exempt[: len(answer)]] == [
        place <= thought for place in range(len(answer))
    ]


def test_a_model_thinks_if_its_template_or_its_vocabulary_has_the_markers() -> None:
    assert format_of("{{ '<think>' }} ... split('</think>')", ()) == THINK
    assert format_of("{{ messages }}</think>", {"<think>"}) == THINK
    assert format_of("", {"[THINK]", "[/THINK]"}) == FORMATS[1]
    assert format_of("{{ messages }}", {"<s>", "</s>"}) is None
