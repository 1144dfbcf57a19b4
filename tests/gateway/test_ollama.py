"""Ollama's own client before the gateway."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from ollama import Client, ResponseError

from suite.errors import InvalidRequest
from suite.gateway.ollama.keep_alive import stay
from support.gateway import RunningGateway

USER = {"role": "user", "content": "What is the weather in Paris?"}
SHORT = {"num_predict": 6}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def client(gateway: RunningGateway) -> Iterator[Client]:
    with Client(gateway.url) as client:
        yield client


def test_a_chat_is_answered(client: Client) -> None:
    answer = client.chat("smollm2:latest", [USER], options=SHORT)
    assert answer.message.role == "assistant"
    assert answer.message.content
    assert answer.done
    assert answer.done_reason == "length"
    assert answer.eval_count == 6
    assert (answer.prompt_eval_count or 0) > 10
    assert (answer.total_duration or 0) >= (answer.eval_duration or 0) > 0


def test_a_chat_comes_in_lines(client: Client) -> None:
    *pieces, last = client.chat("smollm2", [USER], options=SHORT, stream=True)
    assert "".join(each.message.content or "" for each in pieces)
    assert not any(each.done for each in pieces)
    assert last.done
    assert last.eval_count == 6


def test_a_prompt_is_a_turn_of_a_chat_unless_it_is_raw(client: Client) -> None:
    chat = client.generate("smollm2", "Hello", system="Be short.", options=SHORT)
    raw = client.generate("smollm2", "Hello", raw=True, options=SHORT)
    assert chat.response and raw.response
    assert (chat.prompt_eval_count or 0) > (raw.prompt_eval_count or 0)
    *_, last = client.generate("smollm2", "Hello", options=SHORT, stream=True)
    assert last.eval_count == 6


def test_an_answer_follows_a_schema(client: Client) -> None:
    schema = {"type": "object", "properties": {"city": {"enum": ["Paris"]}}, "required": ["city"]}
    answer = client.chat("smollm2", [USER], format=schema, options={"num_predict": 60})
    assert (answer.message.content or "").replace(" ", "").replace("\n", "") == '{"city":"Paris"}'


def test_calls_of_earlier_answers_are_taken(client: Client) -> None:
    call = {"function": {"name": "weather", "arguments": {"city": "Paris"}}}
    messages: list[Any] = [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "tool_name": "weather", "content": "Sunny"},
    ]
    with_call = client.chat("smollm2", messages, tools=[WEATHER], options=SHORT)
    assert (with_call.prompt_eval_count or 0) > 30


def test_the_catalogue_is_listed_and_shown(client: Client) -> None:
    tags = {each.model: each for each in client.list().models}
    assert tags["smollm2"].details is not None
    assert tags["smollm2"].details.family == "llama"
    assert tags["smollm2"].details.parameter_size == "134.52M"
    shown = client.show("smollm2")
    assert shown.capabilities == ["completion", "tools"]
    assert shown.modelinfo is not None
    assert shown.modelinfo["general.architecture"] == "llama"


def test_models_are_loaded_kept_and_unloaded_without_a_prompt(client: Client) -> None:
    assert client.generate("tiny", keep_alive=-1).done_reason == "load"
    tiny = {each.model: each for each in client.ps().models}["tiny"]
    assert tiny.expires_at is not None
    assert tiny.expires_at.year == 9999
    assert client.chat("tiny", [], keep_alive=0).done_reason == "unload"
    assert "tiny" not in {each.model for each in client.ps().models}


def test_null_counts_as_left_out(gateway: RunningGateway) -> None:
    call = {"function": {"name": "weather", "arguments": None}}
    messages = [USER, {"role": "assistant", "content": None, "tool_calls": [call]}]
    messages += [{"role": "tool", "content": "Sunny"}]
    chat = {"model": "smollm2", "messages": messages, "options": SHORT, "stream": False}
    assert gateway.post("/api/chat", chat).document["eval_count"] > 0
    nothing = {"model": "tiny", "messages": None, "prompt": None, "raw": None, "options": None}
    for path in ("/api/chat", "/api/generate"):
        assert gateway.post(path, nothing).document["done_reason"] == "load"


def test_many_texts_become_vectors_in_batches(gateway: RunningGateway) -> None:
    answer = gateway.post("/api/embed", {"model": "tiny", "input": ["a"] * 300})
    assert len(answer.document["embeddings"]) == 300
    assert answer.document["prompt_eval_count"] >= 300
    assert gateway.post("/api/embed", {"model": "tiny", "input": ["a"] * 2049}).status == 400


def test_errors_have_ollamas_form(client: Client) -> None:
    with pytest.raises(ResponseError, match="smolm2") as unknown:
        client.chat("smolm2", [USER])
    assert unknown.value.status_code == 404
    with pytest.raises(ResponseError, match="smollm2 reads none: it has no projector"):
        client.chat("smollm2", [{"role": "user", "content": "What is this?", "images": ["aGVsbG8="]}])
    with pytest.raises(ResponseError, match="keep_alive"):
        client.chat("smollm2", [USER], keep_alive="soon")


@pytest.mark.parametrize(
    ("sent", "means"),
    [
        (0, "now"),
        ("0", "now"),
        (-1, "forever"),
        ("-1", "forever"),
        ("-1m", "forever"),
        ("5m", 300.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        (30, 30),
        ("30", 30.0),
    ],
)
def test_a_duration_is_read_as_ollama_reads_it(sent: float | str, means: object) -> None:
    assert stay(sent) == means


@pytest.mark.parametrize("sent", ["soon", "5 minutes", "", "m", "nan"])
def test_what_is_no_duration_is_refused(sent: str) -> None:
    with pytest.raises(InvalidRequest, match="keep_alive"):
        stay(sent)
