"""What OpenAI's clients send is taken as it is."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from suite.bus.decoding import Shape
from suite.client.asking import encoded
from suite.errors import InvalidRequest
from suite.messages.actions.chat import ChatMessage, FunctionCall, NamedToolChoice, ToolCall
from suite.messages.actions.embedding import EmbedRequest
from suite.messages.actions.generation import GenerateTextRequest

SHAPE = Shape(GenerateTextRequest)


def read(**fields: Any) -> GenerateTextRequest:
    flat, clash = SHAPE.flattened({"model_id": "m", **fields})
    assert clash is None
    return SHAPE.read(flat)


def message(**fields: Any) -> ChatMessage:
    (found,) = read(messages=[fields]).messages or ()
    return found


def test_null_is_as_good_as_left_out() -> None:
    names = ("stop", "temperature", "max_tokens", "tools", "logit_bias", "tool_choice", "n", "stream")
    nulls = dict.fromkeys(names)
    assert read(prompt="x", **nulls) == read(prompt="x")
    flat, _ = SHAPE.flattened({"model_id": "m", **nulls})
    assert flat == {"model_id": "m"}  # so a default of the model counts


def test_what_is_null_is_not_warned_about() -> None:
    asked = {"user": None, "messages": [{"role": "user", "content": "x", "refusal": None}], "store": True}
    assert SHAPE.warnings(asked) == ("unknown field 'store' ignored",)


def test_the_parts_of_a_text_are_joined() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert message(role="user", content=parts).text == "one\ntwo"
    assert message(role="assistant", content=[{"type": "refusal", "refusal": "No."}]).text == "No."
    assert message(role="user", content="plain").text == "plain"


@pytest.mark.parametrize("calls", [None, []])
def test_an_assistant_may_have_said_nothing(calls: list[Any] | None) -> None:
    assert message(role="assistant", content=None, tool_calls=calls).text == ""


def test_the_arguments_of_a_call_are_a_text_or_an_object() -> None:
    for arguments in ('{"a": 1}', {"a": 1}):
        call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": arguments}}
        (found,) = message(role="assistant", tool_calls=[call]).tool_calls or ()
        assert found.function.arguments == arguments


def test_the_calls_of_a_reply_go_back_as_they_are() -> None:
    call = ToolCall(id="1", function=FunctionCall(name="add", arguments="{}"))
    sent = msgspec.json.encode(ChatMessage(role="assistant", tool_calls=(call,)))
    (found,) = message(**msgspec.json.decode(sent)).tool_calls or ()
    assert (found.id, found.function.name, found.function.arguments) == ("1", "add", "{}")


def test_log_probabilities_are_asked_for_in_both_ways() -> None:
    assert read().alternatives is None
    assert read(logprobs=False, top_logprobs=3).alternatives is None
    assert read(logprobs=True).alternatives == 0
    assert read(logprobs=True, top_logprobs=3).alternatives == 3
    assert read(logprobs=2).alternatives == 2


def test_a_tool_can_be_named() -> None:
    choice = read(tool_choice={"type": "function", "function": {"name": "add"}}).tool_choice
    assert isinstance(choice, NamedToolChoice)
    assert choice.function.name == "add"


def test_a_last_message_of_the_assistant_is_gone_on_with() -> None:
    user, begun = {"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}
    called = {"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}
    assert read(messages=[user, begun]).continues_answer
    assert not read(messages=[user, begun], continue_final_message=False).continues_answer
    assert not read(messages=[user]).continues_answer
    assert not read(messages=[user, called]).continues_answer
    assert not read(prompt="x").continues_answer


def test_inputs_are_texts_or_token_ids() -> None:
    def inputs(value: object) -> tuple[object, ...]:
        return msgspec.convert({"model_id": "m", "input": value}, EmbedRequest).inputs

    assert inputs("a") == ("a",)
    assert inputs(["a", "b"]) == ("a", "b")
    assert inputs(list(range(300))) == (tuple(range(300)),)
    assert inputs([[1, 2], [3]]) == ((1, 2), (3,))
    with pytest.raises(msgspec.ValidationError, match="mixed"):
        inputs(["a", 1])
    with pytest.raises(msgspec.ValidationError, match="several requests"):
        inputs(["a"] * 257)


@pytest.mark.parametrize("prompt", ["a\ud83d", ["a", {"b": "\udc00"}]])
def test_half_of_a_character_is_told_before_it_is_sent(prompt: object) -> None:
    with pytest.raises(InvalidRequest, match=r"field 'prompt.*half of a surrogate pair"):
        encoded({"prompt": prompt})
