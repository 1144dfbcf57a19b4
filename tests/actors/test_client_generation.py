"""What a client gets of one generation, and when, whatever it asks for and whatever else is asked."""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import suite.actors.choice
from suite.actors.attachments import Attachments
from suite.actors.generation import ClientGeneration, GenerationResources
from suite.actors.pictures import Pictures
from suite.engine.grammar.grammar import Grammars
from suite.engine.llama_model import ContextSettings
from suite.engine.prompts.prompt import Prompter
from suite.engine.sampler import Sampler
from suite.engine.thread import EngineThread
from suite.errors import GenerationFailed
from suite.identity import new_id, utc_now
from suite.messages.actor import Finished, Handover
from suite.messages.events import Generated
from suite.messages.subjects import Subjects
from support.actors import Client, Stage, request, spec, stage
from support.models import CHAT_TEMPLATE, tiny_model

SLOW = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
SLOW_FOR_X = "{% if messages[0].content == 'x' %}" + SLOW + "{% endif %}" + CHAT_TEMPLATE
X = [{"role": "user", "content": "x"}]
ADD = [{"type": "function", "function": {"name": "add"}}]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", chat_template=SLOW_FOR_X, context=4096)


# --- log probabilities ------------------------------------------------------------------------------------

MANY = {"prompt": "hello", "max_tokens": 1500, "logprobs": 20}
"""Its log probabilities are more than a message can hold."""


async def test_the_log_probabilities_of_a_stream_are_in_its_chunks(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=4096) as actor:
        client = await actor.generate("g1", **MANY, stream=True)
        final = await client.success()
        await client.end()
        assert (final.finish_reason, final.usage.completion_tokens, final.logprobs) == ("length", 1500, None)
        assert sum(len(chunk.logprobs or ()) for chunk in client.chunks) == 1500


async def test_without_a_stream_the_text_comes_also_when_its_log_probabilities_do_not_fit(
    tmp_path: Path, tiny: Path
) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=4096) as actor:
        few = await (await actor.generate("g1", **{**MANY, "max_tokens": 20})).success()
        assert few.logprobs is not None
        assert (len(few.logprobs), few.warnings) == (20, ("w",))
        many = await (await actor.generate("g2", **MANY)).success()
        assert (many.usage.completion_tokens, many.logprobs) == (1500, None)
        assert many.text.startswith(few.text)
        assert "logprobs are left out" in many.warnings[-1]


# --- while it is prepared ---------------------------------------------------------------------------------


