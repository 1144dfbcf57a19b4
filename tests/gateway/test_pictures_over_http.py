"""Pictures in the forms of OpenAI's, Anthropic's and Ollama's APIs: the same picture in each."""

from __future__ import annotations

from typing import Any

import pytest

from support.gateway import Answered, RunningGateway
from support.pictures import in_base64, noisy_picture, picture

DATA = in_base64(picture((0, 128, 0)))
URL = f"data:image/png;base64,{DATA}"
QUESTION = "what is it?"


def chat(gateway: RunningGateway, image: dict[str, Any]) -> Answered:
    content = [image, {"type": "text", "text": QUESTION}]
    body = {"model": "seeing", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    return gateway.post("/v1/chat/completions", body)


def openai(gateway: RunningGateway) -> int:
    answer = chat(gateway, {"type": "image_url", "image_url": {"url": URL}})
    return int(answer.document["usage"]["prompt_tokens"])


def responses(gateway: RunningGateway) -> int:
    content = [{"type": "input_image", "image_url": URL}, {"type": "input_text", "text": QUESTION}]
    body = {"model": "seeing", "input": [{"role": "user", "content": content}], "max_output_tokens": 1}
    return int(gateway.post("/v1/responses", body).document["usage"]["input_tokens"])


def anthropic(gateway: RunningGateway) -> int:
    source = {"type": "base64", "media_type": "image/png", "data": DATA}
    content = [{"type": "image", "source": source}, {"type": "text", "text": QUESTION}]
    body = {"model": "seeing", "messages": [{"role": "user", "content": content}], "max_tokens": 1}
    usage = gateway.post("/v1/messages", body).document["usage"]
    return int(usage["input_tokens"] + (usage.get("cache_read_input_tokens") or 0))


def ollama_chat(gateway: RunningGateway) -> int:
    body = {
        "model": "seeing",
        "messages": [{"role": "user", "content": QUESTION, "images": [DATA]}],
        "options": {"num_predict": 1},
        "stream": False,
    }
    return int(gateway.post("/api/chat", body).document["prompt_eval_count"])


def ollama_generate(gateway: RunningGateway) -> int:
    body = {
        "model": "seeing",
        "prompt": QUESTION,
        "images": [DATA],
        "options": {"num_predict": 1},
        "stream": False,
    }
    return int(gateway.post("/api/generate", body).document["prompt_eval_count"])


def test_a_picture_is_the_same_in_the_forms_of_all_apis(gateway: RunningGateway) -> None:
    tokens = {
        send.__name__: send(gateway) for send in (openai, responses, anthropic, ollama_chat, ollama_generate)
    }
    assert len(set(tokens.values())) == 1, tokens
    plain = {"model": "seeing", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    without = gateway.post("/v1/chat/completions", plain).document["usage"]["prompt_tokens"]
    assert tokens["openai"] > without


def test_a_picture_may_be_larger_than_a_message(gateway: RunningGateway) -> None:
    url = f"data:image/png;base64,{in_base64(noisy_picture(seed=2))}"
    answer = chat(gateway, {"type": "image_url", "image_url": {"url": url}})
    assert answer.status == 200, answer.body
    assert answer.document["usage"]["prompt_tokens"] == openai(gateway)


def test_models_that_read_pictures_say_so(gateway: RunningGateway) -> None:
    assert "vision" in gateway.post("/api/show", {"model": "seeing"}).document["capabilities"]
    assert "vision" not in gateway.post("/api/show", {"model": "tiny"}).document["capabilities"]


@pytest.mark.parametrize(
    ("url", "code"),
    [
        ("https://example.com/cat.png", "picture_not_allowed"),
        ("file:///etc/passwd", "invalid_picture"),
        ("data:image/png;base64,bm8gcGljdHVyZQ==", "invalid_picture"),
        ("data:image/png;base64,%%%", "invalid_picture"),
        ("data:image/png;base64,", "invalid_picture"),
    ],
)
def test_what_is_no_picture_is_refused(gateway: RunningGateway, url: str, code: str) -> None:
    answer = chat(gateway, {"type": "image_url", "image_url": {"url": url}})
    assert (answer.status, answer.error["code"]) == (400, code)
