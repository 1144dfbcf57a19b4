"""Filters of events as people write them, with ids as they are.

A filter is an aggregate, its ids and a fact: ``usage.SmolLM2-135M-Instruct.Q4_1.generated``. In the subjects
of NATS the dots of an id are escaped, so every possible division of the filter into ids becomes a subject::

    event_filters(Subjects(), "usage.m.Q4.>")  ->  ("suite.event.usage.m%2EQ4.>",)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from suite.errors import InvalidRequest
from suite.messages.events import REGISTRY
from suite.messages.subjects import Subjects, escape, unescape

ANY: Final = "*"
REST: Final = ">"
_IDS: Final = {
    "instance": ("a node's name", "a model's id"),
    "admission": ("a node's name", "a model's id"),
    "breaker": ("a node's name", "a kind", "a name"),
}
"""The ids of aggregates that have several."""

FACTS: Final[Mapping[str, tuple[str, ...]]] = {
    aggregate: tuple(dict.fromkeys(kind.fact for kind in REGISTRY.values() if kind.aggregate == aggregate))
    for aggregate in sorted({kind.aggregate for kind in REGISTRY.values()})
}
"""The facts of each aggregate."""


def event_filters(subjects: Subjects, filter: str | None) -> tuple[str, ...]:
    """The subject filters of the events that a filter asks for; no subject matches two of them.

    The filter may begin with ``suite.event.``. ``*`` stands for any aggregate, for one whole id or for any
    fact, and ``>`` for all that follows. What is left out at the end may be anything, as are the ids in
    ``usage.generated``. None is a filter for all events. Raises InvalidRequest for an aggregate that does not
    exist, and for a filter that no event can match.
    """
    if not filter:
        return (subjects.events,)
    start = f"{subjects.root}.event."
    aggregate, *tokens = filter.removeprefix(start).split(".")
    if REST in tokens[:-1] or (aggregate == REST and tokens):
        raise InvalidRequest(f"the filter {filter!r} matches nothing: > stands only at the end")
    if aggregate in (ANY, REST) and tokens in ([], [REST]):
        return (subjects.events,)
    named = tuple(FACTS) if aggregate == ANY else (_known(aggregate),)
    tails = [f"{name}.{tail}" for name in named for tail in _tails(name, tokens)]
    if not tails:
        raise InvalidRequest(
            f"the filter {filter!r} matches nothing: {aggregate} is followed by {_shape(aggregate)}, where * "
            "stands for a whole id"
        )
    return tuple(start + tail for tail in tails)


def events_of_model(subjects: Subjects, model_id: str) -> tuple[str, ...]:
    """The subject filters of all events about one model."""
    token = escape(model_id)
    tails = (
        f"model.{token}.>",
        f"instance.*.{token}.>",
        f"admission.*.{token}.>",
        f"usage.{token}.>",
        f"prediction.{token}.>",
        f"evaluation.{token}.>",
    )
    return tuple(f"{subjects.root}.event.{tail}" for tail in tails)


def _known(aggregate: str) -> str:
    if aggregate in FACTS:
        return aggregate
    near = difflib.get_close_matches(aggregate, FACTS, n=1)
    hint = f"did you mean {near[0]!r}? There are" if near else "there are"
    raise InvalidRequest(f"no events are about {aggregate[:80]!r}: {hint} {', '.join(FACTS)}")


def _id_count(aggregate: str) -> int:
    return len(_IDS.get(aggregate, ("one id",)))


def _shape(aggregate: str) -> str:
    *ids, last = _IDS.get(aggregate, ("one id",))
    return f"{', '.join(ids)} and {last}, and a fact" if ids else f"{last} and a fact"


def _tails(aggregate: str, tokens: Sequence[str]) -> Iterator[str]:
    """What may stand behind the aggregate in a subject, for each division of the tokens into ids."""
    *ids, last = tokens or [REST]
    if last not in (ANY, REST, *FACTS[aggregate]):
        ids, last = [*ids, last], REST
    for parts in _divisions(ids, _id_count(aggregate)):
        missing = 0 if last == REST else _id_count(aggregate) - len(parts)
        yield ".".join((*map(_token, parts), *(ANY,) * missing, last))


def _divisions(tokens: Sequence[str], most: int) -> Iterator[tuple[str, ...]]:
    """The ways to join neighbours to at most this many ids; a wildcard stays alone."""
    if not tokens:
        yield ()
    elif most:
        for end in range(1, len(tokens) + 1):
            if end == 1 or ANY not in tokens[:end]:
                for rest in _divisions(tokens[end:], most - 1):
                    yield (".".join(tokens[:end]), *rest)


def _token(id: str) -> str:
    """The token of an id, which may be escaped already, as in a subject that was printed."""
    if id == ANY:
        return ANY
    try:
        plain = unescape(id)
    except UnicodeDecodeError:
        plain = id
    return id if escape(plain) == id else escape(id)
