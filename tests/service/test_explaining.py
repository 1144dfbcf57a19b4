"""What happened to models is explained from the log alone, also after a restart and for any moment."""

from __future__ import annotations

import re
from contextlib import aclosing
from datetime import datetime, timedelta
from pathlib import Path

import anyio
import pytest

import suite
from suite.client import Client
from suite.errors import (
    InvalidRequest,
    ModelNotFound,
    NotADecision,
    NotEnoughMemory,
    SuiteError,
    TimeBeforeLog,
)
from suite.messages.actions.explanation import ExplainReply
from suite.messages.decisions import NotUsed
from suite.messages.events import RequestsRefused
from support.models import slow_model
from support.service import facts, history, service_and_client

SECONDS = 30.0
TURN_SECONDS = 0.3


async def happened(client: Client, fact: str, count: int = 1) -> None:
    with anyio.fail_after(SECONDS):
        while facts(await history(client, fact.split(".")[0])).count(fact) < count:
            await anyio.sleep(0.05)


def told(reply: ExplainReply) -> str:
    """All its sentences, without figures that differ from run to run."""
    told = [each.sentences for each in reply.models] + [each.sentences for each in reply.events]
    lines = [line for sentences in told for line in sentences]
    figure = r"(, after )?[\d.]+ (MiB|GiB|KiB|ms|s)\b( of waiting)?|\d{4}-\d\d-\d\dT\S+Z|event \d+"
    lines = [line.partition(" It had not been used")[0] for line in lines]
    return "\n".join(re.sub(figure, lambda found: "" if found[1] else "~", line) for line in lines)


async def wait_in_line(client: Client) -> None:
    """Load a and use it, let b wait, be refused often, and then get the memory."""
    generation = client.generate("a", "Once", max_tokens=4000, temperature=0)
    async with (
        generation,
        aclosing(generation.__aiter__()) as chunks,  # type: ignore[type-var]
        anyio.create_task_group() as tasks,
    ):
        await anext(chunks)
        await anyio.sleep(2 * TURN_SECONDS)  # until then it would have stayed, used or not
        for _ in range(5):
            with pytest.raises(NotEnoughMemory):
                await client.load_model("b", load_wait_ms=0)
        for _ in range(3):
            tasks.start_soon(client.load_model, "b")
        with anyio.fail_after(SECONDS):
            while (model := (await client.get_model_status("b")).model) is None or model.waiting < 3:
                await anyio.sleep(0.01)
        await happened(client, "admission.wait_started")
        await client.cancel_generation(generation.generation_id)
    await happened(client, "admission.wait_ended")


async def test_what_happened_is_explained_from_the_log_after_a_restart(tmp_path: Path) -> None:
    for name in ("a", "b"):
        slow_model(tmp_path / f"{name}.gguf")
    config = tmp_path / "suite.toml"
    config.write_text(f"turn_seconds = {TURN_SECONDS}\nmemory_limit_gb = 0.3\nnode = 'box1'\n")
    options = ("--config", str(config))
    async with service_and_client(tmp_path, tmp_path / "data", *options) as (service, client):
        await happened(client, "model.registered", 2)
        begin = datetime.fromisoformat((await client.explain()).at)
        assert (await client.explain()).models == ()
        await wait_in_line(client)
        while_b = datetime.fromisoformat((await client.explain("b")).at)
        async with suite.connect(data_dir=service.data_dir, name="the test") as other:
            await other.unload_model("b")
        await client.load_model("a", keep_alive=0.0)
        await happened(client, "instance.unloaded", 3)
        await client.record_usage("a")
    async with service_and_client(tmp_path, tmp_path / "data", *options) as (_, client):
        await _explains_each_model(client)
        await _explains_each_event(client)
        await _explains_any_moment(client, begin, while_b)
        await _refuses_what_cannot_be_explained(client, begin)


async def _explains_each_model(client: Client) -> None:
    reply = await client.explain("a")
    (state,) = reply.models
    assert (state.state, state.node, state.pinned) == ("not_loaded", "box1", False)
    assert reply.events[0].seq == state.seq
    assert told(reply).splitlines() == [
        "a is not loaded on box1 since ~.",
        *2 * ["a was unloaded on box1: nobody had used it for ~, and it is kept for ~."],
        "a was loaded on box1 in ~: it takes ~, and ~ had been estimated.",
        "a began to load on box1 because 1 request needed it.",
        "It needed ~, and ~ of ~ was free.",
        "Nobody had to leave for it.",
        "a left box1 so that b could be loaded (~).",
        "With ~ more memory, nobody would have had to leave.",
        "a was loaded on box1 in ~: it takes ~, and ~ had been estimated.",
        "a began to load on box1 because 1 request needed it.",
        "It needed ~, and ~ of ~ was free.",
        "Nobody had to leave for it.",
        "box1 found a in a.gguf, ~.",
    ]
    b = told(await client.explain("b", limit=50))
    assert "b was unloaded on box1: the test asked for it." in b
    assert "The wait for b on box1 was over: 3 requests got it. The longest wait was ~." in b
    assert "Had nobody used a, it would have been loaded at once, and a would have left for it." in b
    assert len((await client.explain("b", limit=2)).events) == 2


async def _explains_each_event(client: Client) -> None:
    """Many requests are a few events, and each of them is told by its sequence."""
    waits = await history(client, "admission")
    seqs = {event.data.fact: event.seq for event in waits}
    assert len(waits) <= 4  # the first refusal may have been told before the others came
    assert sum(each.data.requests for each in waits if isinstance(each.data, RequestsRefused)) == 5
    for fact in ("refused", "wait_started"):
        reply = await client.explain(seq=seqs[fact])
        (event,) = reply.events
        assert (event.seq, event.model_id, reply.models) == (seqs[fact], "b", ())
        assert event.decision is not None
        assert NotUsed(model_id="a", starts=True, evicting=("a",)) in event.decision.alternatives


async def _explains_any_moment(client: Client, begin: datetime, while_b: datetime) -> None:
    (state,) = (await client.explain(at=while_b.isoformat())).models
    assert (state.model_id, state.state) == ("b", "loaded")
    assert state.sentences[1].startswith("b began to load on box1 because 3 requests needed it, after ")
    (then,) = (await client.explain("a", at=while_b.isoformat())).models
    assert (then.state, then.sentences[1][:36]) == ("not_loaded", "a left box1 so that b could be loade")
    (before,) = (await client.explain("a", at=begin.isoformat())).models
    assert before.sentences == ("a is not loaded on box1: the log has no load of it until then.",)
    assert (await client.explain()).models == ()


async def _refuses_what_cannot_be_explained(client: Client, begin: datetime) -> None:
    (used,) = await history(client, "usage.a.recorded")
    wrong: dict[type[SuiteError], list[dict[str, object]]] = {
        NotADecision: [{"seq": used.seq}],
        InvalidRequest: [
            {"seq": 10**9},
            {"seq": 1, "model_id": "a"},
            {"at": (begin + timedelta(days=1)).isoformat()},
            {"at": "yesterday"},
        ],
        TimeBeforeLog: [{"at": (begin - timedelta(days=1)).isoformat()}],
    }
    for error, requests in wrong.items():
        for request in requests:
            with pytest.raises(error):
                await client.explain(**request)  # type: ignore[arg-type]
    with pytest.raises(ModelNotFound, match="no model 'aa': did you mean"):
        await client.explain("aa")
