"""Requests about the fleet are answered for the fleet, whichever node takes them."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import anyio
import msgspec
import pytest
import pytest_asyncio

from suite.bus.connection import Connection, Message
from suite.client import Client
from suite.errors import (
    Cancelled,
    GenerationExists,
    GenerationNotFound,
    ModelNotFound,
    NodeStopping,
    RequestTimeout,
    Unavailable,
)
from suite.messages.actions.benchmark import RunBenchmarkReply
from suite.messages.subjects import Subjects
from suite.node.fleet.peers import LOST_SECONDS
from support.command import Command
from support.fleet import PATIENCE_SECONDS, Fleet, access, fleet
from support.lasting import lasting
from support.models import CHAT_TEMPLATE, tiny_model
from support.nats import operator_of

pytestmark = pytest.mark.asyncio(loop_scope="module")

NODES = ("box1", "box2", "box3")
SUBJECTS = Subjects("suite")
REQUESTS = 10 * int(os.environ.get("SUITE_FAULT_ROUNDS", "4"))
"""Of each kind; 200 in the long form, with 20 rounds."""
AT_ONCE = 8


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def three(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Fleet]:
    """Each node has a model of its own, one that all have, and one whose file is another on box3."""
    directory = tmp_path_factory.mktemp("three")
    models = {name: directory / f"models-{name}" for name in NODES}
    for name, each in models.items():
        each.mkdir()
        tiny_model(each / f"of-{name}.gguf", context=4096)
        tiny_model(each / "shared.gguf", chat_template=CHAT_TEMPLATE, context=4096)
        tiny_model(each / "odd.gguf", seed=int(name == "box3"))
    async with lasting(patient(fleet(models, directory))) as found:
        yield found


@asynccontextmanager
async def patient(started: AbstractAsyncContextManager[Fleet]) -> AsyncIterator[Fleet]:
    """A fleet whose client waits longer than others do: disks of busy machines stand still for seconds."""
    async with started as found:
        patience = PATIENCE_SECONDS
        client = operator_of(found.server, request_seconds=patience, silence_seconds=patience)
        async with client as found.client:
            yield found


async def many(work: Callable[[int], Awaitable[None]], count: int = REQUESTS) -> None:
    """Do so many pieces of work, several at a time."""
    numbers = iter(range(count))

    async def do() -> None:
        for number in numbers:
            await work(number)

    async with anyio.create_task_group() as tasks:
        for _ in range(AT_ONCE):
            tasks.start_soon(do)


async def loaded_on(client: Client, model_id: str) -> list[str]:
    status = await client.get_model_status(model_id)
    assert status.model is not None
    return sorted(each.node for each in status.model.instances)


async def unloaded(client: Client, *model_ids: str) -> None:
    for each in model_ids:
        await client.unload_model(each)


async def load_everywhere(three: Fleet, model_id: str) -> None:
    """Load it on each node, also on one that a busy machine keeps from hearing the others for a while."""
    with anyio.fail_after(PATIENCE_SECONDS):
        for name in NODES:
            while True:
                with suppress(NodeStopping):
                    await three.client.on_node(name).load_model(model_id)
                    break


async def test_loads_reach_the_node_that_has_the_model(three: Fleet) -> None:
    async def load(number: int) -> None:
        name = NODES[number % 3]
        reply = await three.client.load_model(f"of-{name}")
        assert (reply.node, reply.loaded) == (name, True)

    await many(load)
    assert [await loaded_on(three.client, f"of-{name}") for name in NODES] == [[name] for name in NODES]
    await unloaded(three.client, *(f"of-{name}" for name in NODES))


async def test_what_is_loaded_gets_no_second_copy(three: Fleet) -> None:
    async def use(number: int) -> None:
        if number % 2:
            await three.client.load_model("shared")
        else:
            await three.client.generate_text("shared", "Once", max_tokens=1)

    await many(use)
    assert len(await loaded_on(three.client, "shared")) == 1
    await unloaded(three.client, "shared")


async def test_a_cancel_reaches_the_generation_wherever_it_is(three: Fleet) -> None:
    """Also one that still waits, for its model or for a slot, or is on its way from one node to another."""
    ends: list[str] = []

    async with Connection.open(three.server.access, name="canceller") as connection:

        async def cancel(number: int) -> None:
            id, inbox, is_over = f"cancel-{number}", connection.new_inbox(), anyio.Event()
            body = {"model_id": f"of-{NODES[number % 3]}", "prompt": "Once", "max_tokens": 3900}

            async def hear(message: Message) -> None:
                if not is_over.is_set():  # the first terminal message wins
                    answer = msgspec.json.decode(message.data)
                    ends.append(answer.get("code") or answer["finish_reason"])
                    is_over.set()

            subscription = await connection.listen(inbox, hear)
            generate = msgspec.json.encode({**body, "generation_id": id})
            await connection.publish(SUBJECTS.action("generate_text"), generate, reply=inbox)
            answer = await connection.request(
                SUBJECTS.action("cancel_generation"), msgspec.json.encode({"generation_id": id}), timeout=10
            )
            assert msgspec.json.decode(answer.data)["status"] == "success", answer.data
            with anyio.fail_after(PATIENCE_SECONDS):
                await is_over.wait()
            await subscription.unsubscribe()

        await many(cancel)
    assert ends == ["cancelled"] * REQUESTS
    with pytest.raises(GenerationNotFound):
        await three.client.cancel_generation("cancel-0")
    await unloaded(three.client, *(f"of-{name}" for name in NODES))


async def test_a_generation_id_counts_once(three: Fleet) -> None:
    """Two requests with the same id at the same moment on two nodes: one of them is refused."""
    await load_everywhere(three, "shared")

    async def twice(number: int) -> None:
        outcomes: list[str] = []

        async def generate(name: str) -> None:
            client, id = three.client.on_node(name), f"once-{number}"
            try:
                reply = await client.generate_text("shared", "Once", max_tokens=3000, generation_id=id)
                assert reply.node == name
                outcomes.append(reply.finish_reason)
            except Cancelled as error:  # before a process had it
                outcomes.append(error.code)
            except GenerationExists as error:
                assert error.node == name
                outcomes.append(error.code)
                await three.client.cancel_generation(id)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(generate, NODES[number % 3])
            tasks.start_soon(generate, NODES[(number + 1) % 3])
        assert sorted(outcomes) == ["cancelled", "generation_exists"]
        # When it has ended, it may be used again, on another node too.
        await free_again(three.client.on_node(NODES[(number + 2) % 3]), f"once-{number}")

    await many(twice, REQUESTS // 2)
    await unloaded(three.client, "shared")


async def free_again(client: Client, generation_id: str) -> None:
    """Wait until a generation with this id is taken."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            with suppress(GenerationExists):
                await client.generate_text("shared", "Once", max_tokens=1, generation_id=generation_id)
                return


