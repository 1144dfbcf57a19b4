"""A pinned model stays loaded and a benchmark goes on, whatever becomes of the node that had it."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio

from suite.client import Client
from suite.errors import RequestTimeout
from suite.messages.actions.benchmark import RunBenchmarkReply
from suite.messages.events import BenchmarkProgressed, Event, ModelPinned, ModelUnpinned
from support.fleet import fleet
from support.models import slow_model, tiny_model
from support.service import history

SECONDS = 60.0
ROUNDS = 6
"""Of a model that takes so long for each that the first is noted while the others are still to come."""


async def test_another_node_keeps_and_measures_what_a_node_that_died_had_and_one_copy_is_enough(
    tmp_path: Path,
) -> None:
    models = tmp_path / "models"
    models.mkdir()
    for name in ("any", "bound"):
        slow_model(models / f"{name}.gguf")
    tiny_model(models / "dropped.gguf")
    async with fleet({"box1": models, "box2": models}, tmp_path) as found:
        first = (await found.client.pin_model("any")).node
        other = "box2" if first == "box1" else "box1"
        await found.client.on_node(first).pin_model("bound")
        await found.client.on_node(first).load_model("dropped")
        assert (await found.client.pin_model("dropped")).node == first
        with anyio.fail_after(SECONDS):
            await pinned_and_loaded(found.client, "any", first)
            moving = await begun(found.client, "any")
            staying = await begun(found.client.on_node(first), "bound")
            assert moving.runs_on == staying.runs_on == first
            await a_round_noted(found.client, moving.benchmark_id)
            await found.nodes[first].kill()
            try:
                await found.client.unpin_model("dropped")
            except RequestTimeout:  # NATS still gave it to the node that has just died
                await found.client.unpin_model("dropped")
            moved = await happened(found.client, "model.any.pinned", number=2)
            assert isinstance(moved, ModelPinned)
            assert (moved.node, moved.may_move) == (other, True)
            await pinned_and_loaded(found.client, "any", other)
            dropped = (await found.client.get_model_status("dropped")).model
            assert dropped is not None and dropped.pinned_on == (), "it was unpinned while its node was lost"
            ended = await found.client.follow_benchmark(moving.benchmark_id)
            assert (ended.runs_on, ended.state) == (other, "finished") and ended.result is not None
            (speed,) = ended.result.speed
            assert speed.latency_ms.samples == ROUNDS
            assert await rounds_noted(found.client, moving.benchmark_id) > ROUNDS, "they were measured anew"
            (listed,) = (await found.client.get_benchmarks("any", min_seq=ended.seq)).benchmarks
            assert (listed.runs_on, listed.done, listed.total) == (other, ROUNDS, ROUNDS)
            waiting = await found.client.follow_benchmark(staying.benchmark_id, wait=False)
            assert (waiting.runs_on, waiting.state) == (first, "open"), "that node was named"
            async with found.node(first, models):
                unpinned = await happened(found.client, "model.any.unpinned")
                assert isinstance(unpinned, ModelUnpinned)
                # Either may keep it, if the node that is back has loaded it before anyone looked.
                keeps = other if unpinned.node == first else first
                await pinned_and_loaded(found.client, "any", keeps)
                await pinned_and_loaded(found.client, "bound", first)


async def begun(client: Client, model_id: str) -> RunBenchmarkReply:
    return await client.run_benchmark(
        model_id, streams=(1,), rounds=ROUNDS, prompt_tokens=8, answer_tokens=400, wait=False
    )


async def a_round_noted(client: Client, benchmark_id: str) -> None:
    """Wait for the first round: before it, the log may be told that it waits for the loads of others."""
    async with aclosing(client.events(f"benchmark.{benchmark_id}.progressed", follow=True)) as events:
        async for each in events:
            if isinstance(each.data, BenchmarkProgressed) and each.data.rounds:
                return


async def rounds_noted(client: Client, benchmark_id: str) -> int:
    """How many rounds of a benchmark stand in the log, on whichever node."""
    noted = [each.data for each in await history(client, f"benchmark.{benchmark_id}.progressed")]
    return sum(len(each.rounds) for each in noted if isinstance(each, BenchmarkProgressed))


async def pinned_and_loaded(client: Client, model_id: str, node: str) -> None:
    """Wait until a model is pinned and loaded on this node, and pinned on no other."""
    while True:
        info = (await client.get_model_status(model_id)).model
        if (
            info is not None
            and info.pinned_on == (node,)
            and any(each.node == node for each in info.instances)
        ):
            return
        await anyio.sleep(0.1)


async def happened(client: Client, filter: str, *, number: int = 1) -> Event:
    """The event of that number under a filter, once it is there."""
    async with aclosing(client.events(filter, follow=True)) as events:
        for _ in range(number - 1):
            await anext(events)
        return (await anext(events)).data
