"""The process of one model: what its node, its clients and the log get from it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import anyio
import msgspec
import pytest

from suite.actors.entry import Progress
from suite.engine.gguf.signature import Signature
from suite.errors import NodeStopping
from suite.messages.actor import Failed, Loading, NatsAccess, Ready
from suite.messages.events import Generated
from suite.messages.signals import Heartbeat
from support.actors import INSTANCE, MODEL, NODE, Stage, request, stage
from support.models import CHAT_TEMPLATE, smollm2, tiny_model

ENDLESS = {"prompt": "hello", "max_tokens": 100_000}
"""The tiny model never ends by itself; a context of this many tokens lasts for many seconds."""
LONG_CONTEXT = 60_000


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "tiny.gguf", chat_template=CHAT_TEMPLATE, context=LONG_CONTEXT)


async def event_of(on: Stage, seq: int | None) -> Generated:
    found = [recorded async for recorded in on.log.read() if recorded.seq == seq]
    assert len(found) == 1
    assert isinstance(found[0].data, Generated)
    assert found[0].correlation_id == found[0].data.generation_id
    return found[0].data


async def test_it_loads_with_progress_and_says_what_it_holds(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.actor(smollm2()) as actor:
        ready = actor.reports[-1]
        assert isinstance(ready, Ready)
        assert ready.resident_bytes > smollm2().stat().st_size
        fractions = [report.fraction for report in actor.reports if isinstance(report, Loading)]
        assert fractions == sorted(fractions)
        assert fractions[-1] == 1.0


@pytest.mark.parametrize("steps", [1, 7, 90, 1000])
def test_the_end_of_a_load_is_told_once_however_finely_it_is_reported(steps: int) -> None:
    told: list[Loading] = []
    progress = Progress(told.append)
    for step in [*range(steps + 1), steps]:
        progress(step / steps)
    fractions = [report.fraction for report in told]
    assert fractions == sorted(set(fractions))
    assert fractions[-1] == 1.0
    assert len(fractions) <= 101


async def test_a_file_that_is_no_model_is_reported_with_llama_cpps_words(tmp_path: Path) -> None:
    (tmp_path / "bad.gguf").write_text("no model")
    async with stage(tmp_path) as on, on.actor(tmp_path / "bad.gguf") as actor:
        failed = actor.reports[-1]
        assert isinstance(failed, Failed)
        assert failed.code == "load_failed"
        assert "magic" in failed.message
        assert await actor.process.exit_code() == 1


async def test_a_file_that_is_not_the_one_that_the_node_saw_is_not_served(tmp_path: Path, tiny: Path) -> None:
    seen = {"paths": [str(tiny)], "signature": Signature.of([tiny]).text}
    await anyio.Path(tiny).chmod(0o600)  # only touched: the node reads it again
    async with stage(tmp_path) as on, on.actor(tiny, model_files=seen) as actor:
        assert not isinstance(actor.reports[-1], Failed)
    os.utime(tiny)
    async with stage(tmp_path) as on, on.actor(tiny, model_files=seen) as actor:
        failed = actor.reports[-1]
        assert isinstance(failed, Failed)
        assert (failed.code, "was changed while it was loaded" in failed.message) == (
            "model_file_invalid",
            True,
        )


async def test_a_streamed_generation_is_chunks_then_one_final_message_then_an_empty_one(
    tmp_path: Path, tiny: Path
) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        client = await actor.generate("g1", prompt="hello", max_tokens=20, stream=True, conversation_id="c")
        final = await client.success()
        await client.end()
        assert [chunk.index for chunk in client.chunks] == list(range(len(client.chunks)))
        assert "".join(chunk.text for chunk in client.chunks) == final.text
        kinds = [b'"kind"' in m.data or (b'"status"' in m.data and 2) for m in client.messages]
        assert kinds == [True] * (len(kinds) - 2) + [2, False]
        assert final.finish_reason == "length"
        assert final.usage.completion_tokens == 20
        assert final.warnings == ("w",)
        assert final.conversation_id == "c"
        event = await event_of(on, final.seq)
        assert (event.model_id, event.node, event.instance_id) == (MODEL, NODE, INSTANCE)
        assert (event.completion_tokens, event.outcome) == (20, "length")
        finished = await actor.finished("g1")
        assert finished.seq == final.seq


async def test_without_a_stream_there_is_the_final_message_alone(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        client = await actor.generate("g1", prompt="hello", max_tokens=5)
        final = await client.success()
        await actor.finished("g1")
        assert len(client.messages) == 1
        assert final.text
        assert final.timings.time_to_first_token_ms is not None


async def test_a_chat_goes_through_the_models_template_and_its_next_turn_reuses_it(
    tmp_path: Path, tiny: Path
) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        chat = [{"role": "user", "content": "hello there"}]
        client = await actor.generate("g1", messages=chat, max_tokens=5, conversation_id="c")
        first = await client.success()
        assert (first.usage.reused_tokens, first.using_kv_cache) == (0, False)
        chat += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "and again"}]
        client = await actor.generate("g2", messages=chat, max_tokens=5, conversation_id="c")
        second = await client.success()
        assert second.usage.reused_tokens >= first.usage.prompt_tokens
        assert second.using_kv_cache
        assert (await event_of(on, second.seq)).reused_tokens == second.usage.reused_tokens


async def test_two_generations_at_once_both_work(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        clients = [await actor.generate(f"g{n}", prompt="hello", max_tokens=30) for n in range(3)]
        texts = {(await client.success()).text for client in clients}
        assert len(texts) == 1


async def test_the_seed_is_told_and_repeats_the_text(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        fields = {"prompt": "hello", "max_tokens": 12, "temperature": 1.5}
        first = await (await actor.generate("g1", **fields)).success()
        again = await (await actor.generate("g2", **fields, seed=first.seed)).success()
        assert again.text == first.text
        assert again.seed == first.seed


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"prompt": ""}, "empty_prompt"),
        ({}, "empty_prompt"),
        ({"messages": []}, "empty_prompt"),
        ({"system_prompt": "be kind"}, "empty_prompt"),
        ({"prompt": "a b " * 600}, "prompt_too_long"),
        ({"messages": [{"role": "user", "content": "a"}]}, "no_chat_template"),
    ],
)
async def test_a_prompt_that_cannot_be_answered_is_refused(
    tmp_path: Path, fields: dict[str, object], code: str
) -> None:
    path = tiny_model(tmp_path / "tiny.gguf")
    async with stage(tmp_path) as on, on.actor(path) as actor:
        client = await actor.generate("g1", **fields, stream=True)
        assert (await client.error()).code == code
        await client.end()
        assert client.messages[-2].headers["Nats-Service-Error-Code"]
        assert (await actor.finished("g1")).seq is None
        assert (await (await actor.generate("g2", prompt="hello", max_tokens=1)).success()).text


async def test_a_chat_that_never_ends_is_given_up_and_others_go_on(tmp_path: Path) -> None:
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% if messages[0].content == 'x' %}" + loop + "{% endif %}hello"
    path = tiny_model(tmp_path / "tiny.gguf", chat_template=template)
    async with stage(tmp_path) as on, on.actor(path) as actor:
        endless, other = ([{"role": "user", "content": content}] for content in "xy")
        assert (await (await actor.generate("g1", messages=endless)).error()).code == "invalid_chat"
        assert (await (await actor.generate("g2", messages=other, max_tokens=2)).success()).text
        assert (await (await actor.generate("g3", prompt="hello", max_tokens=2)).success()).text


async def test_past_its_queue_it_answers_overloaded(tmp_path: Path, tiny: Path) -> None:
    async with (
        stage(tmp_path) as on,
        on.actor(tiny, context_tokens=LONG_CONTEXT, slots=1, queue_limit=1) as actor,
    ):
        await actor.generate("g1", **ENDLESS)
        await actor.generate("g2", **ENDLESS)
        refused = await actor.hand_over(request(prompt="a"), "g3", reply=on.client.new_inbox())
        assert refused.code == "overloaded"
        assert refused.retry_after_ms is not None and refused.retry_after_ms >= 1000
        again = await actor.hand_over(request(prompt="a"), "g1", reply=on.client.new_inbox())
        assert again.code == "generation_exists"


async def test_those_that_are_refused_are_told_to_wait_as_long_as_the_last_one_took(
    tmp_path: Path, tiny: Path
) -> None:
    async with (
        stage(tmp_path) as on,
        on.actor(tiny, context_tokens=LONG_CONTEXT, slots=1, queue_limit=0) as actor,
    ):
        client = await actor.generate("g1", **ENDLESS, stream=True)
        await client.until(31)  # chunks, twenty a second at most
        assert await actor.cancel("g1")
        await actor.finished("g1")
        await actor.generate("g2", **ENDLESS)
        hints = [
            (await actor.hand_over(request(prompt="a"), id, reply=on.client.new_inbox())).retry_after_ms
            for id in ("g3", "g4")
        ]
        assert hints[0] is not None and hints[0] > 1000
        assert hints[1] == hints[0]


async def test_cancelling_ends_what_runs_and_what_waits(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT, slots=1) as actor:
        running = await actor.generate("g1", **ENDLESS, stream=True)
        await running.until(1)
        waiting = await actor.generate("g2", **ENDLESS)
        assert await actor.cancel("g2")
        never_ran = await waiting.success()
        assert (never_ran.finish_reason, never_ran.text) == ("cancelled", "")
        assert await actor.cancel("g1")
        final = await running.success()
        await running.end()
        assert final.finish_reason == "cancelled"
        assert final.text == "".join(chunk.text for chunk in running.chunks) != ""
        assert (await event_of(on, final.seq)).outcome == "cancelled"
        assert (await event_of(on, never_ran.seq)).completion_tokens == 0
        await actor.finished("g1")
        assert not await actor.cancel("g1")


async def test_one_that_waits_shows_that_it_does(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT, slots=1) as actor:
        await (await actor.generate("g1", **ENDLESS, stream=True)).until(1)
        waiting = await actor.generate("g2", **ENDLESS, stream=True)
        await waiting.until(1)
        assert isinstance(waiting.signals[0], Heartbeat)


async def test_a_client_that_is_gone_frees_its_place(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT) as actor:
        client, subscription = await actor.listening("g1", **ENDLESS, stream=True)
        await client.until(1)
        await subscription.unsubscribe()
        await anyio.sleep(0.2)  # many chunks that nobody receives
        subscription = await actor.listen_again(client, subscription)
        await client.until(len(client.messages) + 1)  # it has only connected again
        await subscription.unsubscribe()
        finished = await actor.finished("g1")
        assert finished.outcome == "client_gone"
        assert (await event_of(on, finished.seq)).outcome == "client_gone"
        assert (await (await actor.generate("g2", prompt="hello", max_tokens=1)).success()).text


async def test_one_that_waits_and_whose_client_is_gone_is_not_run(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT, slots=1) as actor:
        await (await actor.generate("g1", **ENDLESS, stream=True)).until(1)
        _, subscription = await actor.listening("g2", **ENDLESS, stream=True)
        await subscription.unsubscribe()
        finished = await actor.finished("g2")
        assert (finished.outcome, finished.completion_tokens) == ("client_gone", 0)


async def test_told_to_end_it_gives_every_client_a_last_message(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT) as actor:
        streamed = await actor.generate("g1", **ENDLESS, stream=True)
        waiting = await actor.generate("g2", **ENDLESS)
        await streamed.until(1)
        os.kill(actor.process.pid, signal.SIGTERM)
        assert (await streamed.error()).code == "model_unloading"
        assert (await waiting.error()).code == "model_unloading"
        await streamed.end()
        assert await actor.process.exit_code() == 0
        outcomes = [recorded.data async for recorded in on.log.read()]
        assert [event.outcome for event in outcomes if isinstance(event, Generated)] == ["cancelled"] * 2


async def test_told_why_it_is_to_end_it_tells_its_clients(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT) as actor:
        streamed = await actor.generate("g1", **ENDLESS, stream=True)
        await streamed.until(1)
        await actor.process.stop(NodeStopping("a reason"))
        error = await streamed.error()
        assert (error.code, error.message) == ("node_stopping", "a reason")
        assert await actor.process.exit_code() == 0


async def test_told_to_end_while_it_loads_it_ends_at_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as on, on.actor(smollm2(), wait=False) as actor:
        await actor.reported(Loading)
        os.kill(actor.process.pid, signal.SIGTERM)
        assert await actor.process.exit_code() == 0
        assert not any(isinstance(report, Ready) for report in actor.reports)


async def test_ctrl_c_does_not_reach_it(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        os.kill(actor.process.pid, signal.SIGINT)
        assert (await (await actor.generate("g1", prompt="hello", max_tokens=2)).success()).text


async def test_it_ends_with_its_node_even_while_it_decodes(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny, context_tokens=LONG_CONTEXT) as actor:
        client = await actor.generate("g1", **ENDLESS, stream=True)
        await client.until(1)
        stdin = actor.process._process.stdin
        assert stdin is not None
        await stdin.aclose()
        with anyio.fail_after(5):
            assert await actor.process.exit_code() == 1


async def test_an_event_that_cannot_be_appended_is_an_error_for_the_client(
    tmp_path: Path, tiny: Path
) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        info = await on.node.request("$JS.API.STREAM.INFO.SUITE", timeout=5)
        config = msgspec.json.decode(info.data)["config"]
        sealed = msgspec.json.encode({**config, "sealed": True})
        await on.node.request("$JS.API.STREAM.UPDATE.SUITE", sealed, timeout=5)
        client = await actor.generate("g1", prompt="hello", max_tokens=2, stream=True)
        assert (await client.error()).code == "unavailable"
        await client.end()
        finished = await actor.finished("g1")
        assert (finished.seq, finished.completion_tokens) == (None, 2)


async def test_an_actor_that_cannot_reach_nats_says_so(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on:
        nowhere = NatsAccess(url="nats://127.0.0.1:1")
        async with on.actor(tiny, nats=nowhere) as actor:
            failed = actor.reports[-1]
            assert isinstance(failed, Failed)
            assert failed.code == "unavailable"


async def test_what_else_is_printed_does_not_spoil_the_reports(tmp_path: Path, tiny: Path) -> None:
    async with stage(tmp_path) as on, on.actor(tiny) as actor:
        outputs = [await anyio.Path(f"/proc/{actor.process.pid}/fd/{n}").readlink() for n in (1, 2)]
        assert outputs[0] == outputs[1]
