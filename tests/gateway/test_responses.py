"""The Responses API, as OpenAI's own client uses it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from openai.types.responses import (
    FunctionToolParam,
    Response,
    ResponseFunctionToolCall,
    ResponseInputParam,
    ResponseOutputMessage,
)
from pydantic import BaseModel

from suite.gateway.openai.responses import read_responses
from suite.gateway.openai.responses_answer import ResponseAnswer
from suite.messages.actions.generation import GenerateTextReply, Timings, Usage
from suite.messages.events import Outcome
from suite.messages.signals import Chunk
from support.gateway import RunningGateway

ASKED = "What is the weather in Paris?"
WEATHER: FunctionToolParam = {
    "type": "function",
    "name": "weather",
    "description": "Tells the weather.",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
}


class City(BaseModel):
    name: Literal["Paris", "Rome"]


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_a_text_is_answered(client: openai.OpenAI) -> None:
    response = client.responses.create(
        model="smollm2", input=ASKED, instructions="Be short.", max_output_tokens=6
    )
    (item,) = response.output
    assert isinstance(item, ResponseOutputMessage)
    assert response.output_text
    assert response.status == "incomplete"
    assert response.incomplete_details is not None
    assert response.incomplete_details.reason == "max_output_tokens"
    assert response.usage is not None
    assert response.usage.output_tokens == 6
    assert response.usage.total_tokens == response.usage.input_tokens + 6


def test_events_build_up_the_response(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="smollm2", input=ASKED, max_output_tokens=6, stream=True))
    assert [each.sequence_number for each in events] == list(range(len(events)))
    begun, *kinds = [each.type for each in events if each.type != "response.in_progress"]  # also a keep-alive
    assert begun == "response.created"
    assert kinds[:2] == ["response.output_item.added", "response.content_part.added"]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.incomplete",
    ]
    assert set(kinds[2:-4]) == {"response.output_text.delta"}
    text = "".join(each.delta for each in events if each.type == "response.output_text.delta")
    last = events[-1]
    assert last.type == "response.incomplete"
    assert last.response.output_text == text != ""


@pytest.mark.parametrize("streams", [False, True])
def test_a_function_is_called_and_its_output_is_taken(client: openai.OpenAI, streams: bool) -> None:
    response: Response
    if streams:
        with client.responses.stream(
            model="smollm2",
            input=ASKED,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
            max_output_tokens=200,
            temperature=0,
        ) as stream:
            response = stream.get_final_response()
    else:
        response = client.responses.create(
            model="smollm2",
            input=ASKED,
            tools=[WEATHER],
            tool_choice="required",
            parallel_tool_calls=False,
            max_output_tokens=200,
            temperature=0,
        )
    call = next(each for each in response.output if isinstance(each, ResponseFunctionToolCall))
    assert call.name == "weather"
    assert call.arguments.replace(" ", "") in ('{"city":"Paris"}', '{"city":"Rome"}')
    conversation: ResponseInputParam = [
        {"role": "user", "content": ASKED},
        {"type": "function_call", "call_id": call.call_id, "name": call.name, "arguments": call.arguments},
        {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny"},
    ]
    after = client.responses.create(model="smollm2", input=conversation, max_output_tokens=4)
    assert after.usage is not None
    assert after.usage.input_tokens > 20


def test_structured_output_follows_its_schema(client: openai.OpenAI) -> None:
    response = client.responses.parse(
        model="smollm2", input=ASKED, text_format=City, max_output_tokens=200, temperature=0
    )
    assert isinstance(response.output_parsed, City)


def test_what_needs_storage_is_refused_and_foreign_tools_are_left_out(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="no answer is stored"):
        client.responses.create(model="smollm2", input=ASKED, previous_response_id="resp_1")
    with pytest.raises(openai.BadRequestError, match="local_shell_call"):
        client.responses.create(model="smollm2", input=[{"type": "local_shell_call"}])  # type: ignore[misc,list-item]
    response = client.responses.create(
        model="smollm2", input=ASKED, tools=[{"type": "web_search"}], max_output_tokens=2
    )
    assert "web_search" in response.to_json()
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="smolm2", input=ASKED)


def test_what_means_nothing_here_is_left_out_with_a_warning(gateway: RunningGateway) -> None:
    items: list[dict[str, Any]] = [
        {"type": "item_reference", "id": "msg_1"},
        {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": "search"}},
        {"type": "custom_tool_call", "call_id": "c", "name": "sh", "input": "ls"},
        {"type": "custom_tool_call_output", "call_id": "c", "output": "a.txt"},
        {"role": "user", "content": ASKED},
    ]
    allowed = {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "weather"}]}
    body = {"model": "smollm2", "input": items, "tools": [WEATHER], "tool_choice": allowed}
    response = gateway.post("/v1/responses", body | {"max_output_tokens": 4}).document
    assert response["tool_choice"] == "auto"
    told = " ".join(response["warnings"])
    assert all(each.get("type", "allowed_tools") in told for each in items)
    nameless = gateway.post("/v1/responses", body | {"tool_choice": {"type": "function"}})
    assert nameless.status == 400


THOUGHT, TEXT = Chunk(index=0, text="", reasoning="Hm."), Chunk(index=0, text="Yes.")


@pytest.mark.parametrize(
    ("chunks", "outcome", "kinds", "reason"),
    [
        ([THOUGHT], "length", ["reasoning"], "max_output_tokens"),
        ([TEXT, THOUGHT, TEXT], "deadline", ["message", "reasoning", "message"], "deadline"),
        ([THOUGHT, TEXT], "cancelled", ["reasoning", "message"], "cancelled"),
        ([], "stop", ["message"], None),
    ],
)
def test_the_last_response_has_the_items_that_the_events_built(
    chunks: list[Chunk], outcome: Outcome, kinds: list[str], reason: str | None
) -> None:
    asked = read_responses(b'{"model": "m", "input": "Hi", "stream": true}')
    answer = ResponseAnswer(asked, id="1", created_at=1)
    sent = b"".join(map(answer.chunk, chunks)) + answer.end(generated(outcome))
    events = [json.loads(line[6:]) for line in sent.decode().splitlines() if line.startswith("data: ")]
    done = [each["item"] for each in events if each["type"] == "response.output_item.done"]
    response = events[-1]["response"]
    assert response["output"] == done
    assert [each["type"] for each in done] == kinds
    assert len({each["id"] for each in done}) == len(done)
    assert response["incomplete_details"] == (reason and {"reason": reason})


def generated(outcome: Outcome) -> GenerateTextReply:
    return GenerateTextReply(
        text="",
        model_id="m",
        generation_id="g",
        conversation_id=None,
        using_kv_cache=False,
        finish_reason=outcome,
        seed=1,
        usage=Usage(prompt_tokens=1, reused_tokens=0, completion_tokens=1),
        timings=Timings(
            queue_ms=0, prompt_ms=0, time_to_first_token_ms=0, generation_ms=0, tokens_per_second=None
        ),
        seq=1,
    )
