"""Which models are where in the whole fleet, and how their loads went, whoever told of their ends."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Sequence

import aiosqlite
import anyio
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.sizes import Sizes, evolve
from suite.messages.actions.projections import FleetModel, GetFleetRequest
from suite.messages.envelope import Recorded
from suite.messages.events import (
    Event,
    InstanceCrashed,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    ModelRegistered,
    ModelRemoved,
    NodeDraining,
    NodeLost,
    NodeStarted,
    NodeStopped,
    UnloadReason,
)
from suite.projections.catalogue import CatalogueProjection, ResidencyTotals, fleet, totals
from suite.projections.sizes import sizes
from support.folding import (
    batching_changes_nothing,
    fold,
    log_of,
    logs,
    read_model,
    repetition_changes_nothing,
)

PROJECTION = CatalogueProjection()
SQL = "'; DROP TABLE models; --"


def registered(model_id: str = "a", node: str = "box1", sha256: str = "5e") -> ModelRegistered:
    return ModelRegistered(
        model_id=model_id,
        node=node,
        file_name=f"{model_id}.gguf",
        file_bytes=98_000_000,
        sha256=sha256,
        architecture="llama",
        parameters=134_515_008,
        quantization="Q4_1",
        trained_context_tokens=8192,
    )


def removed(model_id: str = "a", node: str = "box1") -> ModelRemoved:
    return ModelRemoved(model_id=model_id, node=node)


def up(node: str = "box1") -> NodeStarted:
    return NodeStarted(node=node, version="0", host="h", pid=1, memory_limit_bytes=9)


def stopped(node: str = "box1") -> NodeStopped:
    return NodeStopped(node=node, epoch=1)


def lost(node: str = "box1") -> NodeLost:
    return NodeLost(node=node, epoch=1, observer="box9")


def begun(model_id: str = "a", node: str = "box1", life: str = "i1") -> InstanceLoadStarted:
    return InstanceLoadStarted(
        node=node, model_id=model_id, instance_id=life, reserved_bytes=7, context_tokens=8
    )


def loaded(
    model_id: str = "a",
    node: str = "box1",
    life: str = "i1",
    *,
    load_ms: float = 100.0,
    size: int = 5,
    gpus: dict[str, int] | None = None,
    content: str = "",
) -> InstanceLoaded:
    return InstanceLoaded(
        node=node,
        model_id=model_id,
        instance_id=life,
        pid=1,
        resident_bytes=size,
        gpu_bytes=sum((gpus or {}).values()),
        gpus=gpus or {},
        load_ms=load_ms,
        content=content,
        settings_key="k",
    )


def failed(
    model_id: str = "a", node: str = "box1", life: str = "i1", *, code: str = "load_failed"
) -> InstanceLoadFailed:
    return InstanceLoadFailed(node=node, model_id=model_id, instance_id=life, code=code, message="why")


def unloaded(
    model_id: str = "a",
    node: str = "box1",
    life: str = "i1",
    *,
    reason: UnloadReason = "idle",
    peak: int = 0,
    gpus: dict[str, int] | None = None,
) -> InstanceUnloaded:
    return InstanceUnloaded(
        node=node,
        model_id=model_id,
        instance_id=life,
        reason=reason,
        freed_bytes=5,
        peak_bytes=peak,
        gpus=gpus or {},
    )


def crashed(model_id: str = "a", node: str = "box1", life: str = "i1") -> InstanceCrashed:
    return InstanceCrashed(node=node, model_id=model_id, instance_id=life, exit_code=-9, generations=1)


@pytest.fixture
async def db() -> AsyncIterator[aiosqlite.Connection]:
    async with read_model(PROJECTION) as db:
        yield db


async def after(db: aiosqlite.Connection, *events: Event) -> dict[str, FleetModel]:
    await fold(db, PROJECTION, log_of(events))
    return {model.model_id: model for model in (await fleet(db, GetFleetRequest())).models}


async def life(db: aiosqlite.Connection) -> tuple[object, ...]:
    (row,) = await db.execute_fetchall("SELECT state, reason, resident_bytes, since FROM instances")
    return tuple(row)


def counts(loads: int, unloads: int, *, tracked: int = 0) -> ResidencyTotals:
    return ResidencyTotals(models_tracked=tracked, models_loaded_ever=loads, models_unloaded_ever=unloads)


async def test_nothing_is_known_of_an_empty_log(db: aiosqlite.Connection) -> None:
    assert await after(db) == {}
    assert await totals(db) == counts(0, 0)


async def test_a_model_is_told_with_all_its_files_and_where_it_is_loaded(db: aiosqlite.Connection) -> None:
    models = await after(
        db,
        *(up(), up("box2"), registered(), registered(node="box2", sha256="c4"), registered(SQL)),
        *(begun(), loaded(), begun(node="box2"), loaded(node="box2", load_ms=300.5), unloaded(node="box2")),
    )
    assert list(models) == [SQL, "a"]
    assert msgspec.to_builtins(models["a"].files[1]) == {
        "node": "box2",
        "node_up": True,
        "node_draining": False,
        "file_name": "a.gguf",
        "file_bytes": 98_000_000,
        "sha256": "c4",
        "architecture": "llama",
        "parameters": 134_515_008,
        "quantization": "Q4_1",
        "trained_context_tokens": 8192,
        "registered_at": "2026-03-01T12:04:00.000000+00:00",
    }
    assert [file.sha256 for file in models["a"].files] == ["5e", "c4"]
    assert models["a"].loaded_on == ("box1",)
    assert (models["a"].loads, models["a"].mean_load_ms) == (2, 200.25)
    assert models[SQL].loaded_on == ()
    assert (models[SQL].loads, models[SQL].mean_load_ms) == (0, None)
    assert await totals(db) == counts(2, 1, tracked=2)


@pytest.mark.parametrize("end", [stopped(), lost()])
async def test_the_files_of_a_node_that_is_down_are_told_as_such(
    db: aiosqlite.Connection, end: Event
) -> None:
    models = await after(db, up(), up("box2"), registered(), registered(node="box2"), end)
    assert [(file.node, file.node_up) for file in models["a"].files] == [("box1", False), ("box2", True)]


async def test_a_node_that_is_drained_keeps_what_it_has_loaded(db: aiosqlite.Connection) -> None:
    draining = NodeDraining(node="box1", epoch=1, requested_by="")
    models = await after(db, up(), registered(), begun(), loaded(), draining)
    assert models["a"].loaded_on == ("box1",)
    assert [file.node_up for file in models["a"].files] == [True]


async def test_a_file_that_changed_is_there_once_and_one_that_went_is_not(db: aiosqlite.Connection) -> None:
    models = await after(db, registered(), registered(sha256="d2"), registered("b"), removed("b"))
    assert list(models) == ["a"]
    assert [file.sha256 for file in models["a"].files] == ["d2"]


async def test_a_model_that_came_back_is_there(db: aiosqlite.Connection) -> None:
    assert list(await after(db, registered(), removed(), registered())) == ["a"]


async def test_a_model_that_runs_before_its_file_is_registered_is_told(db: aiosqlite.Connection) -> None:
    models = await after(db, up(), begun(), loaded())
    assert (models["a"].files, models["a"].loaded_on) == ((), ("box1",))


async def test_a_load_is_not_yet_loaded(db: aiosqlite.Connection) -> None:
    assert (await after(db, registered(), begun()))["a"].loaded_on == ()
    assert await life(db) == ("loading", None, 0, "2026-03-01 12:02:00.000000")


async def test_failed_loads_and_crashes_are_counted_and_ended_loads_are_not(db: aiosqlite.Connection) -> None:
    models = await after(
        db,
        registered(),
        *(begun(life="i1"), failed(life="i1")),
        *(begun(life="i2"), failed(life="i2", code="load_cancelled")),
        *(begun(life="i3"), loaded(life="i3"), crashed(life="i3")),
    )
    model = models["a"]
    assert (model.loads, model.load_failures, model.crashes, model.loaded_on) == (1, 1, 1, ())
    assert await totals(db) == counts(1, 0, tracked=1)
    assert await life(db) == ("ended", "crashed", 5, "2026-03-01 12:08:00.000000")


@pytest.mark.parametrize("end", [stopped(), lost(), up()])
async def test_what_ran_in_a_node_ends_with_it_once_though_recovery_says_so_again(
    db: aiosqlite.Connection, end: Event
) -> None:
    models = await after(
        db, up(), up("box2"), registered(), begun(), loaded(), begun(node="box2"), loaded(node="box2"), end
    )
    assert models["a"].loaded_on == ("box2",)
    assert await totals(db) == counts(2, 1, tracked=1)


@pytest.mark.parametrize("ends", [[up()], [lost(), up()]])
async def test_recovery_says_again_what_the_nodes_end_said(
    db: aiosqlite.Connection, ends: list[Event]
) -> None:
    again = unloaded(reason="node_lost")
    await after(db, up(), begun(), loaded(), *ends, again, begun(life="i2"), loaded(life="i2"))
    assert await totals(db) == counts(2, 1)
    assert (await life(db))[0] == "loaded"


async def test_an_end_of_an_earlier_life_does_not_end_the_one_that_goes_on(db: aiosqlite.Connection) -> None:
    models = await after(
        db, registered(), begun(), loaded(), unloaded(), begun(life="i2"), loaded(life="i2"), unloaded()
    )
    assert models["a"].loaded_on == ("box1",)


models = st.sampled_from(["a", "b", SQL, "ü"])
nodes = st.sampled_from(["box1", "box2"])
lives = st.sampled_from(["i1", "i2"])
events: st.SearchStrategy[Event] = st.one_of(
    st.builds(registered, models, nodes, st.sampled_from(["5e", "c4"])),
    st.builds(removed, models, nodes),
    st.builds(up, nodes),
    st.builds(stopped, nodes),
    st.builds(lost, nodes),
    st.builds(begun, models, nodes, lives),
    st.builds(
        *(loaded, models, nodes, lives),
        load_ms=st.floats(0, 1e6),
        size=st.integers(1, 9),
        content=st.sampled_from(["", "5e"]),
    ),
    st.builds(failed, models, nodes, lives, code=st.sampled_from(["load_failed", "load_cancelled"])),
    st.builds(unloaded, models, nodes, lives, peak=st.integers(0, 99)),
    st.builds(crashed, models, nodes, lives),
)


@settings(max_examples=60, deadline=None)
@given(logs(events), st.sets(st.integers(0, 30)))
def test_the_same_log_gives_the_same_tables_in_any_batches(log: list[Recorded], cuts: set[int]) -> None:
    anyio.run(batching_changes_nothing, PROJECTION, log, cuts)


@settings(max_examples=60, deadline=None)
@given(logs(events))
def test_an_event_that_is_stored_again_counts_once(log: list[Recorded]) -> None:
    anyio.run(repetition_changes_nothing, PROJECTION, log)


@settings(max_examples=60, deadline=None)
@given(logs(events))
def test_every_load_was_unloaded_or_crashed_or_is_loaded_now(log: list[Recorded]) -> None:
    async def check(log: Sequence[Recorded]) -> None:
        async with read_model(PROJECTION) as db:
            await fold(db, PROJECTION, log)
            now = Counter[str]()
            for model in (await fleet(db, GetFleetRequest())).models:
                now[model.model_id] += len(model.loaded_on)
            for model_id, loads, unloads, crashes in await db.execute_fetchall(
                "SELECT model_id, loads, unloads, crashes FROM history"
            ):
                assert loads == unloads + crashes + now[model_id]

    anyio.run(check, log)


on_gpus = st.dictionaries(st.sampled_from(["gpu0", "gpu1"]), st.integers(1, 9))
measured_loads = st.lists(
    st.tuples(
        nodes,
        st.sampled_from(["", "5e", "c4"]),
        st.integers(1, 9),
        on_gpus,
        st.none() | st.tuples(st.integers(0, 99), on_gpus),
    ),
    max_size=30,
)


@settings(max_examples=40, deadline=None)
@given(measured_loads)
def test_the_read_model_remembers_the_sizes_that_a_node_remembers(
    loads: list[tuple[str, str, int, dict[str, int], tuple[int, dict[str, int]] | None]],
) -> None:
    facts: list[Event] = []
    for number, (node, content, size, gpus, peak) in enumerate(loads):
        facts.append(loaded(node=node, life=f"i{number}", size=size, gpus=gpus, content=content))
        if peak is not None:
            ram, there = peak
            total = ram + sum(there.values())
            facts.append(unloaded(node=node, life=f"i{number}", peak=total, gpus=there))
    known: Sizes = {}
    for fact in facts:
        if fact.ids[0] == "box1":
            known = evolve(known, fact)

    async def check() -> None:
        async with read_model(PROJECTION) as db:
            await fold(db, PROJECTION, log_of(facts))
            assert await sizes(db, "box1") == known

    anyio.run(check)
