"""Judges the log by what clients were told: every acknowledged event is there, once, where they were told."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence

from suite.messages.envelope import Recorded
from support.durability.findings import Finding
from support.durability.history import Acknowledged, History, Key, keys_of
from support.invariants import check_fencing, check_instances, check_once


def judged_log(history: History, events: Sequence[Recorded]) -> list[Finding]:
    """All that is wrong with the events of a whole log."""
    places: dict[Key, list[int]] = defaultdict(list)
    for event in events:
        for key in keys_of(event):
            places[key].append(event.seq)
    return [
        *_lost(history, places),
        *_doubled(places),
        *_elsewhere(history, places),
        *_reordered(history, places),
        *_malformed(events),
    ]


def _lost(history: History, places: Mapping[Key, Sequence[int]]) -> Iterator[Finding]:
    for key, told in history.acknowledged.items():
        if key not in places:
            yield Finding("lost", f"{_name(key)}, acknowledged at {told.seq}, is not in the log")


def _doubled(places: Mapping[Key, Sequence[int]]) -> Iterator[Finding]:
    """Whether it was acknowledged or not: what has an id is there once."""
    for key, seqs in places.items():
        if len(seqs) > 1:
            yield Finding("doubled", f"{_name(key)} is in the log at {', '.join(map(str, seqs))}")


def _elsewhere(history: History, places: Mapping[Key, Sequence[int]]) -> Iterator[Finding]:
    for key, told in history.acknowledged.items():
        if told.seq is not None and key in places and told.seq not in places[key]:
            yield Finding("elsewhere", f"{_name(key)}, acknowledged at {told.seq}, is at {places[key][0]}")


def _reordered(history: History, places: Mapping[Key, Sequence[int]]) -> Iterator[Finding]:
    """What was acknowledged before another was asked for is before it in the log: one total order, as it was.

    A load is left out: who asks for a model that is loaded already is told of a load before that.
    """
    stored = [told for key, told in history.acknowledged.items() if key in places and key[0] != "load"]
    by_end = sorted(stored, key=lambda told: told.told_at)
    highest: Acknowledged | None = None
    done = 0
    for told in sorted(stored, key=lambda told: told.asked_at):
        while done < len(by_end) and by_end[done].told_at < told.asked_at:
            if highest is None or places[by_end[done].key][0] > places[highest.key][0]:
                highest = by_end[done]
            done += 1
        if highest is not None and places[highest.key][0] > places[told.key][0]:
            yield Finding(
                "reordered",
                f"{_name(told.key)} at {places[told.key][0]} was asked for after {_name(highest.key)} at "
                f"{places[highest.key][0]} had been acknowledged",
            )


def _malformed(events: Sequence[Recorded]) -> Iterator[Finding]:
    checks: tuple[Callable[[Sequence[Recorded]], None], ...] = (check_once, check_instances, check_fencing)
    for check in checks:
        try:
            check(events)
        except AssertionError as error:
            yield Finding("log", f"{check.__name__}: {error}")


def _name(key: Key) -> str:
    return f"{key[0]} {key[1]}"
