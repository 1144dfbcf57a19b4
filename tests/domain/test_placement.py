"""Who serves a request: the order of preference, whatever the nodes have."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import combinations
from random import Random

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from suite.domain.footprint import Footprint, total_of
from suite.domain.nodes import Hosted, Nodes, NodeView, Offered
from suite.domain.placement import CROWDED, Placement, Wanted, eviction, lacking, place

MODEL = "wanted"
NODES = ("box1", "box2", "box3", "box4")

footprints = st.builds(
    lambda ram, gpu: Footprint(ram, {"gpu0": gpu} if gpu else {}), st.integers(0, 8), st.integers(0, 3)
)
rooms = st.builds(lambda ram, gpu: Footprint(ram, {"gpu0": gpu}), st.integers(-2, 12), st.integers(-1, 4))


def hosteds(digests: Sequence[str]) -> st.SearchStrategy[Hosted]:
    return st.builds(
        Hosted,
        instance_id=st.uuids().map(str),
        sha256=st.sampled_from(digests),
        is_ready=st.booleans(),
        holds=st.integers(0, 9),
        slots=st.integers(1, 4),
        footprint=footprints,
        may_leave=st.booleans(),
        loss=st.integers(0, 40).map(lambda tenths: tenths / 10),
    )


@st.composite
def fleets(draw: st.DrawFn, digests: Sequence[str] = ("x",), most_hosts: int = 4) -> list[NodeView]:
    """Nodes with up to three other models each, of which some share what they offer."""
    offers = st.builds(Offered, sha256=st.sampled_from(digests), footprint=footprints)
    catalogues = [
        {MODEL: draw(offers)} if draw(st.booleans()) else {},
        {MODEL: draw(offers), "other": Offered()},
    ]
    names = draw(st.lists(st.sampled_from(NODES), unique=True, min_size=1))
    views, hosts = [], 0
    for name in names:
        hosted = draw(st.dictionaries(st.sampled_from(("a", "b", "c")), hosteds(("",)), max_size=3))
        if hosts < most_hosts and draw(st.booleans()):
            hosts += 1
            hosted[MODEL] = draw(hosteds(digests))
        view = NodeView(
            node=name,
            limits=draw(rooms),
            free=draw(rooms),
            waiting=draw(st.sampled_from((0, 0, 1, 2))),
            hosted=hosted,
            offered=draw(st.sampled_from(catalogues)),
            is_draining=draw(st.sampled_from((False, False, True))),
        )
        views.append(view)
    return views


wanteds = st.builds(
    Wanted,
    model_id=st.just(MODEL),
    conversation_node=st.sampled_from(("", *NODES)),
    excluded=st.frozensets(st.sampled_from(NODES), max_size=2),
)
heres = st.sampled_from(NODES)


def has(view: NodeView) -> bool:
    return MODEL in view.hosted or MODEL in view.offered


def able(views: Iterable[NodeView], wanted: Wanted) -> list[NodeView]:
    """The nodes that may be chosen, if all have the same file."""
    left = [each for each in views if has(each) and each.node not in wanted.excluded]
    return [each for each in left if not each.is_draining] or [each for each in left if MODEL in each.hosted]


def could_load(views: Iterable[NodeView], wanted: Wanted) -> list[NodeView]:
    return [each for each in able(views, wanted) if MODEL in each.offered and not each.waiting]


def fits(view: NodeView) -> bool:
    return view.offered[MODEL].footprint.is_within(view.free)


def losses(views: Iterable[NodeView]) -> list[float]:
    found = [eviction(each, each.offered[MODEL].footprint) for each in views]
    return [each[0] for each in found if each is not None]


def test_pictures_go_to_a_node_with_the_projector_whatever_speaks_for_another() -> None:
    room = Footprint(9)
    blind, seeing, untold = (Offered(sha256="x", reads_pictures=each) for each in (False, True, None))

    def node(name: str, offered: Offered, *, is_loaded: bool = False) -> NodeView:
        hosted = {MODEL: Hosted(sha256="x")} if is_loaded else {}
        return NodeView(node=name, limits=room, free=room, hosted=hosted, offered={MODEL: offered})

    def placed(views: Sequence[NodeView], **wanted: object) -> str | None:
        found = place(Wanted(model_id=MODEL, **wanted), Nodes(views), here="box1")  # type: ignore[arg-type]
        return found.node if found is not None else None

    views = [node("box1", blind, is_loaded=True), node("box2", seeing)]
    assert placed(views) == "box1"
    assert placed(views, needs_projector=True) == "box2"
    assert placed(views, needs_projector=True, conversation_node="box1") == "box2"
    lost = frozenset({"box2"})
    assert placed(views, needs_projector=True, excluded=lost) == "box1", "which says what it lacks"
    assert placed([node("box1", blind), node("box2", blind)], needs_projector=True) in ("box1", "box2")
    views = [node("box1", blind, is_loaded=True), node("box2", untold)]
    assert placed(views, needs_projector=True) == "box2"
    views = [node("box1", untold, is_loaded=True), node("box2", seeing)]
    assert placed(views, needs_projector=True) == "box1"


def test_a_model_is_copied_from_a_node_with_its_draft_model_but_answers_need_none() -> None:
    views = [
        NodeView(
            node=name,
            limits=Footprint(9),
            free=Footprint(9),
            hosted={MODEL: Hosted(sha256="x")} if name == "box1" else {},
            offered={MODEL: Offered(sha256="x", has_draft=has_draft, reads_pictures=not has_draft)},
        )
        for name, has_draft in (("box1", False), ("box2", True))
    ]

    def placed(wanted: Wanted) -> str | None:
        found = place(wanted, Nodes(views), here="box1")
        return found.node if found is not None else None

    assert placed(Wanted(model_id=MODEL)) == "box1"
    assert placed(Wanted(model_id=MODEL, needs_draft=True)) == "box2"
    assert placed(Wanted(model_id=MODEL, needs_draft=True, excluded=frozenset({"box2"}))) == "box1"
    both = Wanted(model_id=MODEL, needs_draft=True, needs_projector=True)
    assert placed(both) == "box1", "no node has both, and pictures count for more"


# --- the order of preference --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, heres)
def test_a_node_is_found_whenever_one_has_the_model_and_never_one_that_has_not(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    assert (placed is not None) == bool(able(views, wanted))
    if placed is not None:
        assert placed.node in {each.node for each in able(views, wanted)}
        assert placed.node not in wanted.excluded
        assert placed.others == ()


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, heres)
def test_each_reason_is_given_only_where_none_before_it_holds(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    if placed is None:
        return
    chosen = next(each for each in views if each.node == placed.node)
    hosts = [each for each in able(views, wanted) if MODEL in each.hosted]
    free = could_load(views, wanted)
    match placed.reason:
        case "conversation":
            assert chosen.node == wanted.conversation_node
            assert chosen in hosts or (not hosts and chosen in free and fits(chosen))
        case "loaded":
            assert chosen in hosts
        case "fits":
            assert not hosts
            assert chosen in free and fits(chosen)
        case "evicts":
            assert not hosts and not any(map(fits, free))
            assert chosen in free and losses([chosen]) == [min(losses(free))]
        case "waits":
            assert not hosts and not any(map(fits, free)) and not losses(free)
        case "named":
            raise AssertionError("nobody has named a node")


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, heres)
def test_of_those_that_have_it_the_one_with_least_to_do_gets_it(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    if placed is None or placed.reason != "loaded":
        return
    hosts = [each.hosted[MODEL] for each in able(views, wanted) if MODEL in each.hosted]
    order = [(not each.is_ready, each.load) for each in hosts]
    chosen = next(each.hosted[MODEL] for each in views if each.node == placed.node)
    assert (not chosen.is_ready, chosen.load) == min(order)
    assert placed.instance_id == chosen.instance_id


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, heres)
def test_a_conversation_leaves_a_node_that_has_it_only_where_that_is_crowded(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    hosts = {each.node: each.hosted[MODEL] for each in able(views, wanted) if MODEL in each.hosted}
    own = hosts.get(wanted.conversation_node)
    if placed is None or own is None or placed.node == wanted.conversation_node:
        return
    assert own.load >= CROWDED
    assert hosts[placed.node].is_ready and hosts[placed.node].load < 1


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, heres)
def test_who_waits_does_so_where_it_fits_at_all_and_the_fewest_wait(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    if placed is None or placed.reason != "waits":
        return

    def order(view: NodeView) -> tuple[bool, int]:
        return not view.offered[MODEL].footprint.is_within(view.limits), view.waiting

    offers = [each for each in able(views, wanted) if MODEL in each.offered]
    assert order(next(each for each in views if each.node == placed.node)) == min(map(order, offers))


def test_a_conversation_does_not_wait_behind_others_where_its_model_is_not_loaded_any_more() -> None:
    offered = {MODEL: Offered(footprint=Footprint(1))}
    crowded = NodeView(node="box1", free=Footprint(4), waiting=3, offered=offered)
    empty = NodeView(node="box2", free=Footprint(4), offered=offered)
    wanted = Wanted(model_id=MODEL, conversation_node="box1")
    assert place(wanted, Nodes([crowded, empty]), here="box1") == Placement(node="box2", reason="fits")


def test_what_continues_a_conversation_stays_where_its_tokens_are() -> None:
    full = Hosted(slots=1, holds=9)
    offered = {MODEL: Offered()}
    idle = NodeView(node="box2", hosted={MODEL: Hosted()}, offered=offered)
    wanted = Wanted(model_id=MODEL, conversation_node="box1", continues=True)
    for is_draining in (False, True):
        holder = NodeView(node="box1", hosted={MODEL: full}, offered=offered, is_draining=is_draining)
        placed = place(wanted, Nodes([holder, idle]), here="box2")
        assert placed is not None and (placed.node, placed.reason) == ("box1", "conversation")


def test_a_node_where_the_model_failed_gets_it_only_if_it_failed_on_all() -> None:
    offered = {MODEL: Offered()}
    sick = [NodeView(node=name, offered=offered, paused=frozenset({MODEL})) for name in ("box1", "box2")]
    sound = NodeView(node="box3", waiting=1, offered=offered)
    wanted = Wanted(model_id=MODEL, conversation_node="box1")
    assert place(wanted, Nodes([*sick, sound]), here="box1") == Placement(node="box3", reason="waits")
    assert place(wanted, Nodes(sick), here="box1") == Placement(node="box1", reason="conversation")


def test_what_a_model_was_measured_to_need_counts_more_than_what_is_offered() -> None:
    offered = {MODEL: Offered(footprint=Footprint(4))}
    small = NodeView(node="box1", free=Footprint(2), offered=offered, needs={MODEL: Footprint(2)})
    large = NodeView(node="box2", free=Footprint(5), offered=offered, needs={MODEL: Footprint(6)})
    assert place(Wanted(model_id=MODEL), Nodes([small, large]), here="box2") == Placement(
        node="box1", reason="fits"
    )


# --- nodes that decide at the same moment -------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(fleets(most_hosts=0), wanteds, st.randoms(use_true_random=False))
def test_nodes_that_decide_at_once_where_to_load_a_model_choose_the_same(
    views: list[NodeView], wanted: Wanted, random: Random
) -> None:
    decisions = set()
    for here in NODES:
        random.shuffle(views)
        decisions.add(place(wanted, Nodes(views), here=here))
    assert len(decisions) == 1


@settings(deadline=None, max_examples=50)
@given(fleets(), wanteds, st.permutations(NODES))
def test_the_order_in_which_nodes_were_heard_of_does_not_matter(
    views: list[NodeView], wanted: Wanted, order: list[str]
) -> None:
    other = sorted(views, key=lambda each: order.index(each.node))
    assert place(wanted, Nodes(views), here="box1") == place(wanted, Nodes(other), here="box1")


def test_models_that_nobody_has_are_spread_evenly() -> None:
    models = [f"model-{number}" for number in range(3000)]
    offered = {id: Offered() for id in models}
    nodes = Nodes(NodeView(node=name, offered=offered) for name in ("box1", "box2", "box3"))
    placed = [place(Wanted(model_id=id), nodes, here="box1") for id in models]
    chosen = Counter(each.node for each in placed if each is not None)
    assert set(chosen) == {"box1", "box2", "box3"}
    assert all(900 < count < 1100 for count in chosen.values())


# --- which file it is ---------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(fleets(digests=("x", "y", "")), wanteds, heres)
def test_nodes_with_another_file_are_left_out_and_named(
    views: list[NodeView], wanted: Wanted, here: str
) -> None:
    placed = place(wanted, Nodes(views), here=here)
    if placed is None:
        return
    digests = {each.node: digest(each) for each in views if has(each) and each.node not in wanted.excluded}
    content = most_frequent(digests.values())
    assert digests[placed.node] in ("", content)
    assert placed.sha256 == (digests[placed.node] or content)
    different = [name for name, each in digests.items() if content and each not in ("", content)]
    assert placed.others == tuple(sorted(different))


def digest(view: NodeView) -> str:
    hosted, offered = view.hosted.get(MODEL), view.offered.get(MODEL)
    return (hosted.sha256 if hosted else "") or (offered.sha256 if offered else "")


def most_frequent(digests: Iterable[str]) -> str:
    counts = Counter(each for each in digests if each)
    return min(counts, key=lambda each: (-counts[each], each), default="")


# --- evictions ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(fleets(), footprints)
def test_nothing_leaves_in_vain(views: list[NodeView], need: Footprint) -> None:
    for view in views:
        found = eviction(view, need)
        if found is None:
            every = [each.footprint for each in view.hosted.values() if each.may_leave]
            assert not need.is_within(view.free + total_of(every))
            continue
        loss, leaving = found
        assert all(view.hosted[id].may_leave for id in leaving)
        assert need.is_within(room_without(view, leaving))
        for fewer in combinations(leaving, len(leaving) - 1) if leaving else ():
            assert not need.is_within(room_without(view, fewer))
        assert math.isclose(loss, sum(view.hosted[id].loss for id in leaving))


def room_without(view: NodeView, leaving: Iterable[str]) -> Footprint:
    return view.free + total_of([view.hosted[id].footprint for id in leaving])


# --- the index ----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.lists(fleets(digests=("x", "y")), min_size=1, max_size=4), st.sets(st.sampled_from(NODES)))
def test_nodes_are_found_as_if_all_were_looked_at(rounds: list[list[NodeView]], removed: set[str]) -> None:
    nodes = Nodes()
    known: dict[str, NodeView] = {}
    for views in rounds:
        for view in views:
            nodes.put(view)
            known[view.node] = view
    for name in removed:
        nodes.remove(name)
        known.pop(name, None)
    assert dict(nodes) == known
    assert set(nodes.hosted) == {id for each in known.values() for id in each.hosted}
    for id in (MODEL, "other", "a", "b", "c", "none"):
        assert names(nodes.hosting(id)) == {name for name, each in known.items() if id in each.hosted}
        offering = [(offered, name) for offered, views, _ in nodes.offering(id) for name in views]
        assert sorted(offering, key=lambda pair: pair[1]) == sorted(
            ((each.offered[id], name) for name, each in known.items() if id in each.offered),
            key=lambda pair: pair[1],
        )
        assert nodes.knows(id) == any(id in each.hosted or id in each.offered for each in known.values())


def names(views: Iterable[NodeView]) -> set[str]:
    return {each.node for each in views}


def test_a_view_that_is_changed_is_summed_up_anew() -> None:
    idle = Hosted(footprint=Footprint(4), may_leave=True, loss=2.0)
    view = NodeView(node="box1", free=Footprint(1), hosted={"a": idle})
    assert (view.room, view.least_loss, view.least_density) == (Footprint(5), 2.0, 0.5)
    used = msgspec.structs.replace(view, hosted={"a": msgspec.structs.replace(idle, may_leave=False)})
    assert (used.room, used.least_loss) == (Footprint(1), math.inf)


def test_nodes_that_lack_an_adapter_or_the_model_are_told() -> None:
    nodes = Nodes(
        NodeView(node=node, offered={MODEL: Offered(adapters=frozenset(adapters))})
        for node, adapters in (("both", "ab"), ("one", "a"), ("none", ""))
    )
    nodes.put(NodeView(node="without", offered={"other": Offered(adapters=frozenset("ab"))}))
    assert lacking(MODEL, frozenset("ab"), nodes) == {"one", "none", "without"}
    assert lacking(MODEL, frozenset("a"), nodes) == {"none", "without"}
    assert not lacking(MODEL, frozenset(), nodes)
