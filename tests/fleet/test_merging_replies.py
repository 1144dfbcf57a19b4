"""How the replies of several nodes become one. Pure, so without nodes."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.actions.gathering import completed, said
from suite.actions.id_pages import cursor_of, ids_after
from suite.actions.merged_health import merged_health
from suite.actions.merged_models import merged_list, merged_model
from suite.domain.differences import differences
from suite.domain.footprint import Footprint
from suite.domain.nodes import Nodes, NodeView, Offered
from suite.domain.spreading import spread
from suite.errors import LogNotWritable, ModelNotFound, NodeLost, SuiteError
from suite.messages.actions.residency import UnloadModelReply
from suite.messages.actions.status import (
    HealthCheckReply,
    HealthCheckRequest,
    ListModelsReply,
    ListModelsRequest,
    ModelInfo,
)

IDS = [f"model-{number:02}" for number in range(12)]


def info(
    model_id: str, node: str, *, loaded: bool = False, sha256: str = "aa", settings: str = "s"
) -> ModelInfo:
    return ModelInfo(
        model_id=model_id,
        display_name=model_id,
        aliases=(),
        capabilities=(),
        model_path=f"/{node}/{model_id}.gguf",
        file_bytes=1,
        sha256=sha256,
        architecture=None,
        parameters=None,
        quantization=None,
        trained_context_tokens=None,
        n_ctx=1,
        n_gpu_layers=0,
        n_threads=1,
        priority=0,
        idle_timeout_seconds=0,
        has_chat_template=False,
        estimate=None,
        estimated_vram_mb=0,
        loaded=loaded,
        status="loaded" if loaded else "unloaded",
        error=None,
        last_used=None,
        idle_time=None,
        instance=None,
        nodes=(node,),
        settings=settings,
    )


def page(node: str, ids: list[str], cursor: str | None, most: int) -> ListModelsReply:
    """A page as one node makes it, of as many models as fit into its message."""
    after = ids_after(sorted(ids), cursor)
    shown = after[:most]
    return ListModelsReply(
        models=tuple(info(id, node) for id in shown),
        next_cursor=cursor_of(shown[-1]) if len(shown) < len(after) else None,
    )


@given(
    st.dictionaries(
        st.sampled_from(("box1", "box2", "box3")),
        st.tuples(st.lists(st.sampled_from(IDS), unique=True), st.integers(1, 4)),
        min_size=1,
    ),
    st.none() | st.integers(1, 5),
)
def test_pages_of_all_nodes_have_each_model_once_with_all_its_nodes(
    nodes: dict[str, tuple[list[str], int]], limit: int | None
) -> None:
    found: dict[str, tuple[str, ...]] = {}
    cursor = None
    for _ in range(len(IDS) + 1):
        request = ListModelsRequest(limit=limit, cursor=cursor)
        pages = {
            node: page(node, ids, cursor, min(most, limit or most)) for node, (ids, most) in nodes.items()
        }
        merged = merged_list(request, pages)
        for model in merged.models:
            assert model.model_id not in found
            found[model.model_id] = model.nodes
        cursor = merged.next_cursor
        if cursor is None:
            break
    assert cursor is None
    having = {id: {node for node, (ids, _) in nodes.items() if id in ids} for id in IDS}
    assert {id: set(names) for id, names in found.items()} == {
        id: names for id, names in having.items() if names
    }
    assert list(found) == sorted(found)


def test_a_model_is_told_as_it_is_where_it_is_loaded() -> None:
    merged = merged_model([info("m", "box1"), info("m", "box2", loaded=True)])
    assert (merged.loaded, merged.status, merged.model_path) == (True, "loaded", "/box2/m.gguf")
    assert merged.nodes == ("box1", "box2")


def test_other_files_and_other_settings_under_one_id_are_told() -> None:
    offers: dict[str, Mapping[str, Offered]] = {
        "box1": {"m": Offered(sha256="aa", settings="s"), "n": Offered(sha256="cc", settings="s")},
        "box2": {"m": Offered(sha256="bb", settings="s"), "n": Offered(sha256="cc", settings="t")},
        "box3": {"m": Offered(), "n": Offered(sha256="cc", settings="t")},
    }
    found = differences(offers)
    assert found.files == (
        "m stands for different files: aa on box1; bb on box2: "
        "give all nodes the same file, or one another id",
    )
    assert found.settings == ("n is loaded with other settings on box1 than on box2, box3",)


def test_what_all_nodes_say_is_said_once() -> None:
    assert said({"box1": ("full", "own"), "box2": ("full",)}) == ("full", "box1: own")


def health(node: str, *problems: str) -> HealthCheckReply:
    return HealthCheckReply(
        status="degraded" if problems else "HEALTHY",
        problems=problems,
        node=node,
        version="1",
        uptime=1.0,
        timestamp="",
        models_loaded=1,
        models_tracked=2,
        commands_processed=3,
        fleet_models=4,
    )


def test_a_fleet_is_as_healthy_as_its_worst_node() -> None:
    merged = merged_health(HealthCheckRequest(), {"box1": health("box1"), "box2": health("box2", "no disk")})
    assert (merged.status, merged.problems) == ("degraded", ("box2: no disk",))
    assert (merged.node, merged.models_loaded, merged.models_tracked) == ("box1", 2, 4)


def unloaded(**fields: object) -> UnloadModelReply:
    reply = {"model_id": "m", "unloaded": True, "message": "", "seq": 1, "freed_bytes": 5, **fields}
    return msgspec.convert(reply, UnloadModelReply)


def first(replies: Mapping[str, UnloadModelReply]) -> UnloadModelReply:
    return next(iter(replies.values()))


def test_nodes_without_the_model_are_no_failure_and_missing_ones_are_named() -> None:
    answers: dict[str, UnloadModelReply | SuiteError] = {
        "box1": ModelNotFound(),
        "box2": unloaded(warnings=("careful",)),
        "box3": NodeLost(),
    }
    reply = completed(answers, first, changes=True)
    assert reply.missing_nodes == ("box3",)
    assert reply.warnings[0].startswith("box3 did not answer")
    assert reply.warnings[1] == "careful"


def test_a_node_that_could_not_do_it_fails_a_change_and_says_what_others_did() -> None:
    answers: dict[str, UnloadModelReply | SuiteError] = {"box1": unloaded(), "box2": LogNotWritable("full")}
    with pytest.raises(LogNotWritable, match=r"box2: full \(done on box1\)") as refused:
        completed(answers, first, changes=True)
    assert refused.value.node == "box2"
    assert completed(answers, first, changes=False).warnings == ("box2 refused: full",)


def test_what_no_node_has_is_not_found_though_it_may_be_on_a_missing_one() -> None:
    answers: dict[str, UnloadModelReply | SuiteError] = {"box1": ModelNotFound("no m"), "box2": NodeLost()}
    with pytest.raises(ModelNotFound, match=r"no m \(box2 did not answer, and may have it\)"):
        completed(answers, first, changes=True)


@given(
    st.lists(st.sampled_from(IDS), unique=True),
    st.dictionaries(st.sampled_from(("box1", "box2")), st.integers(0, 8)),
)
def test_models_that_are_loaded_together_fit_together(wanted: list[str], free: dict[str, int]) -> None:
    offered = {id: Offered(footprint=Footprint(2)) for id in IDS}
    views = [
        NodeView(node=node, limits=Footprint(8), free=Footprint(ram), offered=offered)
        for node, ram in free.items()
    ]
    placed = spread(wanted, Nodes(views), here="box1")
    assert sorted(id for ids in placed.values() for id in ids) == sorted(wanted)
    room = sum(ram // 2 for ram in free.values())
    over = sum(max(0, len(placed.get(node, ())) - ram // 2) for node, ram in free.items())
    assert over <= max(0, len(wanted) - room)
