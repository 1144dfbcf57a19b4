"""Prompts and answers in spans: an attribute has a limit as a whole, whatever is in it."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.actors.trace_content import answered_content, asked_content
from suite.messages.actions.generation import Choice, GenerateTextRequest
from suite.telemetry import MOST_CONTENT_BYTES

TEXTS = st.builds(
    lambda character, times: character * times,
    st.sampled_from(["a", "\n", '"', "\x01", "é", "語", "🦙"]),
    st.integers(0, 2 * MOST_CONTENT_BYTES),
)
ARGUMENTS = st.one_of(TEXTS, st.builds(lambda text: {"text": text}, TEXTS))


def request_of(messages: list[dict[str, Any]]) -> GenerateTextRequest:
    return msgspec.convert({"model_id": "tiny", "messages": messages}, GenerateTextRequest)


def call_with(arguments: str | dict[str, Any]) -> dict[str, Any]:
    return {"id": "1", "function": {"name": "look_up", "arguments": arguments}}


@settings(max_examples=50, deadline=None)
@given(texts=st.lists(TEXTS, max_size=20), arguments=st.lists(ARGUMENTS, min_size=1, max_size=20))
def test_no_attribute_is_larger_than_the_limit(texts: list[str], arguments: list[Any]) -> None:
    calling = {"role": "assistant", "tool_calls": [call_with(each) for each in arguments]}
    messages = [{"role": "user", "content": [{"type": "text", "text": each}]} for each in texts]
    asked = asked_content(request_of([{"role": "user", "content": "x"}, *messages, calling]))
    choices = [Choice(index=0, text=each, reasoning=each, finish_reason="stop") for each in texts]
    answered = answered_content(choices)
    for content in (*asked.values(), *answered.values()):
        assert len(content.encode()) <= MOST_CONTENT_BYTES
        json.loads(content)


def test_the_last_messages_of_a_chat_are_in_it_and_the_first_of_them_is_cut() -> None:
    messages = [{"role": "user", "content": str(number % 10) * 30_000} for number in range(100)]
    content = json.loads(asked_content(request_of(messages))["gen_ai.input.messages"])
    *_, before, last = (message["parts"][0]["content"] for message in content)
    assert (before, last) == ("8" * 30_000, "9" * 30_000)
    assert len(content) == 3
    assert content[0]["parts"][0]["content"].endswith("7… (30000 characters)")


def test_arguments_that_are_an_object_stay_one_if_they_have_room() -> None:
    calls = [call_with({"name": "short"}), call_with({"name": "x" * MOST_CONTENT_BYTES})]
    request = request_of([{"role": "user", "content": "x"}, {"role": "assistant", "tool_calls": calls}])
    content = json.loads(asked_content(request)["gen_ai.input.messages"])
    whole, cut = (part["arguments"] for part in content[-1]["parts"])
    assert whole == {"name": "short"}
    assert cut.startswith('{"name":"xxx')
    assert cut.endswith(" characters)")
