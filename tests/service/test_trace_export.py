"""Traces over gRPC: of a ratio of none what a caller samples and what fails; texts if they are asked for."""

from __future__ import annotations

import json
from pathlib import Path

import anyio.to_thread
import msgspec
import pytest

from suite.bus.connection import Connection
from suite.errors import ModelNotFound
from support.models import CHAT_TEMPLATE, tiny_model
from support.otlp import Received, otlp_over_grpc
from support.service import service_and_client

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SECRET = "Swordfish"
CONFIG = """
trace = "otlp"
trace_ratio = 0.0
trace_content = true
"""


async def test_of_a_ratio_of_none_what_a_caller_samples_and_what_fails_is_exported_with_texts(
    tmp_path: Path,
) -> None:
    config = tmp_path / "suite.toml"
    config.write_text(CONFIG)
    tiny_model(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE)
    options = (tmp_path, tmp_path / "data", "--config", str(config))
    request = {"model_id": "tiny", "messages": [{"role": "user", "content": SECRET}], "max_tokens": 3}
    with otlp_over_grpc() as collector:
        async with service_and_client(*options, environ=collector.environ) as (service, client):
            await client.generate("tiny", "not sampled", max_tokens=1).finish()
            with pytest.raises(ModelNotFound):
                await client.load_model("missing")
            async with Connection.open(service.connection_file().access, name="caller") as caller:
                answer = await caller.request(
                    "suite.action.generate_text",
                    msgspec.json.encode(request),
                    headers={"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
                    timeout=20,
                )
            every = await anyio.to_thread.run_sync(collector.wait, _is_all)
    (failed,) = [span for span in every if span.is_error]
    assert failed.name == "process suite.action.load_model"
    assert failed.attributes["error.type"] == "model_not_found"
    assert "missing" in failed.status_message
    folds = [span for span in every if span.name.startswith("fold ")]
    assert {span.trace_id for span in every if span not in folds} == {TRACE, failed.trace_id}
    assert {trace_id for span in folds for trace_id, _ in span.links} <= {TRACE}
    _check_texts(every, json.loads(answer.data))


def _is_all(spans: list[Received]) -> bool:
    return {"chat tiny", "process suite.action.load_model"} <= {span.name for span in spans}


def _check_texts(every: list[Received], reply: dict[str, str]) -> None:
    (chat,) = [span for span in every if span.name == "chat tiny"]
    (asked,) = json.loads(chat.attributes["gen_ai.input.messages"])
    assert asked == {"role": "user", "parts": [{"type": "text", "content": SECRET}]}
    (answered,) = json.loads(chat.attributes["gen_ai.output.messages"])
    assert answered["finish_reason"] == reply["finish_reason"]
    assert "".join(part["content"] for part in answered["parts"]) == reply["text"]
