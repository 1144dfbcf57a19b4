"""What each route of the gateway takes: by its OpenAPI document, and by the operations of the dashboard."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from random import Random
from typing import Any, Final, NamedTuple, TypeAlias, cast
from urllib.parse import quote

from suite.gateway.dashboard import endpoints as dashboard
from suite.gateway.dashboard.chat import TryRequest
from suite.gateway.dashboard.files import static_files
from suite.gateway.dashboard.history import EventsWanted
from suite.gateway.dashboard.names import ModelWanted
from suite.gateway.dashboard.traces import TraceWanted
from suite.gateway.gateway import Gateway
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.replay import ReplayHistoryRequest
from suite.messages.jsonschema import action_types, schema_of
from support.fuzzing.mutation import TEXTS, text
from support.fuzzing.values import Hint, Values

Make: TypeAlias = Callable[[Random], Any]

ENDLESS: Final = "/ui/live"
"""The answer to this has no end of its own."""
_BODIES: Final[Mapping[str, type]] = {"/ui/chat": TryRequest, "/ui/replay": ReplayHistoryRequest}
_QUERIES: Final[Mapping[str, type]] = {
    "/ui/events": EventsWanted,
    "/ui/model": ModelWanted,
    "/ui/trace": TraceWanted,
}
_FORWARDED: Final = {"/ui/ask/{action}": dashboard.ASKED, "/ui/do/{action}": dashboard.DONE}
"""Each of these is as many routes as it has actions."""
_SHARES: Final = {"/ui/do/{action}": 1, "/ui/ask/{action}": 2, "/ui/replay": 1}
"""How often a route is asked for; others have 2, and 8 if they have a body."""


class Shape(NamedTuple):
    """One route, and what makes the parts of a request for it."""

    method: str
    path: Make
    share: int
    body: Make | None = None
    query: Make | None = None


def shapes(document: Mapping[str, Any], hints: Mapping[str, Hint]) -> list[Shape]:
    """All routes of a gateway that has this OpenAPI document."""
    return [*_documented(document, hints), *_of_dashboard(hints)]


def _documented(document: Mapping[str, Any], hints: Mapping[str, Hint]) -> Iterator[Shape]:
    values = Values(document, hints)
    for path, methods in document["paths"].items():
        for method, described in methods.items():
            share, body = 2, None
            if "requestBody" in described:
                schema = described["requestBody"]["content"]["application/json"]["schema"]
                share, body = 8, partial(values.of, schema)
            yield Shape(method.upper(), _filled(path, ("tiny", "nobody", "chat")), share, body)


def _of_dashboard(hints: Mapping[str, Hint]) -> Iterator[Shape]:
    """Raises KeyError for an operation of which nothing here says what it takes."""
    requests = {each.name: each.request for each in action_types()}
    plain = {"/ui": (), "/ui/static/{file:path}": tuple(static_files()), ENDLESS: ()}
    for each in dashboard.operations(cast(Gateway, None)):  # they ask it only when they are asked
        share = _SHARES.get(each.path, 2)
        if (actions := _FORWARDED.get(each.path)) is not None:
            for action in actions:
                path = _filled(each.path, (action,))
                yield Shape(each.method, path, share, _values(requests[action], hints))
        elif (kind := _BODIES.get(each.path)) is not None:
            messages: Hint = _values(list[ChatMessage], hints)
            yield Shape(
                each.method, _filled(each.path), share, _values(kind, {**hints, "messages": messages})
            )
        elif (kind := _QUERIES.get(each.path)) is not None:
            yield Shape(each.method, _filled(each.path), share, query=_values(kind, hints))
        else:
            yield Shape(each.method, _filled(each.path, plain[each.path]), share)


def _values(kind: Any, hints: Mapping[str, Hint]) -> Make:
    return Values(schema_of(kind), hints).value


def _filled(path: str, chosen: tuple[str, ...] = ()) -> Make:
    """Makes paths with something in place of what is open in a path, mostly one of these."""
    before, brace, _ = path.partition("{")

    def make(random: Random) -> str:
        if not brace:
            return path
        if random.random() < 0.9:
            return before + random.choice(chosen)
        return before + quote(random.choice((text(random), *TEXTS))[:5000], safe="/")

    return make
