"""Tool calls by a real model: whether, which and how many as the request says, their arguments by schemas."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from anyio.from_thread import start_blocking_portal

import suite
from suite.client import Client
from suite.errors import InvalidRequest, InvalidSchema, SchemaNotSupported
from suite.messages.actions.chat import Function, FunctionName, NamedToolChoice, ResponseFormat, Tool
from suite.messages.actions.generation import GenerateTextReply
from support.models import smollm2
from support.service import serving

SMOL = smollm2().stem
TEMPLATE = (
    "{% if tools %}<|im_start|>system\nCall functions, each within <tool_call></tool_call> tags, as "
    '{"name": ..., "arguments": ...}:\n{{ tools | tojson }}<|im_end|>\n{% endif %}'
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""SmolLM2's own, which knows of no tools, with tools as Hermes and Qwen have them."""
WEATHER: dict[str, Any] = {
    "type": "object",
    "properties": {
        "city": {"enum": ["Paris", "Rome", "Oslo"]},
        "days": {"type": "integer", "minimum": 1, "maximum": 5},
    },
    "required": ["city", "days"],
}
BROKEN: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "text"}}}
UNFOLLOWED: dict[str, Any] = {"properties": {"a": {"type": "integer", "multipleOf": 3}}}


def tool(name: str, parameters: dict[str, Any] | None, strict: bool | None = None) -> Tool:
    return Tool(function=Function(name=name, parameters=parameters, strict=strict))


TOOLS = (tool("weather", WEATHER), tool("now", None))


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a service that goes on from test to test, with the model loaded."""
    directory = tmp_path_factory.mktemp("tools")
    template, config = directory / "template.jinja", directory / "suite.toml"
    template.write_text(TEMPLATE)
    config.write_text(f"[models.\"{SMOL}\"]\nchat_template = '{template}'\n")
    service = serving(smollm2().parent, directory / "suite", "--config", str(config))
    with start_blocking_portal() as portal, portal.wrap_async_context_manager(service):
        yield directory / "suite"


async def ask(client: Client, **fields: Any) -> GenerateTextReply:
    chat = [{"role": "user", "content": "The weather of the next 2 days in Rome, and in Oslo?"}]
    given = {"messages": chat, "tools": TOOLS, "max_tokens": 60, "temperature": 0.0, **fields}
    return await client.generate_text(SMOL, **given)


def named(name: str) -> NamedToolChoice:
    return NamedToolChoice(function=FunctionName(name=name))


def called(reply: GenerateTextReply) -> list[str]:
    """The functions that were called, of which the arguments keep to their schemas."""
    calls = reply.tool_calls or ()
    for call in calls:
        schema = WEATHER if call.function.name == "weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.function.arguments), schema)
    return [call.function.name for call in calls]


async def test_there_are_as_many_calls_as_may_be(data_dir: Path) -> None:
    going_on = {"logit_bias": {"0": -100.0, "2": -100.0}}  # the model would rather not end its answer
    async with suite.connect(data_dir=data_dir) as client:
        short = (tool("now", None), tool("today", None))
        reply = await ask(client, tools=short, tool_choice="required", max_tokens=80, **going_on)
        assert len(called(reply)) >= 2
        single = await ask(client, tool_choice="required", parallel_tool_calls=False, **going_on)
    assert len(called(single)) == 1
    assert (single.text, single.finish_reason, single.warnings) == ("", "stop", ())


async def test_the_function_that_is_named_is_called(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        assert called(await ask(client, tool_choice=named("now"))) == ["now"]
        with pytest.raises(InvalidRequest, match="no tool 'tomorrow'"):
            await ask(client, tool_choice=named("tomorrow"))


async def test_structured_output_is_no_call_though_it_looks_like_one(data_dir: Path) -> None:
    schema = {"const": {"name": "now", "arguments": {}}}
    described = ResponseFormat(type="json_schema", schema=schema)
    async with suite.connect(data_dir=data_dir) as client:
        for choice in ("auto", "none"):
            reply = await ask(client, tool_choice=choice, response_format=described)
            # With `auto` the model may call as well, in the form that tells calls apart.
            assert called(reply) or json.loads(reply.text) == schema["const"]
        assert reply.tool_calls is None


async def test_schemas_that_cannot_be_followed_are_named_or_refused(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        reply = await ask(
            client, tools=(tool("broken", BROKEN), *TOOLS), tool_choice="required", max_tokens=4
        )
        (warning,) = reply.warnings
        assert warning.startswith("tool 'broken': /properties/a/type: ")
        with pytest.raises(InvalidSchema, match="tool 'broken'"):
            await ask(client, tools=(tool("broken", BROKEN), *TOOLS), tool_choice=named("broken"))
        with pytest.raises(SchemaNotSupported, match="tool 'unfollowed'"):
            await ask(client, tools=(tool("unfollowed", UNFOLLOWED, True), *TOOLS))
        with pytest.raises(InvalidSchema, match="/properties/a/type"):
            await ask(client, tools=(), json_schema=BROKEN)
