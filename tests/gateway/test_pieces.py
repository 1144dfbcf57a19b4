"""Answers in pieces: signs of life, slow readers, text before tool calls, errors as HTTP has them."""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import partial
from itertools import pairwise
from typing import Any

import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.engine.prompts.tool_calls import extract_tool_calls
from suite.errors import ModelLoading, NotEnoughMemory, Overloaded, PromptTooLong
from suite.gateway.errors import error_response
from suite.gateway.openai.chat import ChatAnswer, read_chat
from suite.gateway.sse import PieceStream, comment
from suite.gateway.tool_text import TextBeforeCalls
from suite.messages.actions.chat import Function, FunctionCall, ToolCall
from suite.messages.actions.generation import GenerateTextReply, Timings, Usage
from suite.messages.signals import Chunk


class Connection:
    """What an ASGI server does with messages; it takes them while ``open`` is set."""

    def __init__(self) -> None:
        self.sent: list[MutableMapping[str, Any]] = []
        self.open = anyio.Event()

    async def send(self, message: MutableMapping[str, Any]) -> None:
        await self.open.wait()
        self.sent.append(message)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


def stream_to(connection: Connection, overflows: list[int], **options: float) -> PieceStream:
    return PieceStream(
        connection.send,
        media_type="text/event-stream",
        keep_alive=partial(comment, "loading m,\n 40%"),
        on_overflow=lambda: overflows.append(1),
        **options,  # type: ignore[arg-type]
    )


async def test_nothing_is_sent_before_the_first_piece_but_a_sign_of_life_after_a_while() -> None:
    connection = Connection()
    connection.open.set()
    stream = stream_to(connection, [], keep_alive_seconds=0.02)
    async with anyio.create_task_group() as tasks:
        assert not stream.has_begun
        tasks.start_soon(stream.run)
        with anyio.fail_after(5):
            while connection.body.count(b": loading m, 40%\n\n") < 2:
                await anyio.sleep(0.005)
        assert stream.has_begun
        stream.put(b"data: x\n\n")
        stream.end()
    assert connection.sent[0]["status"] == 200
    assert connection.body.endswith(b"data: x\n\n")
    assert not connection.sent[-1]["more_body"]


async def test_pieces_that_wait_go_out_in_one_write_and_too_many_are_told() -> None:
    connection, overflows = Connection(), list[int]()
    stream = stream_to(connection, overflows, most_unsent_bytes=100)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        for _ in range(20):
            stream.put(b"0123456789")
        assert overflows == [], "the client had no chance to read yet"
        await anyio.wait_all_tasks_blocked()  # on the client
        stream.put(b"x")
        assert overflows == [1]
        stream.end()
        connection.open.set()
    assert len(connection.sent) == 2
    assert len(connection.body) == 201


async def test_one_large_piece_is_not_too_much() -> None:
    connection, overflows = Connection(), list[int]()
    connection.open.set()
    stream = stream_to(connection, overflows, most_unsent_bytes=100)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(stream.run)
        stream.put(b"x")
        await anyio.wait_all_tasks_blocked()
        connection.open = anyio.Event()
        for large in (b"0" * 1000, b"1" * 1000):  # one that is being sent, and one that waits for that
            stream.put(large)
            await anyio.wait_all_tasks_blocked()
        assert overflows == []
        stream.put(b"y")
        assert overflows == [1]
        stream.end()
        connection.open.set()
    assert len(connection.body) == 2002


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
MARKED = (
    CALL,
    '<function=add>{"a": 1}</function>',
    '[TOOL_CALLS][{"name": "add", "arguments": {"a": 1}}]',
    '<|tool_call|>[{"name": "add", "arguments": {"a": 1}}]',
    '<|python_tag|>{"name": "add", "parameters": {"a": 1}}',
)
ALONE = ('{"name": "add", "parameters": {"a": 1}}', 'add[ARGS]{"a": 1}', '[{"name": "add", "arguments": {}}]')


