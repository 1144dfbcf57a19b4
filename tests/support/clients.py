"""Clients of a node's memory in virtual time: each asks, uses the model for a while, and asks again."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import count

import msgspec

from support.memory import Memory


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for its models one after the other, from the beginning again, until it has made its requests."""

    models: Sequence[str]
    requests: int


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """How long each request took, from its asking to its end, and how many loads there were."""

    waits: list[float]
    loads: int


def run(
    clients: Sequence[Client],
    memory: Memory,
    sizes: Mapping[str, int],
    *,
    load_seconds: float,
    use_seconds: float,
) -> Outcome:
    """Let all clients make all their requests. A process ends at once."""
    waits: list[float] = []
    order = count()
    agenda: list[tuple[float, int, Callable[[], None]]] = []
    begun: set[tuple[str, float]] = set()
    using: set[str] = set()
    owners: dict[str, tuple[Client, int]] = {}

    def at(time: float, what: Callable[[], None]) -> None:
        heapq.heappush(agenda, (time, next(order), what))

    def ask(client: Client, made: int) -> None:
        if made == client.requests:
            return
        model = client.models[made % len(client.models)]
        owners[memory.ask(model, sizes[model])] = (client, made)

    def end(request_id: str) -> None:
        client, made = owners.pop(request_id)
        waits.append(memory.now - memory.served[request_id].since)
        memory.finish(request_id)
        ask(client, made + 1)

    def note() -> None:
        """See to it that what has begun comes to its end."""
        for model in list(memory.leaving):
            memory.leave(model)
        for model, since in memory.begun.items():
            if (model, since) not in begun:
                begun.add((model, since))
                at(since + load_seconds, partial(memory.finish_load, model))
        for model, ids in memory.using.items():
            if model in memory.state.tenures:
                for id in sorted(ids - using, key=lambda id: int(id[1:])):
                    using.add(id)
                    at(memory.now + use_seconds, partial(end, id))

    for client in clients:
        ask(client, 0)
    note()
    while agenda or memory.waiting:
        if not agenda or memory.plan.due < agenda[0][0]:
            memory.pass_time(memory.plan.due - memory.now)
        else:
            time, _, what = heapq.heappop(agenda)
            memory.pass_time(time - memory.now)
            what()
        note()
    return Outcome(waits=waits, loads=len(memory.starts))
