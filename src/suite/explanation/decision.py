"""What a decision weighed, and what would have changed it, in sentences."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Literal, TypeAlias

from suite.explanation.words import before, counted, listed, span
from suite.messages.decisions import (
    RAM,
    AnyAlternative,
    Candidate,
    Decision,
    GpuRoom,
    MoreMemory,
    NotPinned,
    NotUsed,
    Standing,
    UsedLater,
    WorthMore,
)
from suite.units import size

Room: TypeAlias = Decision | GpuRoom
"""What was weighed of one memory; a decision's own numbers are those of RAM."""
Outcome: TypeAlias = Literal["loads", "waits", "refused"]
"""What was decided: the model was loaded, its requests went on waiting, or they were refused."""


def memory(decision: Decision) -> str:
    """What was needed and what was free: of each memory that it needed, the scarcest first."""
    rooms: list[Room] = [each for each in decision.gpus if each.need_bytes]
    rooms.sort(key=lambda each: name_of(each) != decision.scarcest)
    rooms.insert(0 if decision.scarcest == RAM else 1, decision)
    if len(rooms) == 1 and not decision.gpus:
        return f"It needed {_needed(decision)}."
    return " ".join(f"It needed {_needed(each, name_of(each))}." for each in rooms)


def _needed(room: Room, memory: str = "") -> str:
    free = size(room.free_bytes) if room.free_bytes > 0 else "nothing"
    left = room.left_by_others_bytes
    others = f"; other programs left only {size(max(left, 0))} of that" if left is not None else ""
    return f"{size(room.need_bytes)}{_in(memory)}, and {free} of {size(room.limit_bytes)} was free{others}"


def name_of(room: Room) -> str:
    """The name of the memory that these numbers are of."""
    return room.name if isinstance(room, GpuRoom) else RAM


def scarcest(decision: Decision) -> Room:
    """The numbers of the memory that was the scarcest."""
    return next((each for each in decision.gpus if each.name == decision.scarcest), decision)


def _in(memory: str) -> str:
    """Where that is, as the end of a clause; empty where nothing is said of it: there is only one memory."""
    return "" if not memory else " of RAM" if memory == RAM else f" on {memory}"


def leaving(decision: Decision, evicting: Sequence[str]) -> Iterator[str]:
    """Who left, in what order they were chosen, and why the others stayed."""
    known = {each.model_id: each for each in decision.candidates}
    if not evicting:
        yield "Nobody had to leave for it."
    else:
        told = [_who_left(id, known.get(id), decision.scarcest) for id in evicting]
        yield f"{listed(told)} left for it."
        yield from _order(decision)
    yield from others([each for each in decision.candidates if each.model_id not in evicting], decision)


def _who_left(model_id: str, candidate: Candidate | None, memory: str) -> str:
    if candidate is None:
        return model_id
    there = candidate.gpus.get(memory)
    had = size(candidate.bytes) if there is None else f"{size(there)}{_in(memory)}"
    if candidate.standing == "unloading":
        return f"{model_id} ({had}, which was leaving already)"
    return f"{model_id} ({had}, not used for {span(candidate.unused_seconds)})"


def _order(decision: Decision) -> Iterator[str]:
    """By what rule they were chosen, if others could have left as well."""
    idle = [each for each in decision.candidates if each.standing == "idle"]
    chosen = [each.model_id for each in idle if each.chosen]
    if not 0 < len(chosen) < len(idle):
        return
    if decision.policy:
        yield f"Of those that could leave, the policy {decision.policy} found {listed(chosen)} worth least."
    else:
        yield f"Of those that could leave, {listed(chosen)} had not been used for longest."


def others(candidates: Iterable[Candidate], decision: Decision) -> Iterator[str]:
    """Who else was in memory, and why each of them stayed."""
    told = [f"{each.model_id} ({_why_it_stayed(each)})" for each in candidates]
    if decision.more_candidates:
        told.append(f"{decision.more_candidates} more")
    if told:
        yield f"Also in memory: {listed(told)}."


_STANDING: dict[Standing, str] = {
    "loading": "it was loading",
    "preloading": "it was loading, as it was likely to be used",
    "unloading": "it was leaving already",
    "pinned": "it was pinned",
    "serving": "it serves under an alias to which another version was being promoted",
    "promised": "it was to leave for another model in front",
}


def _why_it_stayed(candidate: Candidate) -> str:
    match candidate.standing:
        case "idle":
            return f"not used for {span(candidate.unused_seconds)}"
        case "kept":
            stays = candidate.stays_seconds
            return "it was to stay" + (
                f" for another {span(stays)}" if stays is not None else " a little longer"
            )
        case "used":
            turn = candidate.stays_seconds
            left = f", and had {span(turn)} left of its turn" if turn else ""
            return f"{counted(candidate.uses, 'request')} used it{left}"
        case "closing":
            return f"{counted(candidate.uses, 'request')} still used it, it took no others"
        case _:
            return _STANDING[candidate.standing]


def waited_for(decision: Decision, waits_for: Sequence[str]) -> Iterator[str]:
    """Why those that a model waits for have not left yet, and who else is in memory."""
    known = {each.model_id: each for each in decision.candidates}
    if waits_for:
        told = [f"{id} ({_why_it_stayed(known[id])})" if id in known else id for id in waits_for]
        yield f"It waited until {listed(told)} could leave."
    yield from others([each for each in decision.candidates if each.model_id not in waits_for], decision)


def alternatives(
    decision: Decision, time: datetime, outcome: Outcome, *, about: str | None = None
) -> Iterator[str]:
    """What would have changed the decision of this time. `about`: only what would have kept this model."""
    for each in decision.alternatives:
        if about is None or _is_about(each, about):
            yield _alternative(each, time, outcome)


def _is_about(alternative: AnyAlternative, model_id: str) -> bool:
    if isinstance(alternative, UsedLater | WorthMore):
        return alternative.model_id == model_id
    return model_id not in alternative.evicting


def _alternative(alternative: AnyAlternative, time: datetime, outcome: Outcome) -> str:
    then = _then(alternative, outcome)
    match alternative:
        case MoreMemory():
            return f"With {_more(alternative)}, {then}."
        case NotPinned():
            return f"Had {alternative.model_id} not been pinned, {then}."
        case NotUsed():
            return f"Had nobody used {alternative.model_id}, {then}."
        case UsedLater():
            since = before(time, alternative.unused_seconds)
            return f"Had {alternative.model_id} been used after {since}, {then}."
        case WorthMore():
            return f"Had the policy found {alternative.model_id} worth more, {then}."


def _more(alternative: MoreMemory) -> str:
    if not alternative.gpus:
        return f"{size(alternative.bytes)} more memory"
    ram = alternative.bytes - sum(alternative.gpus.values())
    more = [f"{size(count)} more{_in(name)}" for name, count in alternative.gpus.items()]
    return listed([*more, *([f"{size(ram)} more{_in(RAM)}"] if ram else [])])


def _then(alternative: AnyAlternative, outcome: Outcome) -> str:
    if not alternative.starts:
        return "its requests could have waited for their turn"
    leave = f"{listed(alternative.evicting)} would have left for it" if alternative.evicting else ""
    if outcome == "loads":
        return leave or "nobody would have had to leave for it"
    return "it would have been loaded at once" + (f", and {leave}" if leave else "")
