"""explain: why models are in memory or not, from the log."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from suite.bus.service import Call, action
from suite.errors import EventGone, InvalidRequest, NotADecision, TimeBeforeLog
from suite.explanation.sentences import FACTS, sentences
from suite.explanation.state import NodeLife, Residence, node_life, residence, told
from suite.explanation.words import counted
from suite.messages.actions.explanation import (
    DrainedNode,
    ExplainedEvent,
    ExplainReply,
    ExplainRequest,
    ModelState,
)
from suite.messages.decisions import Decision
from suite.messages.envelope import Recorded
from suite.messages.events import Event, InstanceLoadStarted, InstanceUnloaded, RequestsRefused, WaitStarted
from suite.messages.times import parse_time, rfc3339
from suite.node.node import Node
from suite.projections import history
from suite.projections.projection import Database
from suite.projections.reply_size import as_many_as_fit, left_out

_EVER: Final = datetime.max.replace(tzinfo=UTC)
"""Until now: also events of nodes whose clocks are ahead count."""


@action("explain", is_lookup=True)
async def explain(node: Node, request: ExplainRequest, _: Call) -> ExplainReply:
    """Explain a model, an event, or what was in memory."""
    if request.seq is not None:
        if request.model_id is not None or request.at is not None:
            raise InvalidRequest("field 'seq': an event is explained alone, without model_id and at")
        return await _explain_event(node, request.seq)
    async with node.projections.history.reading(request.min_seq, own_seq=node.last_seq) as db:
        until = await _moment(node, db, request)
        model_id = None if request.model_id is None else await _known(node, db, request.model_id)
        lives = {name: node_life(facts) for name, facts in (await history.node_events(db, until)).items()}
        places = _places(await history.newest(db, until, model_id), lives)
        listed = [] if model_id is None else await _listed(node, db, model_id, until, request)
    draining: dict[str, int] = {}
    if model_id is None:
        draining = {name: life.draining_seq for name, life in sorted(lives.items()) if life.draining_seq}
        places = {place: each for place, each in places.items() if each.state != "not_loaded"}
    seqs = (seq for each in places.values() for seq in each.seqs)
    events = await _events(node, {*listed, *draining.values(), *seqs})
    states = [await _state(node, *place, each, events) for place, each in sorted(places.items())]
    explained = [await _explained(node, events[seq]) for seq in listed if seq in events]
    kept = as_many_as_fit(states), as_many_as_fit(explained)
    return ExplainReply(
        at=rfc3339(node.now() if until == _EVER else until),
        models=kept[0],
        events=kept[1],
        nodes=tuple(
            DrainedNode(node=name, seq=seq, sentences=sentences(events[seq]))
            for name, seq in draining.items()
            if seq in events
        ),
        warnings=(
            *left_out(states, kept[0], "models"),
            *left_out(explained, kept[1], "events before these"),
            *_gone(len(listed) - len(explained)),
        ),
    )


async def _moment(node: Node, db: Database, request: ExplainRequest) -> datetime:
    """The moment that is asked for. Raises InvalidRequest for the future, TimeBeforeLog."""
    if request.at is None:
        return _EVER
    at, now = parse_time(request.at, "at"), node.now()
    if at > now:
        raise InvalidRequest(
            f"field 'at': {rfc3339(at)} is in the future, it is {rfc3339(now)}: ask for a time that has been"
        )
    begin = await history.begin(db)
    if begin is None or at < begin:
        raise TimeBeforeLog(
            f"the log knows nothing of {rfc3339(at)}: it begins "
            f"{'now' if begin is None else f'at {rfc3339(begin)}'}; ask for a later time"
        )
    return at


async def _listed(
    node: Node, db: Database, model_id: str, until: datetime, request: ExplainRequest
) -> list[int]:
    """The newest events about a model, and about the name by which it was asked for with adapters."""
    name = model_id if request.model_id is None else node.fleet.meant(request.model_id)
    found = {seq for each in {model_id, name} for seq in await history.latest(db, each, until, request.limit)}
    return sorted(found, reverse=True)[: request.limit]


async def _known(node: Node, db: Database, id_or_alias: str) -> str:
    """The id of a model that is there or was. Raises ModelNotFound, with similar names."""
    model_id = node.fleet.canonical(id_or_alias)
    if model_id in node.fleet.inventory.model_ids or await history.is_known(db, model_id):
        return model_id
    return node.model(id_or_alias).model_id


def _places(
    newest: Mapping[history.Place, Mapping[str, int]], lives: Mapping[str, NodeLife]
) -> dict[history.Place, Residence]:
    return {place: residence(facts, lives.get(place[1], NodeLife())) for place, facts in newest.items()}


async def _events(node: Node, seqs: Iterable[int]) -> dict[int, Recorded]:
    """The events with these sequences, as far as the log still has them."""
    found = [await node.log.at(seq) for seq in sorted(seqs)]
    return {each.seq: each for each in found if isinstance(each, Recorded)}


async def _state(
    node: Node, model_id: str, name: str, place: Residence, events: Mapping[int, Recorded]
) -> ModelState:
    own = events.get(place.seq)
    cause = None if own is None else await _cause(node, own)
    return ModelState(
        model_id=model_id,
        node=name,
        state=place.state,
        pinned=bool(place.pinned_seq),
        seq=place.waits_seq if place.state == "waiting" else place.seq,
        sentences=told(model_id, name, place, events, cause),
    )


async def _explained(node: Node, recorded: Recorded) -> ExplainedEvent:
    event = recorded.data
    return ExplainedEvent(
        seq=recorded.seq,
        timestamp=rfc3339(recorded.time),
        type=recorded.type,
        node=getattr(event, "node", ""),
        model_id=getattr(event, "model_id", ""),
        sentences=sentences(recorded, await _cause(node, recorded)),
        decision=_decision(event),
    )


def _decision(event: Event) -> Decision | None:
    if isinstance(event, InstanceLoadStarted | InstanceUnloaded | WaitStarted | RequestsRefused):
        return event.decision
    return None


async def _cause(node: Node, recorded: Recorded) -> Recorded | None:
    """The decision that an eviction carries out; None for anything else, or if it is not known."""
    event = recorded.data
    if not isinstance(event, InstanceUnloaded) or event.reason != "evicted" or event.decision is not None:
        return None
    seq: int | None = event.decision_seq
    if not seq:  # an older version did not say it
        async with node.projections.history.reading() as db:
            seq = await history.eviction(db, event.model_id, event.node, recorded.seq)
    found = await node.log.at(seq) if seq else None
    return found if isinstance(found, Recorded) else None


async def _explain_event(node: Node, seq: int) -> ExplainReply:
    """Raises InvalidRequest for a sequence that is still to come, EventGone, NotADecision."""
    found = await node.log.at(seq)
    if found is None:
        end = (await node.log.extent()).last_seq
        if seq > end:
            raise InvalidRequest(f"field 'seq': the log has no event {seq} yet, it ends at event {end}")
        raise EventGone(f"event {seq} is not in the log any more: it has expired, or was removed")
    if not isinstance(found, Recorded) or not isinstance(found.data, FACTS):
        kind = found.type if isinstance(found, Recorded) else "no event of the suite"
        raise NotADecision(
            f"event {seq} is {kind}, which decides nothing about memory: explain a model to see the events "
            "that do"
        )
    explained = await _explained(node, found)
    return ExplainReply(at=explained.timestamp, models=(), events=(explained,))


def _gone(count: int) -> tuple[str, ...]:
    if count <= 0:
        return ()
    are = "is" if count == 1 else "are"
    return (f"{counted(count, 'event')} about it {are} not in the log any more",)