async def test_what_is_prepared_ends_by_its_deadline_and_by_a_cancel(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        grammar = "root ::= [a-z]+"
        overdue = await actor.generate("g1", prompt="hello", grammar=grammar, deadline_ms=1, stream=True)
        late = await actor.generate("g2", messages=X, deadline_ms=50)
        unwanted = await actor.generate("g3", messages=X)
        assert await actor.cancel("g3")
        for client, outcome in ((overdue, "deadline"), (late, "deadline"), (unwanted, "cancelled")):
            final = await client.success()
            assert (final.finish_reason, final.text, final.usage.prompt_tokens) == (outcome, "", 0)
        outcomes = [
            recorded.data.outcome async for recorded in on.log.read() if isinstance(recorded.data, Generated)
        ]
        assert sorted(outcomes) == ["cancelled", "deadline", "deadline"]
        assert (await actor.finished("g3")).outcome == "cancelled"


async def test_nobody_waits_for_what_another_has_prepared(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        slow = await actor.generate("g1", messages=X, max_tokens=2)
        for id, fields in (("g2", {"prompt": "hello"}), ("g3", {"messages": [{**X[0], "content": "y"}]})):
            assert (await (await actor.generate(id, **fields, max_tokens=2)).success()).text
        assert not slow.messages
        assert (await slow.error()).code == "invalid_chat"


# --- when something fails that nobody thought of ----------------------------------------------------------


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model(tmp_path_factory.mktemp("answer") / "tiny.gguf", chat_template="{{ tools }}x")


@pytest.fixture(scope="module")
def engine(path: Path) -> EngineThread:
    settings = ContextSettings(
        context_tokens=256, cache_tokens=256, batch_tokens=64, gpu_layers=0, threads=1, slots=1
    )
    engine = EngineThread(str(path), settings, lambda _: None)
    engine.start()
    return engine


@asynccontextmanager
async def resources_of(on: Stage, path: Path, engine: EngineThread) -> AsyncIterator[GenerationResources]:
    prompter = Prompter(engine.loaded.result().vocabulary, 256, utc_now, new_id)
    grammars = Grammars(str(path))
    yield GenerationResources(
        moving=None,
        spec=spec(path, nats=on.server.access),
        connection=on.node,
        log=on.log,
        engine=engine,
        prompter=prompter,
        pictures=Pictures(engine, Attachments(on.node, Subjects(), new_id), new_id, context_tokens=256),
        grammars=grammars,
        clock=time.monotonic,
        new_seed=lambda: 1,
    )
    prompter.close()
    grammars.close()


async def answer(
    on: Stage, resources: GenerationResources, generation_id: str, **fields: object
) -> tuple[Client, Finished]:
    client, inbox = Client(), on.client.new_inbox()
    await on.client.subscribe(inbox, client.receive)
    handover = Handover(generation_id=generation_id, request=request(**fields))
    return client, await ClientGeneration(
        handover, reply=inbox, receipt=on.node.new_inbox(), resources=resources
    ).run({})


async def test_a_fault_at_its_end_is_an_error_for_the_client_and_ends_nothing_else(
    tmp_path: Path,
    path: Path,
    engine: EngineThread,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    chat = {"messages": X, "tools": ADD, "max_tokens": 2}
    async with stage(tmp_path) as on, resources_of(on, path, engine) as resources:
        with monkeypatch.context() as patch, caplog.at_level(logging.ERROR):
            patch.setattr(suite.actors.choice, "extract_tool_calls", fail)
            client, _ = await answer(on, resources, "g1", **chat, stream=True)
        assert (await client.error()).code == "internal"
        await client.end()
        assert "ZeroDivisionError" in caplog.text
        client, finished = await answer(on, resources, "g2", **chat)
        assert (await client.success()).usage.completion_tokens == finished.completion_tokens == 2


async def test_one_answer_that_fails_ends_the_others(
    tmp_path: Path, path: Path, engine: EngineThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    accept = Sampler.accept_prompt

    def fail_first(self: Sampler, prompt: Sequence[int]) -> None:
        if self._sampling.seed == 7:
            raise GenerationFailed
        accept(self, prompt)

    monkeypatch.setattr(Sampler, "accept_prompt", fail_first)
    async with stage(tmp_path) as on, resources_of(on, path, engine) as resources:
        asked = {"prompt": "hello", "max_tokens": 200, "n": 2, "temperature": 1.0}
        client, finished = await answer(on, resources, "g1", **asked, seed=7)
        assert ((await client.error()).code, finished.outcome) == ("generation_failed", "failed")
        client, finished = await answer(on, resources, "g2", **asked, seed=8)
        assert len((await client.success()).choices) == 2
        outcomes = [each.data.outcome async for each in on.log.read() if isinstance(each.data, Generated)]
        assert outcomes == ["failed", finished.outcome]


async def test_tools_that_may_not_be_called_are_not_called(
    tmp_path: Path, path: Path, engine: EngineThread
) -> None:
    call = '{"name": "add", "arguments": {}}'
    grammar = 'root ::= "' + call.replace('"', '\\"') + '"'
    add = {"name": "add", "parameters": {"type": "object", "additionalProperties": False}}
    chat = {"messages": X, "tools": [{"type": "function", "function": add}], "max_tokens": 60}
    async with stage(tmp_path) as on, resources_of(on, path, engine) as resources:
        one = {"tool_choice": "required", "parallel_tool_calls": False}
        called = await (await answer(on, resources, "g1", **chat, **one))[0].success()
        assert called.tool_calls is not None and called.text == ""
        silent = await (await answer(on, resources, "g2", **chat, grammar=grammar, tool_choice="none"))[
            0
        ].success()
        assert (silent.tool_calls, silent.text) == (None, call)
