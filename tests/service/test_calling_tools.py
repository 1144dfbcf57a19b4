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
    given = {"messages": chat, "tools": TOOLS, "max_tokens": 120, "temperature": 0.0, **fields}
    return await client.generate_text(SMOL, **given)


def called(reply: GenerateTextReply) -> list[str]:
    """The functions that were called, of which the arguments keep to their schemas."""
    calls = reply.tool_calls or ()
    for call in calls:
        schema = WEATHER if call.function.name == "weather" else {"maxProperties": 0}
        jsonschema.validate(json.loads(call.function.arguments), schema)
    return [call.function.name for call in calls]


async def test_a_call_is_made_where_it_is_required(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        reply = await ask(client, tool_choice="required", parallel_tool_calls=False)
        assert called(reply) in (["weather"], ["now"])
        assert (reply.text, reply.finish_reason, reply.warnings) == ("", "stop", ())


async def test_the_function_that_is_named_is_called(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        for name in ("now", "weather"):
            choice = NamedToolChoice(function=FunctionName(name=name))
            assert called(await ask(client, tool_choice=choice)) == [name]
        with pytest.raises(InvalidRequest, match="no tool 'tomorrow'"):
            await ask(client, tool_choice=NamedToolChoice(function=FunctionName(name="tomorrow")))


async def test_two_calls_come_at_once_where_they_may(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        going_on = {"logit_bias": {"0": -100.0, "2": -100.0}}  # the model would rather not end its answer
        reply = await ask(client, tool_choice="required", **going_on)
        assert len(called(reply)) >= 2
        single = await ask(client, tool_choice="required", parallel_tool_calls=False, **going_on)
        assert len(called(single)) == 1 and single.text == ""


async def test_a_call_that_the_model_begins_itself_follows_the_schema(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        begun = '<tool_call>\n{"name": "weather", "arguments": {"'
        chat = [{"role": "user", "content": f"Repeat: {begun}city"}]
        free = await ask(client, messages=chat, grammar=None)
        assert set(called(free)) <= {"weather", "now"}
        streamed = client.generate(SMOL, messages=chat, tools=TOOLS, max_tokens=20, tool_choice="required")
        text = "".join([chunk.text async for chunk in streamed])
        assert text.startswith("<tool_call>")


async def test_structured_output_is_no_call_though_it_looks_like_one(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        schema = {
            "type": "object",
            "properties": {"name": {"const": "now"}, "arguments": {"type": "object", "maxProperties": 0}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        described = ResponseFormat(type="json_schema", schema=schema)
        reply = await ask(client, response_format=described, logit_bias={})
        if reply.tool_calls is None:
            assert json.loads(reply.text) == {"name": "now", "arguments": {}}
        plain = await ask(client, tool_choice="none", response_format=described)
        assert (plain.tool_calls, json.loads(plain.text)) == (None, {"name": "now", "arguments": {}})


async def test_schemas_that_cannot_be_followed_are_named_or_refused(data_dir: Path) -> None:
    async with suite.connect(data_dir=data_dir) as client:
        reply = await ask(
            client, tools=(tool("broken", BROKEN), *TOOLS), tool_choice="required", max_tokens=4
        )
        (warning,) = reply.warnings
        assert warning.startswith("tool 'broken': /properties/a/type: ")
        choice = NamedToolChoice(function=FunctionName(name="broken"))
        with pytest.raises(InvalidSchema, match="tool 'broken'"):
            await ask(client, tools=(tool("broken", BROKEN), *TOOLS), tool_choice=choice)
        with pytest.raises(SchemaNotSupported, match="tool 'unfollowed'"):
            await ask(client, tools=(tool("unfollowed", UNFOLLOWED, True), *TOOLS))
        with pytest.raises(InvalidSchema, match="/properties/a/type"):
            await ask(client, tools=(), json_schema=BROKEN)