async def test_a_clear_leaves_nothing_on_any_node(three: Fleet) -> None:
    await load_everywhere(three, "shared")

    async def talk(number: int) -> None:
        client = three.client.on_node(NODES[number % 3])
        message = {"role": "user", "content": f"This is message {number}"}
        await client.generate_text(
            "shared", messages=[message], max_tokens=2, conversation_id=f"talk-{number}"
        )

    await many(talk)
    cleared = await three.client.clear_kv_cache(model_id="shared")
    assert cleared.cleared_conversations > 3
    assert cleared.cleared_tokens > 0
    for name in NODES:
        left = await three.client.on_node(name).clear_kv_cache(model_id="shared")
        assert left.cleared_conversations == 0, name
    await unloaded(three.client, "shared")


async def test_an_unload_leaves_no_copy(three: Fleet) -> None:
    await load_everywhere(three, "shared")
    assert await loaded_on(three.client, "shared") == list(NODES)
    alone = await three.client.on_node("box2").unload_model("shared")
    assert (alone.node, alone.message) == ("box2", "shared is unloaded")
    assert await loaded_on(three.client, "shared") == ["box1", "box3"]
    reply = await three.client.unload_model("shared")
    assert reply.message.endswith("is unloaded on box1, box3") or reply.message.endswith("on box3, box1")
    assert reply.freed_bytes > 0
    assert await loaded_on(three.client, "shared") == []
    for _ in range(REQUESTS):  # whichever node takes it
        again = await three.client.unload_model("of-box2")
        assert again.message == "of-box2 was not loaded"
    with pytest.raises(ModelNotFound):
        await three.client.unload_model("of-box9")


async def test_lists_and_statuses_are_complete(three: Fleet) -> None:
    for name in NODES:
        await three.client.load_model(f"of-{name}")
    client = three.client

    async def look(number: int) -> None:
        match number % 4:
            case 0:
                listed = {each.model_id: each for each in (await client.list_models()).models}
                assert sorted(listed) == ["odd", *(f"of-{name}" for name in NODES), "shared"]
                assert all(listed[f"of-{name}"].nodes == (name,) for name in NODES)
                assert set(listed["shared"].nodes) == set(NODES)
            case 1:
                status = await client.get_model_status()
                assert status.models is not None
                running = {id: [at.node for at in each.instances] for id, each in status.models.items()}
                assert all(running[f"of-{name}"] == [name] for name in NODES)
                assert {each.node for each in status.memories} == set(NODES)
            case 2:
                health = await client.health_check()
                assert {each.node for each in health.node_health} == set(NODES)
                assert (health.models_loaded, health.models_tracked) == (3, 5)
            case _:
                stats = await client.get_stats()
                assert {each.node for each in stats.node_stats} == set(NODES)
                assert (stats.models_loaded, stats.models_tracked) == (3, 5)

    await many(look)
    for name in NODES:
        own = await client.on_node(name).list_models()
        assert [each.model_id for each in own.models] == ["odd", f"of-{name}", "shared"]
        assert own.node == name
    await unloaded(client, *(f"of-{name}" for name in NODES))


