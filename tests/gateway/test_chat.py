"""Chats over HTTP, as OpenAI's clients send them."""

from __future__ import annotations

from typing import Any

from support.gateway import RunningGateway

USER = {"role": "user", "content": "Name three colours."}


def chat(**more: Any) -> dict[str, Any]:
    return {"model": "smollm2", "messages": [USER], "max_tokens": 6, **more}


def test_a_chat_has_the_form_of_openais_api(gateway: RunningGateway) -> None:
    answer = gateway.post("/v1/chat/completions", chat(unknown_parameter=1, stop=None))
    assert answer.status == 200
    document = answer.document
    assert document["object"] == "chat.completion"
    assert document["id"].startswith("chatcmpl-")
    (choice,) = document["choices"]
    assert choice["index"] == 0
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert choice["finish_reason"] == "length"
    usage = document["usage"]
    assert usage["completion_tokens"] == 6
    assert usage["total_tokens"] == usage["prompt_tokens"] + 6
    assert answer.headers["x-suite-node"] == "test"
    assert int(answer.headers["openai-processing-ms"]) >= 0


def test_a_stream_has_the_chunks_of_openais_api(gateway: RunningGateway) -> None:
    answer = gateway.post("/v1/chat/completions", chat(stream=True, stream_options={"include_usage": True}))
    assert answer.headers["content-type"] == "text/event-stream"
    *chunks, usage, done = answer.events
    assert done == "[DONE]"
    assert usage["choices"] == []
    assert usage["usage"]["completion_tokens"] == 6
    assert len({(each["id"], each["created"], each["model"]) for each in (*chunks, usage)}) == 1
    choices = [chunk["choices"][0] for chunk in chunks]
    assert choices[0]["delta"]["role"] == "assistant"
    assert all("role" not in each["delta"] for each in choices[1:])
    assert [each["finish_reason"] for each in choices] == [None] * (len(choices) - 1) + ["length"]
    assert choices[-1]["delta"] == {}
    assert "".join(each["delta"].get("content", "") for each in choices)


def test_what_was_reused_is_told(gateway: RunningGateway) -> None:
    asked = chat(messages=[{"role": "user", "content": "What is a llama, and where does it live?"}])
    gateway.post("/v1/chat/completions", asked)
    usage = gateway.post("/v1/chat/completions", asked).document["usage"]
    assert 0 < usage["prompt_tokens_details"]["cached_tokens"] < usage["prompt_tokens"]


def test_an_unknown_model_is_not_found_streamed_or_not(gateway: RunningGateway) -> None:
    for stream in (False, True):
        answer = gateway.post("/v1/chat/completions", chat(model="smolm2", stream=stream))
        assert answer.status == 404
        assert answer.error["code"] == "model_not_found"
        assert answer.error["param"] == "model"
        assert "did you mean 'smollm2'" in answer.error["message"]


def test_a_prompt_over_the_context_is_told_with_openais_code(gateway: RunningGateway) -> None:
    long = [{"role": "user", "content": "word " * 6000}]
    for stream in (False, True):
        answer = gateway.post("/v1/chat/completions", chat(messages=long, stream=stream))
        assert (answer.status, answer.error["code"]) == (400, "context_length_exceeded")
        assert answer.error["type"] == "invalid_request_error"


def test_what_is_no_request_is_refused_with_its_parameter(gateway: RunningGateway) -> None:
    broken = gateway.post("/v1/chat/completions", b'{"model": "smollm2", ')
    assert (broken.status, broken.error["code"]) == (400, "invalid_json")
    wrong = gateway.post("/v1/chat/completions", chat(temperature="hot"))
    assert (wrong.status, wrong.error["param"]) == (400, "temperature")
    early = gateway.post("/v1/chat/completions", chat(stream_options={"include_usage": True}))
    assert (early.status, early.error["code"]) == (400, "invalid_request")


def test_what_is_not_there_is_told_in_the_same_form(gateway: RunningGateway) -> None:
    assert gateway.get("/v1/nothing").error["code"] == "unknown_path"
    wrong = gateway.get("/v1/chat/completions")
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
