"""One event about memory or a benchmark, in sentences::

    sentences(recorded)   # ("smollm2 began to load on box1 because a request needed it.", ...)

They say what the event says and no more. Events of older versions say less, and are told as far as they go.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final

from suite.domain.breaker import failed_with
from suite.domain.incidents import incident
from suite.domain.sizes import ready_bytes
from suite.errors import LoadCancelled
from suite.explanation import benchmarks, bets, promotions
from suite.explanation import decision as decisions
from suite.explanation.words import asked, counted, listed, moment, span
from suite.messages.decisions import RAM, Decision, Purpose
from suite.messages.envelope import Recorded
from suite.messages.events import (
    AliasEvent,
    AliasRemoved,
    AliasSet,
    BenchmarkCancelled,
    BenchmarkEvent,
    BenchmarkFailed,
    BenchmarkFinished,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkStarted,
    CanaryStarted,
    Event,
    InstanceCrashed,
    InstanceGrew,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceLoadStarted,
    InstanceUnloaded,
    ModelPinned,
    ModelQuarantined,
    ModelRegistered,
    ModelReleased,
    ModelRemoved,
    ModelUnpinned,
    NodeDraining,
    NodeLost,
    NodeResumed,
    NodeStarted,
    NodeStopped,
    PredictionMade,
    PredictionSettled,
    Promoted,
    PromotionStarted,
    PromotionStopped,
    RequestsRefused,
    TakenBack,
    WaitEnded,
    WaitStarted,
)
from suite.units import size

LEAST_TOLD_SECONDS: Final = 0.1
"""A wait or a rest that was shorter is not worth telling."""
_WANTED: Final[Mapping[Purpose, tuple[str, str]]] = {
    "request": ("request", "for {}"),
    "preload": ("load", "of {} for a bet"),
    "pin": ("load", "of {} for its pin"),
    "replica": ("load", "of {} as a replica"),
    "promotion": ("load", "of {} for its promotion"),
}
"""What is refused, by what a model was wanted for."""
FACTS: tuple[type[Event], ...] = (
    InstanceLoadStarted,
    InstanceLoaded,
    InstanceLoadFailed,
    InstanceGrew,
    InstanceUnloaded,
    InstanceCrashed,
    WaitStarted,
    WaitEnded,
    RequestsRefused,
    ModelRegistered,
    ModelRemoved,
    ModelPinned,
    ModelUnpinned,
    ModelQuarantined,
    ModelReleased,
    PredictionMade,
    PredictionSettled,
    NodeDraining,
    NodeResumed,
    BenchmarkStarted,
    BenchmarkMoved,
    BenchmarkProgressed,
    BenchmarkFinished,
    BenchmarkFailed,
    BenchmarkCancelled,
    AliasSet,
    AliasRemoved,
    PromotionStarted,
    CanaryStarted,
    Promoted,
    PromotionStopped,
    TakenBack,
)
"""The events that are explained."""


def sentences(recorded: Recorded, cause: Recorded | None = None) -> tuple[str, ...]:
    """What happened and why; empty for an event that says nothing about memory or benchmarks.

    `cause` is the event with the decision that this one carries out, for what was evicted.
    """
    return tuple(_sentences(recorded.data, recorded.time, cause))


def _sentences(event: Event, time: datetime, cause: Recorded | None) -> Iterator[str]:
    match event:
        case InstanceLoadStarted():
            yield from _load_started(event, time)
        case InstanceLoaded():
            yield _loaded(event)
        case InstanceLoadFailed(code=LoadCancelled.code):
            yield f"The load of {event.model_id} on {event.node} was ended before it was ready."
        case InstanceLoadFailed():
            yield f"{event.model_id} could not be loaded on {event.node}: {event.message} ({event.code})."
        case InstanceGrew():
            reserved = size(event.reserved_bytes)
            yield f"{event.model_id} on {event.node} needs more memory by now: it counts for {reserved}."
        case InstanceUnloaded():
            yield from _unloaded(event, cause)
        case InstanceCrashed():
            told = incident(event)
            assert told is not None, "a crash is an incident"
            yield f"{told.message[0].upper()}{told.message[1:]}."
        case WaitStarted():
            yield from _wait_started(event, time)
        case WaitEnded():
            yield _wait_ended(event)
        case RequestsRefused():
            yield from _refused(event, time)
        case ModelRegistered() if event.base:
            yield f"{event.node} found {event.model_id}, which stands for {_with_adapters(event)}."
        case ModelRegistered():
            yield f"{event.node} found {event.model_id} in {event.file_name}, {size(event.file_bytes)}."
        case ModelRemoved():
            yield f"The file of {event.model_id} is gone from {event.node}."
        case ModelPinned():
            yield f"{event.model_id} was pinned on {event.node}: it stays loaded."
        case ModelUnpinned():
            yield f"{event.model_id} was unpinned on {event.node}: it need not stay loaded any longer."
        case ModelQuarantined():
            yield (
                f"{event.model_id} is left alone on {event.node} until {moment(event.until)}: it "
                f"{failed_with(event.failures, event.reason)}."
            )
        case ModelReleased(reason="worked"):
            yield f"{event.model_id} was tried again on {event.node} and worked: it is loaded like any other."
        case ModelReleased():
            yield f"{event.model_id} was released on {event.node}: it is loaded like any other again."
        case PredictionMade():
            yield from bets.made(event)
        case PredictionSettled():
            yield bets.settled(event)
        case BenchmarkEvent():
            yield from benchmarks.sentences(event)
        case AliasEvent():
            yield from promotions.told(event)
        case NodeStarted():
            yield f"The service on {event.node} started."
        case NodeStopped():
            yield f"The service on {event.node} stopped."
        case NodeDraining():
            yield (
                f"{event.node} is being drained{asked(event.requested_by)}: it gets no new work "
                "that another node can do."
            )
        case NodeResumed():
            yield f"{event.node} takes work again{asked(event.requested_by)}: it is not drained any more."
        case NodeLost():
            yield f"The service on {event.node} ended without a stop, as {event.observer} noticed."


# --- loads ------------------------------------------------------------------------------------------------


def _with_adapters(event: ModelRegistered) -> str:
    scaled = [each.id if each.scale == 1 else f"{each.id} x {each.scale:g}" for each in event.adapters]
    return f"{event.base} with {listed(scaled)}" if scaled else event.base


def _loaded(event: InstanceLoaded) -> str:
    taken = f"it takes {size(ready_bytes(event).total)}"
    if event.gpus:
        taken += f" ({_by_gpu(event.gpus)})"
    if event.estimated_bytes:
        taken += f", and {size(event.estimated_bytes)} had been estimated"
    return f"{event.model_id} was loaded on {event.node} in {span(event.load_ms / 1000)}: {taken}."


def _by_gpu(gpus: Mapping[str, int]) -> str:
    """What of a number of bytes is on GPUs."""
    return listed([f"{size(count)} on {name}" for name, count in gpus.items()])


def _load_started(event: InstanceLoadStarted, time: datetime) -> Iterator[str]:
    decision = event.decision
    if decision is None:
        reserved = size(event.reserved_bytes)
        yield f"{event.model_id} began to load on {event.node}: {reserved} were reserved for it."
        if event.evicting:
            yield f"{listed(event.evicting)} left for it."
        yield "An older version wrote this event: it does not say what else was weighed."
        return
    yield f"{event.model_id} began to load on {event.node} {_why_it_loads(decision)}."
    yield decisions.memory(decision)
    yield from decisions.leaving(decision, event.evicting)
    yield from decisions.alternatives(decision, time, "loads")


def _why_it_loads(decision: Decision) -> str:
    match decision.purpose:
        case "preload":
            return "because it was likely to be used soon: nobody had asked for it yet"
        case "pin":
            return "because it is pinned"
        case "replica":
            return "as a replica: requests for it waited on other nodes"
        case "promotion":
            return "because it is being promoted"
        case _:
            requests = counted(decision.waiting, "request")
            waited = decision.waited_seconds
            after = f", after {span(waited)} of waiting" if waited >= LEAST_TOLD_SECONDS else ""
            return f"because {requests} needed it{after}"


# --- what left --------------------------------------------------------------------------------------------


def _unloaded(event: InstanceUnloaded, cause: Recorded | None) -> Iterator[str]:
    model, node = event.model_id, event.node
    match event.reason:
        case "requested":
            yield f"{model} was unloaded on {node}: {event.requested_by or 'somebody'} asked for it."
        case "idle":
            yield f"{model} was unloaded on {node}: {_idle(event)}."
        case "evicted":
            yield from _evicted(event, cause)
        case "shutdown":
            yield f"{model} was unloaded on {node}: the service stopped."
        case "node_lost":
            yield f"{model} was gone from {node} when the service started again: it had ended without a stop."
        case "file_removed":
            yield f"{model} was unloaded on {node}: its file was deleted."
        case "file_changed":
            yield f"{model} was unloaded on {node}: its file has other content than was loaded."
        case "spare":
            yield f"{model} was unloaded on {node}: it was a replica, and those on other nodes are enough."


def _idle(event: InstanceUnloaded) -> str:
    if event.unused_seconds is None:
        return "nobody had used it for as long as it is kept"
    kept = event.keep_alive_seconds
    after = f", and it is kept for {span(kept)}" if kept is not None else ""
    return f"nobody had used it for {span(event.unused_seconds)}{after}"


def _evicted(event: InstanceUnloaded, cause: Recorded | None) -> Iterator[str]:
    model, node = event.model_id, event.node
    if event.decision is not None:
        room = decisions.scarcest(event.decision)
        where = f" on {event.decision.scarcest}" if event.decision.scarcest != RAM else ""
        yield (
            f"{model} left {node}: the models there needed {size(-room.free_bytes)} more together than the "
            f"limit of {size(room.limit_bytes)}{where}."
        )
        yield from decisions.others(
            [each for each in event.decision.candidates if not each.chosen], event.decision
        )
        return
    started = cause.data if cause is not None else None
    loaded = event.evicted_for or (started.model_id if isinstance(started, InstanceLoadStarted) else "")
    seq = event.decision_seq or (cause.seq if cause is not None else 0)
    told = f"so that {loaded} could be loaded (event {seq})" if loaded else "to make room for another model"
    yield f"{model} left {node} {told}.{_unused(event.unused_seconds)}"
    if cause is not None and isinstance(started, InstanceLoadStarted) and started.decision is not None:
        for each in decisions.alternatives(started.decision, cause.time, "loads", about=model):
            yield each.replace(" left for it", f" left for {loaded}").replace(" to leave for it", " to leave")


def _unused(seconds: float | None) -> str:
    if seconds is None or seconds < LEAST_TOLD_SECONDS:
        return ""
    return f" It had not been used for {span(seconds)}."


# --- waits and refusals -----------------------------------------------------------------------------------


def _wait_started(event: WaitStarted, time: datetime) -> Iterator[str]:
    decision = event.decision
    requests = counted(decision.waiting, "request")
    waited = f"{requests} waited for {event.model_id} on {event.node}"
    place = "it was next in line" if event.place == 1 else f"it had place {event.place} in the line"
    yield f"{waited}, for {span(decision.waited_seconds)} by then; {place}."
    yield decisions.memory(decision)
    yield from decisions.waited_for(decision, event.waits_for)
    yield from decisions.alternatives(decision, time, "waits")


def _wait_ended(event: WaitEnded) -> str:
    ends = (
        (event.served, "got it"),
        (event.refused, "waited in vain"),
        (event.withdrawn, "gave up"),
    )
    told = [f"{counted(count, 'request')} {end}" for count, end in ends if count]
    over = f"The wait for {event.model_id} on {event.node} was over: {listed(told or ['nobody waited'])}."
    return f"{over} The longest wait was {span(event.longest_seconds)}."


def _refused(event: RequestsRefused, time: datetime) -> Iterator[str]:
    what, of = _WANTED.get(event.purpose, _WANTED["request"])
    of = of.format(event.model_id)
    if event.requests == 1:
        told = f"A {what} {of} was refused on {event.node}"
    else:
        within = f" within {span(event.within_seconds)}" if event.within_seconds else ""
        told = f"{counted(event.requests, what)} {of} were refused on {event.node}{within}"
    waited = f" after {span(event.waited_seconds)}" if event.waited_seconds >= LEAST_TOLD_SECONDS else ""
    yield f"{told}{waited}: {event.message} ({event.code})."
    if event.decision is not None:
        yield from decisions.alternatives(event.decision, time, "refused")