async def test_pages_hold_over_the_fleet(three: Fleet) -> None:
    found: list[str] = []
    cursor = None
    async with Connection.open(three.server.access, name="pages") as connection:
        for _ in range(5):
            body = msgspec.json.encode({"limit": 1, "cursor": cursor})
            answer = await connection.request(SUBJECTS.action("list_models"), body, timeout=10)
            page = msgspec.json.decode(answer.data)
            found += [each["model_id"] for each in page["models"]]
            cursor = page["next_cursor"]
    assert found == ["odd", *(f"of-{name}" for name in NODES), "shared"]
    assert cursor is None


async def test_another_file_under_the_same_id_is_told(three: Fleet) -> None:
    """Digests are computed in the background, so each node tells it a moment later."""
    told = "odd stands for different files"
    with anyio.fail_after(PATIENCE_SECONDS):
        for name in NODES:
            while told not in str((health := await three.client.on_node(name).health_check()).problems):
                await anyio.sleep(0.1)
            assert health.status == "degraded"
        while len((await three.client.health_check()).problems) != 1:
            await anyio.sleep(0.1)
    listed = await three.client.list_models()
    assert any("odd stands for different files" in each for each in listed.warnings)
    assert not any("shared" in each for each in listed.warnings)
    served = {(await three.client.generate_text("odd", "Once", max_tokens=1)).node for _ in range(20)}
    assert served <= {"box1", "box2"}  # what most have, and never some of both
    await unloaded(three.client, "odd")


async def test_a_version_is_served_where_it_is(three: Fleet) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        while len(versions := (await three.client.list_versions("odd")).versions) < 2:
            await anyio.sleep(0.05)
    (other,) = [each for each in versions if each.nodes == ("box3",)]
    (most,) = [each for each in versions if each is not other]
    for version in (other, most):
        name = f"odd@{version.version}"
        for client in (three.client, three.client.on_node(version.nodes[0])):
            reply = await client.generate_text(name, "Once", max_tokens=1)
            assert (reply.version, reply.node in version.nodes) == (version.version, True)
    await three.client.set_alias("rare", f"odd@{other.sha256[:8]}")
    assert (await three.client.generate_text("rare", "Once", max_tokens=1)).node == "box3"
    await three.client.set_alias("rare", None)
    await unloaded(three.client, "odd")


async def test_models_are_chosen_and_loaded_in_advance_over_the_fleet(three: Fleet) -> None:
    wanted = [f"of-{name}" for name in NODES]
    reply = await three.client.preload_models([*wanted, "of-box9"])
    assert {id: each.node for id, each in reply.results.items() if each.loaded} == {
        f"of-{name}": name for name in NODES
    }
    assert reply.results["of-box9"].code == "model_not_found"
    for _ in range(6):
        selected = await three.client.select_model()
        assert (selected.model_id, selected.loaded) == ("of-box1", True)
        assert {selected.model_id, *selected.others} == {*wanted, "odd", "shared"}
        assert set(selected.others[:2]) == {"of-box2", "of-box3"}
    await unloaded(three.client, *wanted)


async def test_a_benchmark_is_run_once_whichever_nodes_are_asked_for_it(three: Fleet) -> None:
    """Its node is the one that was first; the others wait for it, and any of them can cancel it."""
    question = '{"prompt": "Who?", "judge": "It is a name.", "max_tokens": 2}'
    replies: list[RunBenchmarkReply] = []

    async def ask(name: str) -> None:
        client = three.client.on_node(name)
        replies.append(
            await client.run_benchmark(
                "shared",
                benchmark_id="once",
                set_jsonl=question,
                judge="shared",
                streams=(2,),
                rounds=2,
                prompt_tokens=8,
                answer_tokens=4,
            )
        )

    async with anyio.create_task_group() as tasks:
        for name in NODES:
            tasks.start_soon(ask, name)
    assert {each.runs_on for each in replies} == {replies[0].runs_on}
    assert [each.result for each in replies] == [replies[0].result] * 3
    facts = [each.data.fact async for each in three.client.events("benchmark.once")]
    assert (facts.count("started"), facts.count("finished")) == (1, 1)
    evaluations = await three.client.get_model_evaluation_scores(model_name="shared", min_seq=replies[0].seq)
    assert [each.evaluation_id for each in evaluations.evaluations] == [replies[0].evaluation_id]
    await three.client.unload_model("shared")

    long = await three.client.on_node("box1").run_benchmark("of-box1", rounds=100, wait=False)
    assert long.runs_on == "box1"
    cancelled = await three.client.on_node("box2").cancel_benchmark(long.benchmark_id)
    assert cancelled.state == "cancelled"
    await unloaded(three.client, "shared", "of-box1")


