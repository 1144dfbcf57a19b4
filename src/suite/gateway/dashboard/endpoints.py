"""The operations of the dashboard's page."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, TypeVar

import anyio
import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from suite.client import Client
from suite.client.session import CLEAR_SECONDS, UNLOAD_MARGIN_SECONDS
from suite.errors import UnknownPath
from suite.gateway.context import Context
from suite.gateway.dashboard.chat import TryAnswer, read_try
from suite.gateway.dashboard.files import PAGE, static_files
from suite.gateway.dashboard.history import EventsPage, EventsWanted, events_page
from suite.gateway.dashboard.live import EventForm
from suite.gateway.dashboard.names import ModelWanted, model_meant
from suite.gateway.dashboard.replay import ReplayForm, read_replay, replay
from suite.gateway.dashboard.traces import TraceFound, TraceWanted, trace_found
from suite.gateway.errors import invalid
from suite.gateway.gateway import Gateway
from suite.gateway.generations import Put, StreamedAnswer, while_connected
from suite.gateway.operations import Operation, json_response

W = TypeVar("W", bound=msgspec.Struct)

ASKED: Final[Mapping[str, float]] = dict.fromkeys(
    (
        "compare_models",
        "explain",
        "get_benchmarks",
        "get_bet_statistics",
        "get_bets",
        "get_error_groups",
        "get_errors",
        "get_fleet",
        "get_metric_series",
        "get_model_evaluation_scores",
        "get_model_quality",
        "get_model_status",
        "get_performance_metrics",
        "get_predictions",
        "get_request_statistics",
        "get_residency_timeline",
        "get_stats",
        "health_check",
        "list_metrics",
        "list_models",
        "list_traces",
        "list_versions",
        "predict_models",
        "summary",
        "usage",
    ),
    30.0,
)
"""The actions that only look something up, and how many seconds each may take."""
DONE: Final[Mapping[str, float]] = {
    "cancel_generation": 10.0,
    "clear_kv_cache": CLEAR_SECONDS,
    "drain_node": 10.0,
    "load_model": 10.0,
    "pin_model": 10.0,
    "release_model": 10.0,
    "unload_model": 30.0 + UNLOAD_MARGIN_SECONDS,
    "unpin_model": 10.0,
}
"""The actions that change things for all. The page does not wait for loads and drains: it sees them."""

PAGES_AT_ONCE: Final = 2
"""So many pages of the log and traces are read at once, others wait: many events are decoded for each, in the
process that answers all clients."""

_read_fields = msgspec.json.Decoder(dict[str, Any]).decode


def operations(gateway: Gateway) -> list[Operation]:
    """The operations of the page. They are its own, so they stand in no document."""
    page = _Dashboard(gateway)
    return [
        Operation(path="/ui", answer=page.dashboard, summary="The dashboard."),
        Operation(path="/ui/static/{file:path}", answer=page.static, summary="A file of the page."),
        Operation(path="/ui/live", answer=page.live, summary="What is the case, and what happens."),
        Operation(path="/ui/events", answer=page.events, summary="A page of the log."),
        Operation(path="/ui/model", answer=page.model, summary="Which model is meant by a name."),
        Operation(path="/ui/trace", answer=page.trace, summary="A trace, with its spans and events."),
        Operation(path="/ui/chat", method="POST", answer=page.chat, summary="The answer to a chat."),
        Operation(path="/ui/replay", method="POST", answer=page.replay, summary="Replay the log."),
        Operation(path="/ui/ask/{action}", method="POST", answer=page.ask, summary="Look something up."),
        Operation(path="/ui/do/{action}", method="POST", answer=page.do, summary="Change something."),
    ]


class _Dashboard:
    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._files = static_files()
        self._reading = anyio.CapacityLimiter(PAGES_AT_ONCE)

    async def dashboard(self, request: Request) -> Response:
        """The page."""
        return self._files[PAGE].answer(request)

    async def static(self, request: Request) -> Response:
        """One of the files that it consists of."""
        if (file := self._files.get(request.path_params["file"])) is None:
            raise UnknownPath()
        return file.answer(request)

    async def live(self, request: Request) -> ASGIApp:
        """Tell what is the case and what happens, until the page is closed or its key is refused."""
        await request.body()
        return StreamedAnswer(self._tell, EventForm())

    async def _tell(self, context: Context, put: Put) -> None:
        with self._gateway.work.of(context.requester):
            await self._gateway.live.tell(put, self._gateway.access.rights(context.requester))

    async def events(self, request: Request) -> Response:
        """A page of the log."""
        return await self._look_up(request, EventsWanted, self._page_of_log)

    async def _page_of_log(self, client: Client, wanted: EventsWanted) -> EventsPage:
        async with self._reading:
            return await events_page(client, wanted)

    async def model(self, request: Request) -> Response:
        """The model that is meant by a name."""
        return await self._look_up(request, ModelWanted, model_meant)

    async def trace(self, request: Request) -> Response:
        """A trace."""
        return await self._look_up(request, TraceWanted, self._trace_of_log)

    async def _trace_of_log(self, client: Client, wanted: TraceWanted) -> TraceFound:
        async with self._reading:
            return await trace_found(client, wanted)

    async def _look_up(
        self, request: Request, kind: type[W], look_up: Callable[[Client, W], Awaitable[msgspec.Struct]]
    ) -> Response:
        """Answer with what is found for the parameters of an address."""
        await request.body()
        try:
            wanted = msgspec.convert(dict(request.query_params), kind, strict=False)
        except msgspec.ValidationError as error:
            raise invalid(b"", error) from None
        found = await while_connected(request, lambda: look_up(self._gateway.client, wanted))
        return json_response(found)

    async def chat(self, request: Request) -> ASGIApp:
        """Answer a chat."""
        asked = await self._gateway.read(request, read_try)
        return self._gateway.generations.streamed(asked.fields(self._gateway.new_id()), TryAnswer())

    async def replay(self, request: Request) -> ASGIApp:
        """Replay the log, and say how far that is."""
        body = await request.body()
        try:
            asked = read_replay(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise invalid(body, error) from None

        async def work(context: Context, put: Put) -> None:
            with self._gateway.work.of(context.requester):
                await replay(self._gateway.client, asked, put)

        return StreamedAnswer(work, ReplayForm())

    async def ask(self, request: Request) -> Response:
        """Have the service look something up."""
        return await self._forward(request, ASKED)

    async def do(self, request: Request) -> Response:
        """Have the service change something."""
        return await self._forward(request, DONE)

    async def _forward(self, request: Request, allowed: Mapping[str, float]) -> Response:
        action = request.path_params["action"]
        if (seconds := allowed.get(action)) is None:
            raise UnknownPath()
        fields = _fields(await request.body())
        reply = await while_connected(
            request, lambda: self._gateway.client.forward(action, fields, seconds=seconds)
        )
        return json_response(reply)


def _fields(body: bytes) -> Mapping[str, object]:
    try:
        return _read_fields(body or b"{}")
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(body, error) from None
