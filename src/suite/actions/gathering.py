"""Has each node of the fleet answer a request for itself, and makes one reply of theirs (ADR 58)::

    @action("get_stats", route="each")
    @gathered("get_stats", merged_stats)
    async def get_stats(node: Node, request: GetStatsRequest, call: Call) -> GetStatsReply:
        ...  # of this node alone

`merged_stats(request, replies)` is pure, and gets the replies by node without their warnings: that of the
node that gathers first, the others by name. A request that names a node, or that another node asks, is
answered by the handler alone; so is every request in a fleet of one.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import wraps
from typing import Final, TypeAlias, TypeVar, get_type_hints

import anyio
from msgspec.structs import replace

from suite import telemetry
from suite.bus.service import Call
from suite.errors import (
    Disabled,
    GenerationNotFound,
    ModelFileGone,
    ModelNotFound,
    NodeLost,
    NodeStopping,
    NoService,
    RequestTimeout,
    SuiteError,
)
from suite.messages.actions.base import CLIENT_HEADER, FleetReply, Query, Request
from suite.node.fleet.fleet import ASK_SECONDS
from suite.node.heartbeats import beating
from suite.node.node import Node
from suite.projections.reply_size import left_out

Q = TypeVar("Q", bound=Request)
R = TypeVar("R", bound=FleetReply)

Handler: TypeAlias = Callable[[Node, Q, Call], Awaitable[R]]
Merge: TypeAlias = Callable[[Q, Mapping[str, R]], R]
Seconds: TypeAlias = Callable[[Q], float]
"""How long the other nodes may take for a request."""

MOST_WARNINGS: Final = 100
"""So many warnings of nodes are told: a message has no room for those of many."""
_MISSING: Final = (NodeLost, NodeStopping, NoService, RequestTimeout)
"""The errors of nodes that have not answered."""
_WITHOUT: Final = (Disabled, GenerationNotFound, ModelFileGone, ModelNotFound)
"""The errors of nodes that have nothing of what a request is about. Others may have it."""


def gathered(
    name: str, merge: Merge[Q, R], *, seconds: Seconds[Q] = lambda _: ASK_SECONDS, changes: bool = False
) -> Callable[[Handler[Q, R]], Handler[Q, R]]:
    """Have the action of this name answered by each node, and its replies merged.

    `changes`: whether it changes something, so that a node that could not do it fails the request. Otherwise
    a warning says what that node refused.
    """

    def decorate(handler: Handler[Q, R]) -> Handler[Q, R]:
        kind: type[R] = get_type_hints(handler)["return"]

        @wraps(handler)
        async def for_fleet(node: Node, request: Q, call: Call) -> R:
            is_for_one = call.is_of_node or request.node is not None
            if is_for_one or not (node.fleet.others or node.fleet.peers.lost):
                return await handler(node, request, call)
            asked = _asked(node, request)
            answers = await ask_all(
                node,
                name,
                dict.fromkeys(node.fleet.answering, asked),
                kind,
                call,
                own=lambda: handler(node, request, call),
                is_streamed=getattr(request, "stream", False),
                seconds=seconds(request),
            )
            return completed(answers, lambda replies: merge(request, replies), changes=changes)

        return for_fleet

    return decorate


async def ask_all(
    node: Node,
    action: str,
    requests: Mapping[str, Request],
    kind: type[R],
    call: Call,
    *,
    own: Callable[[], Awaitable[R]] | None,
    is_streamed: bool = False,
    seconds: float,
) -> dict[str, R | SuiteError]:
    """The answers of other nodes to these requests and, if it is to do something too, that of this one.

    They are in the order of a merge. A requester that gets signals gets a heartbeat meanwhile.
    """
    answers: dict[str, R | SuiteError] = {}

    async def answer_own(own: Callable[[], Awaitable[R]]) -> None:
        try:
            answers[node.name] = await own()
        except SuiteError as error:
            answers[node.name] = error

    async def ask_others() -> None:
        others = await node.fleet.ask_each(action, requests, kind, headers=_headers(call), seconds=seconds)
        answers.update(others)

    async with beating(call if is_streamed else None), anyio.create_task_group() as tasks:
        tasks.start_soon(ask_others)
        if own is not None:
            tasks.start_soon(answer_own, own)
    lost = {each: NodeLost(f"node {each} is lost") for each in node.fleet.peers.lost}
    return dict(sorted({**lost, **answers}.items(), key=lambda pair: (pair[0] != node.name, pair[0])))


def completed(
    answers: Mapping[str, R | SuiteError], merge: Callable[[Mapping[str, R]], R], *, changes: bool
) -> R:
    """The reply of the fleet, with the nodes that did not answer. Raises the refusal if nothing else came.

    Raises also that of a single node if the request `changes` something.
    """
    replies = {name: each for name, each in answers.items() if not isinstance(each, SuiteError)}
    errors = {name: each for name, each in answers.items() if isinstance(each, SuiteError)}
    missing = tuple(name for name, each in errors.items() if isinstance(each, _MISSING))
    refusals = {name: each for name, each in errors.items() if not isinstance(each, (*_MISSING, *_WITHOUT))}
    if refusals and (changes or not replies):
        raise _refused(refusals, tuple(replies) if changes else ())
    if not replies:
        raise _found_nowhere(errors, missing)
    merged = merge({name: replace(each, warnings=()) for name, each in replies.items()})
    warnings = said({name: each.warnings for name, each in replies.items()})
    told = tuple(f"{name} refused: {each.message}" for name, each in refusals.items())
    kept = warnings[:MOST_WARNINGS]
    return replace(
        merged,
        missing_nodes=missing,
        warnings=(
            *_did_not_answer(missing),
            *told,
            *merged.warnings,
            *kept,
            *left_out(warnings, kept, "more warnings"),
        ),
    )


def said(sentences: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """What nodes say, by node: once what all say; the rest with the names of those that say it."""
    nodes: dict[str, list[str]] = {}
    for node, each in sentences.items():
        for sentence in dict.fromkeys(each):
            nodes.setdefault(sentence, []).append(node)
    return tuple(
        sentence if len(names) == len(sentences) else f"{', '.join(names)}: {sentence}"
        for sentence, names in nodes.items()
    )


def _asked(node: Node, request: Request) -> Request:
    """The request as other nodes get it: they send no signals, see what this one knows of the log, and need
    not know by which other name a model is called here; a name that says adapters too stays.
    """
    model_id = getattr(request, "model_id", None)
    if model_id is not None and node.catalogue.variant(model_id) is None:
        request = replace(request, model_id=node.fleet.canonical(model_id))
    if getattr(request, "stream", False):
        request = replace(request, stream=False)
    if isinstance(request, Query):
        request = replace(request, min_seq=max(request.min_seq, node.last_seq))
    return request


def _headers(call: Call) -> dict[str, str]:
    client = call.headers.get(CLIENT_HEADER)
    return ({} if client is None else {CLIENT_HEADER: client}) | telemetry.trace_headers()


def _refused(refusals: Mapping[str, SuiteError], done: tuple[str, ...]) -> SuiteError:
    node, first = next(iter(refusals.items()))
    error = first.copy()
    error.node = node
    if done:
        error.args = (f"{node}: {error.message} (done on {', '.join(done)})",)
    return error


def _found_nowhere(errors: Mapping[str, SuiteError], missing: tuple[str, ...]) -> SuiteError:
    """The error of a request about something that no node has, as the node here tells it."""
    error = next((each for each in errors.values() if isinstance(each, _WITHOUT)), None)
    if error is None:
        return next(iter(errors.values())).copy()
    error = error.copy()
    if missing:
        error.args = (f"{error.message} ({', '.join(missing)} did not answer, and may have it)",)
    return error


def _did_not_answer(missing: tuple[str, ...]) -> tuple[str, ...]:
    if not missing:
        return ()
    return (f"{', '.join(missing)} did not answer: what is there is not told, and nothing was done there",)
