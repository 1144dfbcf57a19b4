"""Whatever is sent, the sender gets a stable code and what to do, and the service goes on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

import suite
from suite.bus.connection import Connection
from suite.errors import MESSAGE_CHARACTERS, shortened
from support.models import tiny_model
from support.service import serving

ASK = {"model_id": "tiny", "prompt": "Once", "max_tokens": 2}

REFUSED: dict[str, tuple[str, bytes, str, str]] = {
    "unknown model": ("load_model", b'{"model_id": "nobody"}', "model_not_found", "list of models"),
    "a path as model": ("load_model", b'{"model_id": "../etc/passwd"}', "model_not_found", "list of models"),
    "unknown action": ("fly_away", b"{}", "unknown_action", "Unknown action: fly_away"),
    "missing field": ("load_model", b"{}", "invalid_request", "model_id"),
    "wrong type": ("load_model", b'{"model_id": 7}', "invalid_request", "model_id"),
    "not JSON": ("load_model", b"model_id=tiny", "invalid_json", "JSON"),
    "not UTF-8": ("load_model", b'{"model_id": "\xff\xfe"}', "invalid_json", ""),
    "no object": ("load_model", b"[1, 2]", "invalid_request", "object"),
    "empty prompt": ("generate_text", msgspec.json.encode({**ASK, "prompt": ""}), "empty_prompt", "prompt"),
    "no prompt": ("generate_text", b'{"model_id": "tiny"}', "empty_prompt", "prompt"),
    "no messages": ("generate_text", b'{"model_id": "tiny", "messages": []}', "empty_prompt", ""),
    "prompt and messages": (
        "generate_text",
        msgspec.json.encode({**ASK, "messages": [{"role": "user", "content": "x"}]}),
        "invalid_request",
        "one of them",
    ),
    "no template": (
        "generate_text",
        b'{"model_id": "tiny", "messages": [{"role": "user", "content": "x"}]}',
        "no_chat_template",
        "prompt",
    ),
    "a picture": (
        "generate_text",
        b'{"model_id": "tiny", "messages": [{"role": "user", "content": [{"type": "text", "text": "What?"}, '
        b'{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]}]}',
        "unsupported_content",
        "messages[0].content[1]",
    ),
    "a picture from elsewhere": (
        "generate_text",
        b'{"model_id": "tiny", "messages": [{"role": "user", "content": [{"type": "image_url", '
        b'"image_url": "http://169.254.169.254/"}]}]}',
        "picture_not_allowed",
        "messages[0].content[0]",
    ),
    "a picture part without its picture": (
        "generate_text",
        b'{"model_id": "tiny", "messages": [{"role": "user", "content": [{"type": "image"}]}]}',
        "invalid_request",
        "messages[0].content[0]",
    ),
    "pictures that are asked for at no inbox": (
        "generate_text",
        msgspec.json.encode({**ASK, "attachments": "suite.actor.box1.stop"}),
        "invalid_request",
        "attachments",
    ),
    "a text part without its text": (
        "generate_text",
        b'{"model_id": "tiny", "messages": [{"role": "user", "content": [{"type": "text"}]}]}',
        "invalid_request",
        "messages[0].content[0]",
    ),
    "two limits": (
        "generate_text",
        msgspec.json.encode({**ASK, "max_tokens": 5, "max_completion_tokens": 6}),
        "invalid_request",
        "max_completion_tokens",
    ),
    "half of a character": (
        "generate_text",
        rb'{"model_id": "tiny", "prompt": "a\ud83d"}',
        "invalid_request",
        "'prompt'",
    ),
    "negative wait": (
        "load_model",
        b'{"model_id": "tiny", "load_wait_ms": -1}',
        "invalid_request",
        "load_wait_ms",
    ),
    "enormous wait": (
        "generate_text",
        msgspec.json.encode({**ASK, "load_wait_ms": 10**12}),
        "invalid_request",
        "load_wait_ms",
    ),
    "a larger context than the model has": (
        "generate_text",
        msgspec.json.encode({**ASK, "context_length": 100_000}),
        "invalid_request",
        "set context_length = 100000 in models",
    ),
    "a word for how long": (
        "embed",
        b'{"model_id": "tiny", "input": "x", "keep_alive": "sometimes"}',
        "invalid_request",
        "keep_alive",
    ),
    "a word of a megabyte, which the refusal repeats": (
        "generate_text",
        msgspec.json.encode({**ASK, "keep_alive": "a" * 1_048_400}),
        "invalid_request",
        "keep_alive",
    ),
    "negative limit": (
        "generate_text",
        msgspec.json.encode({**ASK, "max_tokens": -1}),
        "invalid_request",
        "max_tokens",
    ),
    "zero limit": (
        "generate_text",
        msgspec.json.encode({**ASK, "max_tokens": 0}),
        "invalid_request",
        "max_tokens",
    ),
    "negative temperature": (
        "generate_text",
        msgspec.json.encode({**ASK, "temperature": -0.5}),
        "invalid_request",
        "temperature",
    ),
    "a penalty of next to nothing": (
        "generate_text",
        msgspec.json.encode({**ASK, "repeat_penalty": 1e-300}),
        "invalid_request",
        "repeat_penalty",
    ),
    "more than llama.cpp counts to": (
        "generate_text",
        msgspec.json.encode({**ASK, "top_k": 2**31}),
        "invalid_request",
        "top_k",
    ),
    "a call that has to be": (
        "generate_text",
        msgspec.json.encode({**ASK, "tool_choice": "required"}),
        "invalid_request",
        "needs tools",
    ),
    "cut and continued": (
        "generate_text",
        msgspec.json.encode({**ASK, "conversation_id": "c", "continue": True, "truncate": "left"}),
        "invalid_request",
        "truncate and continue",
    ),
    "several answers that go on": (
        "generate_text",
        msgspec.json.encode({**ASK, "conversation_id": "c", "continue": True, "n": 2}),
        "invalid_request",
        "by one answer",
    ),
    "more answers than there may be": (
        "generate_text",
        msgspec.json.encode({**ASK, "n": 17}),
        "invalid_request",
        "n",
    ),
    "a gap in a chat": (
        "generate_text",
        msgspec.json.encode(
            {**ASK, "prompt": None, "messages": [{"role": "user", "content": "a"}], "suffix": "b"}
        ),
        "invalid_request",
        "suffix needs a prompt",
    ),
    "a gap that is cut": (
        "generate_text",
        msgspec.json.encode({**ASK, "suffix": "b", "truncate": "left"}),
        "invalid_request",
        "suffix cannot be combined",
    ),
    "a gap for a model that cannot fill it": (
        "generate_text",
        msgspec.json.encode({**ASK, "suffix": "b"}),
        "cannot_fill_in",
        "without suffix",
    ),
    "scores of what is in memory": (
        "generate_text",
        msgspec.json.encode({**ASK, "conversation_id": "c", "continue": True, "prompt_logprobs": 1}),
        "invalid_request",
        "prompt_logprobs",
    ),
    "a token that there is not": (
        "generate_text",
        msgspec.json.encode({**ASK, "prompt": [1, 99_999]}),
        "invalid_request",
        "no token 99999",
    ),
    "a text of no token": (
        "detokenize",
        b'{"model_id": "tiny", "tokens": [5, 99999]}',
        "invalid_request",
        "no token 99999",
    ),
    "texts among token ids": (
        "embed",
        b'{"model_id": "tiny", "input": ["a", [5]]}',
        "invalid_request",
        "mixed",
    ),
    "more numbers than a vector has": (
        "embed",
        b'{"model_id": "tiny", "input": "a", "dimensions": 10000}',
        "invalid_request",
        "dimensions",
    ),
    "ranks of a model that has none": (
        "rerank",
        b'{"model_id": "tiny", "query": "a", "documents": ["b"]}',
        "cannot_rerank",
        "makes embeddings",
    ),
    "nothing to rank": (
        "rerank",
        b'{"model_id": "tiny", "query": "a", "documents": []}',
        "invalid_request",
        "documents",
    ),
    "empty stop": ("generate_text", msgspec.json.encode({**ASK, "stop": [""]}), "invalid_request", "stop"),
    "negative drain": (
        "unload_model",
        b'{"model_id": "tiny", "drain_ms": -1}',
        "invalid_request",
        "drain_ms",
    ),
    "an event that no log can have": ("explain", b'{"seq": 1%s}' % (b"0" * 30), "invalid_request", "'seq'"),
    "more evaluations than there can be": (
        "promote_alias",
        b'{"alias": "a", "target": "tiny", "gates": {"trust": {"at_least": 0.5}, "evaluations": 1%s}}'
        % (b"0" * 400),
        "invalid_request",
        "gates.evaluations",
    ),
    "over the context": (
        "generate_text",
        msgspec.json.encode({**ASK, "prompt": "word " * 5000}),
        "prompt_too_long",
        "512",
    ),
    "no such generation": (
        "cancel_generation",
        b'{"generation_id": "nothing"}',
        "generation_not_found",
        "",
    ),
}


@asynccontextmanager
async def bare_connection(tmp_path: Path) -> AsyncIterator[Connection]:
    tiny_model(tmp_path / "tiny.gguf")
    async with serving(tmp_path, tmp_path / "data") as service:
        async with Connection.open(service.connection_file().access, name="bare") as connection:
            yield connection


async def test_each_refusal_has_its_code_and_says_what_to_do(tmp_path: Path) -> None:
    async with bare_connection(tmp_path) as connection:
        for case, (action, body, code, words) in REFUSED.items():
            answer = await connection.request(f"suite.action.{action}", body, timeout=20)
            reply = msgspec.json.decode(answer.data)
            assert (case, reply["status"], reply["code"]) == (case, "error", code)
            assert words in reply["message"], case
            assert len(reply["message"]) <= MESSAGE_CHARACTERS, case
            assert answer.headers["Nats-Service-Error"], case
            assert int(answer.headers["Nats-Service-Error-Code"]) >= 400, case
        health = msgspec.json.decode((await connection.request("suite.action.health_check", timeout=5)).data)
        assert health["status"] == "HEALTHY"


def test_what_is_shortened_keeps_its_end_and_is_not_shortened_again() -> None:
    short = shortened("a" * 1000 + ": do this", 100)
    assert len(short) == 100
    assert short.startswith("aaa") and " ... " in short and short.endswith(": do this")
    assert shortened(short, 100) == short


async def test_warnings_that_repeat_what_was_sent_fit_into_the_reply(tmp_path: Path) -> None:
    not_followed = {f"{number}": {"type": "integer", "multipleOf": 3} for number in range(120)}
    schema = {"properties": {"n" * 20_000: {"properties": not_followed}}}
    body = msgspec.json.encode({**ASK, "json_schema": schema})
    async with bare_connection(tmp_path) as connection:
        answer = await connection.request("suite.action.generate_text", body, timeout=20)
    reply = msgspec.json.decode(answer.data)
    assert reply["status"] == "success", reply
    assert reply["warnings"][0].startswith("json schema: /properties/nnn")
    assert reply["warnings"][0].endswith("/0/multipleOf cannot be enforced")
    assert reply["warnings"][-1] == "and 20 more warnings"


@pytest.mark.parametrize("depth", [10_000, 100_000])
async def test_deeply_nested_json_is_refused(tmp_path: Path, depth: int) -> None:
    async with bare_connection(tmp_path) as connection:
        body = b'{"model_id": ' + b"[" * depth + b"]" * depth + b"}"
        reply = msgspec.json.decode(
            (await connection.request("suite.action.load_model", body, timeout=20)).data
        )
        assert reply["code"] in ("invalid_json", "invalid_request")


async def test_a_reply_subject_that_nobody_listens_on_harms_nobody(tmp_path: Path) -> None:
    async with bare_connection(tmp_path) as connection:
        nobody = connection.new_inbox()
        for body in (ASK, {**ASK, "stream": True}, {"model_id": "nobody", "prompt": "x"}):
            await connection.publish("suite.action.generate_text", msgspec.json.encode(body), reply=nobody)
        await connection.publish("suite.action.generate_text", msgspec.json.encode(ASK))
        answer = await connection.request("suite.action.generate_text", msgspec.json.encode(ASK), timeout=20)
        assert msgspec.json.decode(answer.data)["status"] == "success"


async def test_any_text_is_generated_from(tmp_path: Path) -> None:
    tiny_model(tmp_path / "tiny.gguf")
    async with serving(tmp_path, tmp_path / "data"), suite.connect(data_dir=tmp_path / "data") as client:
        for prompt in ("\0", "\u2028", "\U0001f600" * 20, "\u202eabc", "<s></s><unk>", "%s%n{}", " "):
            reply = await client.generate_text("tiny", prompt, max_tokens=2)
            assert reply.usage.completion_tokens <= 2
