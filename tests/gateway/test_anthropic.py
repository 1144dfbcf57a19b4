"""Anthropic's own client before the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import anthropic
import pytest
from pydantic import BaseModel

from suite.gateway.anthropic.request import read_messages
from support.gateway import RunningGateway

USER: anthropic.types.MessageParam = {"role": "user", "content": "What is the weather in Paris?"}
WEATHER: anthropic.types.ToolParam = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(BaseModel):
    name: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key="none", max_retries=0) as client:
        yield client


def test_a_message_is_answered(client: anthropic.Anthropic) -> None:
    message = client.messages.create(model="smollm2", max_tokens=6, system="Be short.", messages=[USER])
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 6
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10


def test_a_stream_builds_up_the_message(client: anthropic.Anthropic) -> None:
    with client.messages.stream(model="smollm2", max_tokens=6, messages=[USER]) as stream:
        pieces = list(stream.text_stream)
        message = stream.get_final_message()
    (block,) = message.content
    assert isinstance(block, anthropic.types.TextBlock)
    assert block.text == "".join(pieces) != ""
    assert message.stop_reason == "max_tokens"
    assert message.usage.output_tokens == 6
    assert message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0) > 10


@pytest.mark.parametrize("streams", [False, True])
def test_the_stop_sequence_that_ended_a_message_is_told(client: anthropic.Anthropic, streams: bool) -> None:
    stops = [" ", "e", "a", "o"]
    asked: Any = {
        "model": "smollm2",
        "max_tokens": 200,
        "extra_body": {"temperature": 0},
        "messages": [USER],
        "stop_sequences": stops,
    }
    if streams:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    assert message.stop_reason == "stop_sequence"
    assert message.stop_sequence in stops


@pytest.mark.parametrize("streams", [False, True])
def test_a_tool_is_called_and_its_result_is_taken(client: anthropic.Anthropic, streams: bool) -> None:
    asked: Any = {
        "model": "smollm2",
        "max_tokens": 200,
        "extra_body": {"temperature": 0},
        "messages": [USER],
        "tools": [WEATHER],
        "tool_choice": {"type": "tool", "name": "weather", "disable_parallel_tool_use": True},
    }
    if streams:
        with client.messages.stream(**asked) as stream:
            message = stream.get_final_message()
    else:
        message = client.messages.create(**asked)
    assert message.stop_reason == "tool_use"
    (call,) = (block for block in message.content if isinstance(block, anthropic.types.ToolUseBlock))
    assert call.name == "weather"
    assert call.input in ({"city": "Paris"}, {"city": "Rome"})
    result: anthropic.types.ToolResultBlockParam = {
        "type": "tool_result",
        "tool_use_id": call.id,
        "content": "Sunny",
    }
    after = client.messages.create(
        model="smollm2",
        max_tokens=4,
        messages=[USER, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}],
        tools=[WEATHER],
        tool_choice={"type": "none"},
    )
    assert after.usage.input_tokens + (after.usage.cache_read_input_tokens or 0) > 20


def test_structured_output_follows_its_schema(client: anthropic.Anthropic) -> None:
    message = client.messages.parse(model="smollm2", max_tokens=200, messages=[USER], output_format=City)
    assert isinstance(message.parsed_output, City)


def test_tokens_are_counted_as_they_are_read(client: anthropic.Anthropic) -> None:
    counted = client.messages.count_tokens(model="smollm2", messages=[USER])
    message = client.messages.create(model="smollm2", max_tokens=1, messages=[USER])
    read = message.usage.input_tokens + (message.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == read


def test_errors_have_anthropics_form(client: anthropic.Anthropic) -> None:
    with pytest.raises(anthropic.NotFoundError) as unknown:
        client.messages.create(model="smolm2", max_tokens=1, messages=[USER])
    assert unknown.value.body == {
        "type": "error",
        "error": {
            "type": "not_found_error",
            "code": "model_not_found",
            "message": unknown.value.body["error"]["message"],  # type: ignore[index]
        },
    }
    picture: Any = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}
    with pytest.raises(anthropic.BadRequestError, match="smollm2 reads none: it has no projector"):
        client.messages.create(
            model="smollm2",
            max_tokens=1,
            messages=[{"role": "user", "content": [picture]}],
        )
    server_tool: Any = {"type": "web_search_20250305", "name": "web_search"}
    with pytest.raises(anthropic.BadRequestError, match="web_search_20250305"):
        client.messages.create(
            model="smollm2",
            max_tokens=1,
            messages=[USER],
            tools=[server_tool],
        )


def test_a_result_without_content_is_an_empty_text() -> None:
    block = '{"type": "tool_result", "tool_use_id": "c", "content": null, "is_error": null}'
    body = f'{{"model": "m", "max_tokens": 1, "messages": [{{"role": "user", "content": [{block}]}}]}}'
    messages = read_messages(body.encode()).fields["messages"]
    assert messages == [{"role": "tool", "tool_call_id": "c", "content": ""}]


def test_an_attribution_line_is_no_part_of_the_prompt() -> None:
    def system(cch: str) -> object:
        header = f"x-anthropic-billing-header: cc_version=2.1.1; cc_entrypoint=cli; cch={cch};"
        body = (
            '{"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "Hi"}], "system": '
            f'[{{"type": "text", "text": "{header}"}}, {{"type": "text", "text": "You code."}}]}}'
        )
        return read_messages(body.encode()).fields["messages"]

    assert (
        system("00000")
        == system("a1b2c")
        == [
            {"role": "system", "content": "You code."},
            {"role": "user", "content": "Hi"},
        ]
    )
