"""OpenAI's own client for Python before the gateway; its Responses API has a file of its own."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator
from typing import Any, Literal

import anyio
import openai
import pytest
from openai.types.chat import (
    ChatCompletionFunctionToolParam,
    ChatCompletionMessageFunctionToolCall,
    ChatCompletionUserMessageParam,
)
from pydantic import BaseModel

import suite
from suite.client import Client
from suite.messages.actions.status import GenerationInfo
from support.gateway import RunningGateway, gateway_of

SECONDS = 30.0
USER: ChatCompletionUserMessageParam = {"role": "user", "content": "What is the weather in Paris?"}
GOING_ON = {"0": -100, "2": -100}
"""Biases by which SmolLM2 does not end its answer: it would rather call only one function."""


class City(BaseModel):
    name: Literal["Paris", "Rome"]
    is_capital: bool


def function(name: str, **properties: Any) -> ChatCompletionFunctionToolParam:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


WEATHER = function("weather", city={"type": "string", "enum": ["Paris", "Rome"]})


@pytest.fixture
async def client(gateway: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with client_of(gateway) as client:
        yield client


def client_of(gateway: RunningGateway) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key="none", max_retries=0)


async def test_a_chat_is_answered(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(model="smollm2", messages=[USER], max_completion_tokens=6)
    assert answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage is not None
    assert answer.usage.completion_tokens == 6


async def test_a_chat_comes_in_pieces(client: openai.AsyncOpenAI) -> None:
    stream = await client.chat.completions.create(
        model="smollm2", messages=[USER], max_tokens=6, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert chunks[-1].choices[0].finish_reason == "length"
    assert last.usage is not None
    assert last.usage.completion_tokens == 6


async def test_a_function_that_is_named_is_called_and_its_result_is_taken(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.create(
        model="smollm2",
        messages=[USER],
        tools=[function("now"), WEATHER],
        tool_choice={"type": "function", "function": {"name": "weather"}},
        parallel_tool_calls=False,
        max_tokens=200,
        temperature=0,
    )
    message = answer.choices[0].message
    assert message.tool_calls is not None
    (call,) = message.tool_calls
    assert isinstance(call, ChatCompletionMessageFunctionToolCall)
    assert call.function.name == "weather"
    assert json.loads(call.function.arguments)["city"] in ("Paris", "Rome")
    result: Any = {"role": "tool", "tool_call_id": call.id, "content": "Sunny"}
    turns: Any = [USER, message.to_dict(), result]
    after = await client.chat.completions.create(
        model="smollm2", messages=turns, tools=[WEATHER], tool_choice="none", max_tokens=4
    )
    assert after.choices[0].message.tool_calls is None
    assert after.usage is not None
    assert after.usage.prompt_tokens > 20


@pytest.mark.parametrize("streams", [False, True])
async def test_two_functions_are_called_at_once(client: openai.AsyncOpenAI, streams: bool) -> None:
    asked: Any = {
        "model": "smollm2",
        "messages": [USER],
        "tools": [function("now"), function("today")],
        "tool_choice": "required",
        "max_tokens": 80,
        "temperature": 0,
        "logit_bias": GOING_ON,
    }
    if streams:
        async with client.chat.completions.stream(**asked) as stream:
            choice = (await stream.get_final_completion()).choices[0]
    else:
        choice = (await client.chat.completions.create(**asked)).choices[0]
    calls = choice.message.tool_calls or ()
    assert choice.finish_reason == "tool_calls"
    assert len(calls) >= 2
    assert len({call.id for call in calls}) == len(calls)
    assert {call.function.name for call in calls if call.type == "function"} <= {"now", "today"}


async def test_an_answer_is_an_object_of_its_pydantic_model(client: openai.AsyncOpenAI) -> None:
    answer = await client.chat.completions.parse(
        model="smollm2", messages=[USER], response_format=City, max_tokens=200, temperature=0
    )
    assert isinstance(answer.choices[0].message.parsed, City)


async def test_vectors_come_in_the_encoding_that_the_client_asks_for_itself(
    client: openai.AsyncOpenAI,
) -> None:
    """It asks for base64 unless it is told otherwise."""
    packed = await client.embeddings.create(model="tiny", input=["one", "two"])
    plain = await client.embeddings.create(model="tiny", input=["one", "two"], encoding_format="float")
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-6)


async def test_models_are_listed_and_an_unknown_one_gets_a_suggestion(client: openai.AsyncOpenAI) -> None:
    assert "smollm2" in {each.id async for each in client.models.list()}
    assert (await client.models.retrieve("tiny")).id == "tiny"
    with pytest.raises(openai.NotFoundError, match="did you mean 'smollm2'") as unknown:
        await client.chat.completions.create(model="smolm2", messages=[USER])
    assert (unknown.value.code, unknown.value.param) == ("model_not_found", "model")


# --- streams that do not come to their end ---------------------------------------------------


async def test_a_stream_that_is_closed_ends_its_generation(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as service:
        stream = await endless(client)
        await anext(stream)
        assert len(await generations(service)) == 1
        await stream.close()
        with anyio.fail_after(SECONDS):
            while await generations(service):
                await anyio.sleep(0.02)


async def test_a_model_that_is_killed_in_mid_stream_is_an_error(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as service:
        stream = await endless(client)
        await anext(stream)
        model = (await service.get_model_status("slow")).model
        assert model is not None and model.instance is not None and model.instance.pid is not None
        os.kill(model.instance.pid, signal.SIGKILL)
        assert await error_of(stream) == "actor_crashed"


async def test_a_model_that_is_unloaded_in_mid_stream_is_an_error(
    gateway: RunningGateway, client: openai.AsyncOpenAI
) -> None:
    async with suite.connect(data_dir=gateway.data_dir) as service:
        stream = await endless(client)
        await anext(stream)
        await service.unload_model("slow", drain_ms=0)
        assert await error_of(stream) == "model_unloading"


async def test_a_gateway_that_is_stopped_in_mid_stream_sends_the_rest_of_it(gateway: RunningGateway) -> None:
    with gateway_of(gateway.data_dir) as another:
        client = client_of(another)
        stream = await client.completions.create(model="tiny", prompt="Once", max_tokens=60, stream=True)
        await anext(stream)
    *_, last = [chunk async for chunk in stream]
    assert last.choices[0].finish_reason == "length"
    await client.close()


async def endless(client: openai.AsyncOpenAI) -> openai.AsyncStream[openai.types.Completion]:
    """A stream of more tokens than any test waits for."""
    return await client.completions.create(model="slow", prompt="Once", max_tokens=3900, stream=True)


async def error_of(stream: openai.AsyncStream[openai.types.Completion]) -> str | None:
    """The code of the error that a stream ends with."""
    with anyio.fail_after(SECONDS), pytest.raises(openai.APIError) as error:
        async for _ in stream:
            pass
    return error.value.code


async def generations(service: Client) -> tuple[GenerationInfo, ...]:
    """Those of the slow model that have not ended."""
    return (await service.get_model_status("slow")).generations