@settings(deadline=None)
@given(st.data())
def test_no_piece_of_a_call_is_sent_as_text_wherever_the_pieces_are_cut(data: st.DataObject) -> None:
    call = data.draw(st.sampled_from((*MARKED, *ALONE)))
    befores = ["", "\n"] if call in ALONE else ["", "I will add. ", "a < b, and <tool ", "\n"]
    before = data.draw(st.sampled_from(befores))
    written = before + call
    assert extract_tool_calls(written, [Function(name="add")], "g").calls  # what the service takes for a call
    cuts = sorted(data.draw(st.sets(st.integers(1, len(written) - 1), max_size=12)))
    text = TextBeforeCalls(["add"])
    edges = [0, *cuts, len(written)]
    sent = "".join(text.feed(written[a:b]) for a, b in pairwise(edges))
    assert before.startswith(sent)
    assert (sent + text.rest(before.strip())).strip() == before.strip()


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["{", "<tool", "_call", "a", "dd", "text ", "[TOOL", "\n", "<|py"]), max_size=8)
)
def test_what_turns_out_to_be_no_call_is_sent_in_the_end(pieces: list[str]) -> None:
    text = TextBeforeCalls(["add"])
    assert "".join(map(text.feed, pieces)) + text.rest(None) == "".join(pieces)


def test_calls_are_streamed_with_an_index_an_id_and_their_arguments_in_pieces() -> None:
    tools = [{"type": "function", "function": {"name": "add"}}]
    asked = read_chat(msgspec.json.encode({"model": "m", "messages": [], "tools": tools, "stream": True}))
    answer = ChatAnswer(asked, id="chatcmpl-1", created=1)
    calls = tuple(
        ToolCall(id=f"call{number}", function=FunctionCall(name="add", arguments='{"a": 1}'))
        for number in range(2)
    )
    sent = answer.chunk(Chunk(index=0, text="Well. ")) + answer.chunk(Chunk(index=1, text=CALL))
    sent += answer.end(_reply(text="Well.", tool_calls=calls))
    *events, done = [line.removeprefix("data: ") for line in sent.decode().strip().split("\n\n")]
    assert done == "[DONE]"
    choices = [msgspec.json.decode(each)["choices"][0] for each in events]
    assert "".join(each["delta"].get("content", "") for each in choices).strip() == "Well."
    deltas = [delta for each in choices for delta in each["delta"].get("tool_calls", ())]
    assert [each["index"] for each in deltas] == [0, 0, 1, 1]
    first, rest = deltas[:2]
    assert (first["id"], first["type"], first["function"]["name"]) == ("call0", "function", "add")
    assert "id" not in rest
    assert first["function"]["arguments"] + rest["function"]["arguments"] == '{"a": 1}'
    assert choices[-1]["finish_reason"] == "tool_calls"


@pytest.mark.parametrize(
    ("error", "status", "headers"),
    [
        (Overloaded(retry_after_ms=1500), 429, {"retry-after": "2"}),
        (ModelLoading(retry_after_ms=900_000), 503, {"retry-after": "120"}),
        (NotEnoughMemory(), 507, {"x-should-retry": "false"}),
        (PromptTooLong(), 400, {}),
    ],
)
def test_errors_have_the_status_and_the_headers_that_clients_act_on(
    error: Any, status: int, headers: dict[str, str]
) -> None:
    response = error_response(error, "/v1/chat/completions")
    assert response.status_code == status
    assert headers.items() <= dict(response.headers).items()


def _reply(*, text: str, tool_calls: tuple[ToolCall, ...]) -> GenerateTextReply:
    return GenerateTextReply(
        text=text,
        tool_calls=tool_calls,
        model_id="m",
        generation_id="g",
        conversation_id=None,
        using_kv_cache=False,
        finish_reason="stop",
        seed=1,
        usage=Usage(prompt_tokens=1, reused_tokens=0, completion_tokens=1),
        timings=Timings(
            queue_ms=0, prompt_ms=0, time_to_first_token_ms=0, generation_ms=0, tokens_per_second=None
        ),
        seq=1,
    )
