"""Chats over HTTP, as OpenAI's clients send them."""

from __future__ import annotations

import re
import socket
import struct
from base64 import b64decode
from typing import Any

import msgspec
import pytest
from openapi_spec_validator import validate

from support.gateway import RunningGateway

USER = {"role": "user", "content": "Name three colours."}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}


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


def test_an_error_says_which_node_gave_it(gateway: RunningGateway) -> None:
    answer = gateway.post("/v1/chat/completions", chat(model="unheard-of"))
    assert (answer.status, answer.headers["x-suite-node"]) == (404, "test")


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
    for wrong, param in (
        (chat(temperature="hot"), "temperature"),
        (chat(temperature=99), "temperature"),
        (chat(messages=[{"role": "user", "content": 5}]), "messages[0].content"),
        (chat(messages=[{"role": "user", "content": [PICTURE]}]), "messages[0].content[0]"),
        ({"messages": [USER]}, "model"),
    ):
        answer = gateway.post("/v1/chat/completions", wrong)
        assert (answer.status, answer.error["param"]) == (400, param)
    tool = b'"tools": [{"type": "function", "function": {"name": "\xff"}}], "stream": true'
    for name in (b'"messages": [{"role": "\xff", "content": ""}]', b'"messages": [], ' + tool):
        answer = gateway.post("/v1/chat/completions", b'{"model": "smollm2", ' + name + b"}")
        assert (answer.status, answer.error["code"]) == (400, "invalid_json")
    for path, given in (
        ("/v1/chat/completions", chat()),
        ("/v1/chat/completions", chat(stream=True)),
        ("/v1/embeddings", {"input": "a"}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
    ):
        for parameter in ("load_wait_ms", "seed", "max_tokens", "dimensions", "top_n"):
            sent = {"model": "smollm2", **given, parameter: 10**400}
            assert gateway.post(path, sent).status < 500, (path, parameter)
    for body in (b"", b"[" * 100_000, b'{"model": "smollm2", "temperature": NaN}', b"\xff"):
        assert gateway.post("/v1/chat/completions", body).error["code"] in ("invalid_json", "invalid_request")
    half = b'{"model": "smollm2", "messages": [{"role": "user", "content": "\\ud800"}]}'
    assert gateway.post("/v1/chat/completions", half).error["param"] == "messages[0].content"
    many = gateway.post("/v1/completions", completion(prompt=["a"] * 129, n=2))
    assert (many.status, many.error["code"]) == (400, "invalid_request")
    assert "258 texts" in many.error["message"]
    early = gateway.post("/v1/chat/completions", chat(stream_options={"include_usage": True}))
    assert (early.status, early.error["code"]) == (400, "invalid_request")


def test_a_large_body_that_comes_at_once_is_read(gateway: RunningGateway) -> None:
    """In one read with its headers, which have a smaller limit."""
    body = msgspec.json.encode(chat(messages=[{"role": "user", "content": "word " * 40_000}]))
    request = b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % len(
        body
    )
    for _ in range(5):
        with socket.create_connection((gateway.host, gateway.port), timeout=20) as connection:
            connection.sendall(request + body)
            assert connection.recv(12) == b"HTTP/1.1 400"  # it is over the context


def test_what_is_not_there_is_told_in_the_same_form(gateway: RunningGateway) -> None:
    assert gateway.get("/v1/nothing").error["code"] == "unknown_path"
    wrong = gateway.get("/v1/chat/completions")
    assert (wrong.status, wrong.error["code"]) == (405, "method_not_allowed")
    assert wrong.headers["allow"] == "POST"
    assert gateway.get("/v1/models/").document == gateway.get("/v1/models").document


def test_a_request_gets_its_id_its_node_and_the_digest_of_the_model_back(gateway: RunningGateway) -> None:
    answer = gateway.post("/v1/chat/completions", chat(), {"x-request-id": "mine-1"})
    assert answer.headers["x-request-id"] == "mine-1"
    assert re.fullmatch("sha256:[0-9a-f]{64}", answer.headers["x-suite-model-digest"])
    made = gateway.post("/v1/chat/completions", chat(), {"x-request-id": "not\xe9printable"})
    assert made.headers["x-request-id"] not in ("", "not\xe9printable")


def test_log_probabilities_have_the_form_of_openais_api(gateway: RunningGateway) -> None:
    asked = chat(logprobs=True, top_logprobs=2, max_tokens=3)
    whole = gateway.post("/v1/chat/completions", asked).document["choices"][0]["logprobs"]["content"]
    streamed = [
        token
        for event in gateway.post("/v1/chat/completions", {**asked, "stream": True}).events[:-1]
        for token in (event["choices"][0]["logprobs"] or {"content": []})["content"]
    ]
    for tokens in (whole, streamed):
        assert len(tokens) == 3
        assert all(len(each["top_logprobs"]) == 2 and each["logprob"] <= 0 for each in tokens)


def test_several_answers_to_a_chat_are_told_apart(gateway: RunningGateway) -> None:
    whole = gateway.post("/v1/chat/completions", chat(n=2, max_tokens=3)).document
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    *chunks, done = gateway.post("/v1/chat/completions", chat(n=2, max_tokens=3, stream=True)).events
    assert done == "[DONE]"
    for index in (0, 1):
        choices = [each["choices"][0] for each in chunks if each["choices"][0]["index"] == index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert choices[-1]["finish_reason"] == "length"


# --- completions ----------------------------------------------------------------------------


def completion(**more: Any) -> dict[str, Any]:
    return {"model": "smollm2", "prompt": "Once upon a time", "max_tokens": 3, **more}


def test_every_prompt_gets_its_answers_in_order(gateway: RunningGateway) -> None:
    asked = completion(prompt=["One, two,", "Red, green,"], n=2, echo=True)
    document = gateway.post("/v1/completions", asked).document
    assert document["object"] == "text_completion"
    assert [each["index"] for each in document["choices"]] == [0, 1, 2, 3]
    texts = [each["text"] for each in document["choices"]]
    assert [text.startswith("One, two,") for text in texts] == [True, True, False, False]
    assert [text.startswith("Red, green,") for text in texts] == [False, False, True, True]
    assert document["usage"]["completion_tokens"] == 12


def test_streamed_completions_are_those_of_all_prompts(gateway: RunningGateway) -> None:
    asked = completion(prompt=["One, two,", "Red, green,"], echo=True, stream=True)
    *events, done = gateway.post("/v1/completions", asked).events
    assert done == "[DONE]"
    for index, prompt in enumerate(asked["prompt"]):
        choices = [each["choices"][0] for each in events if each["choices"][0]["index"] == index]
        assert choices[0]["text"].startswith(prompt)
        assert [each["finish_reason"] for each in choices] == [None] * (len(choices) - 1) + ["length"]


def test_the_tokens_of_an_echoed_prompt_are_scored(gateway: RunningGateway) -> None:
    (choice,) = gateway.post("/v1/completions", completion(echo=True, logprobs=2)).document["choices"]
    scored = choice["logprobs"]
    assert scored["token_logprobs"][0] is None
    assert all(each <= 0 for each in scored["token_logprobs"][1:])
    assert "".join(scored["tokens"]) == choice["text"]
    assert scored["text_offset"][:2] == [0, len(scored["tokens"][0])]
    assert len(scored["top_logprobs"][-1]) == 2


def test_token_ids_are_a_prompt(gateway: RunningGateway) -> None:
    one = gateway.post("/v1/completions", completion(prompt=[504, 2000, 314])).document
    assert one["usage"]["prompt_tokens"] == 3
    two = gateway.post("/v1/completions", completion(prompt=[[504, 2000], [314]])).document
    assert len(two["choices"]) == 2
    mixed = gateway.post("/v1/completions", completion(prompt=["text", 504]))
    assert (mixed.status, mixed.error["code"]) == (400, "invalid_request")


def test_a_completion_has_16_tokens_unless_it_says_otherwise(gateway: RunningGateway) -> None:
    asked = {"model": "tiny", "prompt": "Once"}
    assert gateway.post("/v1/completions", asked).document["usage"]["completion_tokens"] == 16


# --- embeddings, ranking, models ----------------------------------------------------------------------------


def test_vectors_are_the_same_as_numbers_and_as_base64(gateway: RunningGateway) -> None:
    asked = {"model": "tiny", "input": ["one", "two"]}
    numbers = gateway.post("/v1/embeddings", asked).document
    assert [each["index"] for each in numbers["data"]] == [0, 1]
    encoded = gateway.post("/v1/embeddings", {**asked, "encoding_format": "base64"}).document
    for plain, packed in zip(numbers["data"], encoded["data"], strict=True):
        raw = b64decode(packed["embedding"])
        assert struct.unpack(f"<{len(raw) // 4}f", raw) == pytest.approx(plain["embedding"], abs=1e-6)
    assert numbers["usage"]["total_tokens"] > 0


def test_more_inputs_than_the_service_takes_at_once_are_answered_in_order(gateway: RunningGateway) -> None:
    texts = [f"text {number % 3}" for number in range(300)]
    data = gateway.post("/v1/embeddings", {"model": "tiny", "input": texts}).document["data"]
    assert [each["index"] for each in data] == list(range(300))
    assert data[299]["embedding"] == pytest.approx(data[2]["embedding"], abs=1e-4)
    ids = gateway.post("/v1/embeddings", {"model": "tiny", "input": [[300, 301], [302]]}).document["data"]
    assert len(ids) == 2


def test_a_model_that_cannot_rank_says_so(gateway: RunningGateway) -> None:
    refused = gateway.post("/v1/rerank", {"model": "tiny", "query": "q", "documents": ["a", {"text": "b"}]})
    assert (refused.status, refused.error["code"]) == (400, "cannot_rerank")


def test_documents_are_ranked(gateway: RunningGateway) -> None:
    documents = ["a stone", {"text": "the sea"}, "a tree has leaves"]
    asked = {"model": "ranker", "query": "the shore of the sea", "documents": documents}
    answer = gateway.post("/v1/rerank", {**asked, "return_documents": True}).document
    scores = [each["relevance_score"] for each in answer["results"]]
    assert scores == sorted(scores, reverse=True) and all(0 <= score <= 1 for score in scores)
    texts = {each["index"]: each["document"]["text"] for each in answer["results"]}
    assert texts == {0: "a stone", 1: "the sea", 2: "a tree has leaves"}
    (best,) = gateway.post("/v1/rerank", {**asked, "top_n": 1}).document["results"]
    assert best["index"] == answer["results"][0]["index"] and "document" not in best
    assert answer["usage"]["prompt_tokens"] > 0
    refused = gateway.post("/v1/chat/completions", chat(model="ranker"))
    assert (refused.status, refused.error["code"]) == (400, "cannot_generate")


def test_models_are_listed_and_shown(gateway: RunningGateway) -> None:
    models = {each["id"]: each for each in gateway.get("/v1/models").document["data"]}
    assert models.keys() == {"smollm2", "tiny", "slow", "seeing", "ranker"}
    shown = gateway.get("/v1/models/tiny").document
    assert (shown["id"], shown["object"], shown["context_length"]) == ("tiny", "model", 512)
    unknown = gateway.get("/v1/models/nothing")
    assert (unknown.status, unknown.error["code"]) == (404, "model_not_found")


# --- documents and probes ----------------------------------------------------------------------------


def test_the_openapi_document_is_valid_and_names_every_operation(gateway: RunningGateway) -> None:
    document = gateway.get("/openapi.json").document
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert {"/v1/chat/completions", "/v1/models/{model}", "/metrics"} <= document["paths"].keys()


def test_the_page_says_how_to_call_it_and_loads_nothing_from_elsewhere(gateway: RunningGateway) -> None:
    page = gateway.get("/")
    assert page.headers["content-type"].startswith("text/html")
    text = page.body.decode()
    assert f"curl {gateway.url}/v1/chat/completions" in text
    assert set(re.findall(r"https?://[^\s/<]+", text)) == {gateway.url}


def test_probes_and_metrics_answer(gateway: RunningGateway) -> None:
    for path in ("/health", "/livez", "/readyz"):
        answer = gateway.get(path)
        assert (answer.status, answer.document) == (200, {"status": "ok"})
    gateway.post("/v1/chat/completions", chat())
    metrics = gateway.get("/metrics").body.decode()
    assert 'suite_gateway_requests_total{endpoint="chat_completions",status="200"}' in metrics
    assert 'suite_gateway_tokens_total{kind="completion",model="smollm2"}' in metrics
    assert 'suite_node_models_tracked{node="test"} 6.0' in metrics