async def test_pins_are_ended_wherever_they_are(three: Fleet) -> None:
    for name in NODES:
        pinned = await three.client.pin_model(f"of-{name}")
        assert pinned.node == name
    for _ in range(6):
        status = await three.client.get_model_status("of-box2")
        assert status.model is not None and status.model.pinned_on == ("box2",)
    for name in NODES:
        reply = await three.client.unpin_model(f"of-{name}")
        assert (reply.node, reply.message) == (name, f"of-{name} is not pinned on {name} any more")
    again = await three.client.unpin_model("of-box1")
    assert again.seq is None
    released = await three.client.release_model("of-box3")
    assert released.seq is None
    await unloaded(three.client, *(f"of-{name}" for name in NODES))


async def test_each_node_rebuilds_its_own_read_model(three: Fleet) -> None:
    reply = await three.client.rebuild_projection("usage")
    assert {each.node for each in reply.rebuilt} == set(NODES)
    assert len({each.events for each in reply.rebuilt}) == 1
    alone = await three.client.on_node("box2").rebuild_projection("usage")
    assert [each.node for each in alone.rebuilt] == ["box2"]


async def test_commands_show_which_node_has_what_and_ask_one_alone(
    three: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    await three.client.load_model("of-box2")
    await three.client.on_node("box1").load_model("shared")
    await three.client.on_node("box3").load_model("shared")

    for name, value in access(three.server).items():
        monkeypatch.setenv(name, value)

    models = await told("models")
    assert "nodes" in models[0]
    assert any(line.split()[:3] == ["of-box2", "loaded", "box2"] for line in models)
    assert any("loaded on box1, box3" in line and "box1, box2, box3" in line for line in models)
    status = await told("status")
    assert sum(line.startswith("shared ") for line in status) == 2
    assert all(any(line.startswith(f"{name}, memory:") for line in status) for name in NODES)
    health = await told("health")  # it is degraded, since the files of a model differ
    assert "3 nodes, 5 models" in health[0]
    assert all(any(line.startswith(f"{name} ") for line in health) for name in NODES)
    alone = "\n".join(await told("models", "--on", "box2"))
    assert "of-box2" in alone
    assert "of-box1" not in alone
    assert "nodes" not in alone
    with anyio.fail_after(PATIENCE_SECONDS):
        # The commands ran in this process, which may not have answered the server meanwhile.
        while True:
            with suppress(Unavailable):
                await unloaded(three.client, "of-box2", "shared")
                break
            await anyio.sleep(0.05)


async def told(*arguments: str) -> list[str]:
    """What a command prints when all nodes have answered in time, which a busy machine may not let them."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            done = await Command().run(*arguments)
            if not done.stderr:
                return [line.rstrip() for line in done.stdout.splitlines()]


async def test_what_does_not_answer_is_named(three: Fleet) -> None:
    """While it is still expected to answer, and when it is known to be lost."""
    frozen = three.nodes["box3"].process
    frozen.send_signal(signal.SIGSTOP)
    try:
        async with Connection.open(three.server.access, name="looker") as connection:
            for _ in range(2):
                listed = await answered(connection, "list_models")
                assert listed["missing_nodes"] == ["box3"]
                assert any("box3 did not answer" in each for each in listed["warnings"])
                assert {each["model_id"] for each in listed["models"]} >= {"of-box1", "of-box2", "shared"}
                await anyio.sleep(LOST_SECONDS)
            health = await answered(connection, "health_check")
            assert health["status"] == "degraded"
            assert any("node box3 does not answer" in each for each in health["problems"])
            assert (await answered(connection, "health_check", node="box3"))["code"] == "node_lost"
    finally:
        frozen.send_signal(signal.SIGCONT)
    with anyio.fail_after(PATIENCE_SECONDS):
        # On a slow machine it was away for so long that it is declared lost, and ends.
        while frozen.returncode is None and await some_are_missing(three):
            await anyio.sleep(0.05)


async def some_are_missing(three: Fleet) -> bool:
    try:
        return bool((await three.client.list_models()).missing_nodes)
    except NodeStopping:
        return True


async def answered(connection: Connection, action: str, **request: str) -> dict[str, Any]:
    """The reply to a request that is sent again until a node takes it that is not stopped."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while True:
            with suppress(RequestTimeout):
                body = msgspec.json.encode(request)
                answer = await connection.request(SUBJECTS.action(action), body, timeout=2.5)
                reply: dict[str, Any] = msgspec.json.decode(answer.data)
                return reply
