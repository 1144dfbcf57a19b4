"""Answers a request for memory: served, it waits, or refused and why (`suite.domain.turns`)."""

from __future__ import annotations

import msgspec

from suite.domain.footprint import Footprint, total_of
from suite.domain.residency import Resident
from suite.domain.turns import UNUSED, Occupancies, Queued, Request, Served, Turns, is_open
from suite.errors import NotEnoughMemory, Overloaded
from suite.messages.decisions import RAM
from suite.units import size


class Ask(msgspec.Struct, frozen=True, kw_only=True):
    """The command to serve a request, given how the residents are used now."""

    request: Request
    occupancy: Occupancies


def decide(state: Turns, command: Ask) -> Served | Queued:
    """Serve a request at once if its model is there and stays, or let it wait.

    Raises NotEnoughMemory for a model that can never fit, with a list of what is pinned, and Overloaded if
    too many wait for the model already.
    """
    request = command.request
    if is_open(state, request.model_id, command.occupancy) and request.model_id not in state.closing:
        return Served(request=request)
    error = never_fits(state, request.model_id, state.need_bytes(request), smaller=request.smaller)
    if error is not None:
        raise error
    waiting = len(state.queue(request.model_id))
    if waiting >= state.queue_limit:
        raise Overloaded(
            f"{waiting} requests wait until {request.model_id} can be loaded: try again later, "
            "or raise queue_limit"
        )
    return Queued(request=request)


def never_fits(
    state: Turns, model_id: str, need_bytes: Footprint, *, smaller: str = ""
) -> NotEnoughMemory | None:
    """Why a model of this size can never be loaded, as things stand; None if it can.

    `smaller` is as that of a request.
    """
    limit_bytes = state.residency.limit_bytes
    if not need_bytes.is_within(limit_bytes):
        memory = need_bytes.beyond(limit_bytes).largest
        return NotEnoughMemory(
            f"{model_id} needs {size(need_bytes[memory])}{_on(memory)}, the limit is "
            f"{size(limit_bytes[memory])}: raise {limit_setting(memory)}"
            + (f', or set in models."{model_id}" {smaller}' if smaller else "")
        )
    if not state.pinned:
        return None
    others = {each: state.pinned_bytes(each) for each in state.pinned if each != model_id}
    left = limit_bytes - total_of(others.values())
    if not need_bytes.is_within(left):
        memory = need_bytes.beyond(left).largest
        pinned = ", ".join(f"{id} {size(each[memory])}" for id, each in others.items() if each[memory])
        return NotEnoughMemory(
            f"{model_id} needs {size(need_bytes[memory])} of {size(limit_bytes[memory])}{_on(memory)}, and "
            f"these models are pinned: {pinned}; unpin one of them, or raise {limit_setting(memory)}"
        )
    return None


def _on(memory: str) -> str:
    """Where that is, as the end of a clause. RAM is not named: most nodes have no other memory."""
    return "" if memory == RAM else f" on {memory}"


def limit_setting(memory: str) -> str:
    """The setting that limits a memory."""
    return "memory_limit_gb" if memory == RAM else "vram_limit_gb"


def refusal(state: Turns, request: Request, occupancy: Occupancies) -> NotEnoughMemory:
    """What a request gets that has waited in vain: what uses the memory that is the scarcest for it."""

    def use(resident: Resident) -> str:
        now = occupancy.get(resident.model_id, UNUSED)
        if resident.phase == "loading":
            return "loading"
        if now.leaving:
            return "unloading"
        if resident.model_id in state.pinned:
            return "pinned"
        if (alias := state.serving.get(resident.model_id)) is not None:
            return f"it serves under {alias} until the promotion there has ended"
        return "in use" if now.holds else "idle"

    residency, need_bytes = state.residency, state.need_bytes(request)
    memory = need_bytes.scarcest(residency.admissible_bytes - residency.reserved_bytes)
    used = ", ".join(
        f"{each.model_id} {size(each.reserved_bytes[memory])} ({use(each)})"
        for each in residency.residents.values()
        if each.reserved_bytes[memory] or memory == RAM
    )
    left, limit = residency.admissible_bytes[memory], residency.limit_bytes[memory]
    is_squeezed = left < limit
    told = f"{size(limit)}{_on(memory)}"
    told += f", of which other programs leave {size(left)}" if is_squeezed else ""
    told += f", which is used by {used}" if used else ""
    ways = [
        *(["unload one of them when it is free"] if used else []),
        "end other programs" if is_squeezed else f"raise {limit_setting(memory)}",
        "or allow a longer load_wait_ms",
    ]
    return NotEnoughMemory(
        f"{request.model_id} needs {size(need_bytes[memory])} of {told}: {', '.join(ways)}"
    )
