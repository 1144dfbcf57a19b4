"""The client of the service, with a typed method for each action."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar, Unpack

import anyio
import anyio.to_thread
import msgspec
from anyio.abc import TaskGroup

from suite.bus.connection import Connection, Rediscover
from suite.client.asking import told
from suite.client.attachments import sending_files, without_pictures
from suite.client.benchmarks import Benchmarks
from suite.client.evaluations import Evaluations
from suite.client.generation import (
    Generation,
    GenerationOptions,
    OnProgress,
    OnWaiting,
    Pieces,
    chat_messages,
)
from suite.client.keys import GatewayKeys
from suite.client.opened_log import OpenedLog
from suite.client.records import Records
from suite.client.statistics import Statistics
from suite.client.texts import Texts
from suite.client.traces import Traces
from suite.client.versions import ModelVersions
from suite.errors import GenerationExists, InvalidRequest, NodeLost, SuiteError, TooLarge, Unavailable
from suite.identity import NewId
from suite.messages.actions.base import KeepAlive
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.drain import DrainNodeReply, DrainNodeRequest
from suite.messages.actions.generation import (
    CancelGenerationReply,
    CancelGenerationRequest,
    ClearKvCacheReply,
    ClearKvCacheRequest,
    GenerateTextReply,
    GenerateTextRequest,
)
from suite.messages.actions.prediction import (
    GetPredictionsReply,
    GetPredictionsRequest,
    PredictModelsReply,
    PredictModelsRequest,
    PreloadModelsReply,
    PreloadModelsRequest,
    SelectModelReply,
    SelectModelRequest,
)
from suite.messages.actions.residency import (
    LoadModelReply,
    LoadModelRequest,
    PinModelReply,
    PinModelRequest,
    ReleaseModelReply,
    ReleaseModelRequest,
    UnloadModelReply,
    UnloadModelRequest,
    UnpinModelReply,
    UnpinModelRequest,
)
from suite.messages.actions.status import (
    GetLogEndReply,
    GetLogEndRequest,
    GetModelStatusReply,
    GetModelStatusRequest,
    GetStatsReply,
    GetStatsRequest,
    HealthCheckReply,
    HealthCheckRequest,
    ListModelsReply,
    ListModelsRequest,
    ModelsPage,
)
from suite.messages.actions.transfers import PushModelReply, PushModelRequest
from suite.messages.envelope import Recorded
from suite.messages.event_filter import event_filters, events_of_model
from suite.messages.signals import (
    HEARTBEAT_SECONDS,
    Chunk,
    Copying,
    Draining,
    Progress,
    Signal,
    Waiting,
)
from suite.messages.subjects import Subjects

if TYPE_CHECKING:
    from suite.log.reader import LogSnapshot

OnCopying: TypeAlias = Callable[[Copying], None]

SILENCE_SECONDS = 5 * HEARTBEAT_SECONDS
"""A node that must send a heartbeat every second counts as lost after this long without a message."""
REQUEST_SECONDS = 10.0
"""The time limit for an action that only looks something up."""
ABANDONED_SECONDS = 4.0
"""A node ends a generation within this time when nobody receives its signals any more."""
ABANDONED_PAUSE_SECONDS = 0.5
CANCEL_SECONDS = 2.0
"""How long leaving a generation early waits for the server to be told."""
CLEAR_SECONDS = 70.0
"""The time limit for clearing: it waits for a step of the model, which may be big, and for its node."""
UNLOAD_MARGIN_SECONDS = 30.0
"""The time limit for ending a model's process after its generations have ended."""
PRELOAD_SECONDS = 600.0
"""The time limit for each model that is preloaded."""

_Page = TypeVar("_Page", ListModelsReply, GetModelStatusReply)


class Client(Evaluations, Benchmarks, Records, Statistics, Traces, Texts, GatewayKeys, ModelVersions):
    """A client of the service, connected until it is closed. Made by `connect`.

    It has a method for each action; some are in `Evaluations`, `Benchmarks`, `Records`, `Statistics`,
    `Traces`, `Texts`, `GatewayKeys` and `ModelVersions`.

    Every method raises the service's error, as a class of `suite.errors`, and Unavailable, NoService,
    RequestTimeout or AccessDenied when the service could not be reached.
    """

    def __init__(
        self,
        connection: Connection,
        tasks: TaskGroup,
        *,
        reader: Rediscover | None,
        subjects: Subjects,
        new_id: NewId,
        request_seconds: float,
        silence_seconds: float,
    ) -> None:
        super().__init__(
            connection,
            subjects=subjects,
            request_seconds=request_seconds,
            silence_seconds=silence_seconds,
        )
        self._tasks = tasks
        self._new_id = new_id
        self._log = OpenedLog(connection, tasks, reader, subjects, new_id)

    # --- residency ----------------------------------------------------------------------------------------

    async def load_model(
        self,
        model_id: str,
        *,
        wait: bool = True,
        on_progress: OnProgress | None = None,
        on_waiting: OnWaiting | None = None,
        load_wait_ms: int | None = None,
        keep_alive: KeepAlive = None,
        context_length: int | None = None,
    ) -> LoadModelReply:
        """Load a model, and return when it is ready or, with ``wait=False``, when the load has started.

        If there is no memory for it now, it waits for its turn, up to ``load_wait_ms`` (None: the service's
        setting); ``on_waiting`` is called with its place in the line. The load itself has no time limit: the
        node sends a message every second. Raises NodeLost when these stop. ``keep_alive`` is how long it
        stays when nobody uses it: seconds, "forever" or "now". ``context_length`` is what its context has to
        have: InvalidRequest is raised if it is configured with less.
        """

        def hear(signal: Signal) -> None:
            if on_progress is not None and isinstance(signal, Progress):
                on_progress(signal.fraction)
            if on_waiting is not None and isinstance(signal, Waiting):
                on_waiting(signal)

        request = LoadModelRequest(
            model_id=model_id,
            wait=wait,
            stream=True,
            load_wait_ms=load_wait_ms,
            keep_alive=keep_alive,
            context_length=context_length,
        )
        return await self._exchange("load_model", request, LoadModelReply, hear)

    async def pin_model(self, model_id: str) -> PinModelReply:
        """Keep a model loaded, also after a restart. Its load is not waited for.

        It is kept where it is best, and elsewhere when that node drains or is lost. With
        `on_node` it stays on that node.
        """
        return await self._ask("pin_model", PinModelRequest(model_id=model_id), PinModelReply)

    async def unpin_model(self, model_id: str) -> UnpinModelReply:
        """Stop keeping a model loaded, on all nodes."""
        return await self._ask("unpin_model", UnpinModelRequest(model_id=model_id), UnpinModelReply)

    async def release_model(self, model_id: str) -> ReleaseModelReply:
        """End the quarantine of a model on all nodes, so that the next request loads it."""
        return await self._ask("release_model", ReleaseModelRequest(model_id=model_id), ReleaseModelReply)

    async def unload_model(self, model_id: str, *, drain_ms: int = 30_000) -> UnloadModelReply:
        """Unload a model on all nodes. Its generations have ``drain_ms`` to end before they are cancelled."""
        request = UnloadModelRequest(model_id=model_id, drain_ms=drain_ms)
        limit = max(drain_ms, 0) / 1000 + UNLOAD_MARGIN_SECONDS
        return await self._ask("unload_model", request, UnloadModelReply, seconds=limit)

    async def drain_node(
        self,
        node: str,
        *,
        undo: bool = False,
        wait: bool = True,
        wait_ms: int = 900_000,
        on_progress: Callable[[Draining], None] | None = None,
    ) -> DrainNodeReply:
        """Take a node out of service, and return when it has nothing to do any more; ``undo`` takes it back.

        Its pinned models and those that were used lately are loaded on other nodes first. ``on_progress`` is
        called with what it still does. It goes on when this call is cancelled. Requires the role operator.
        Raises NodeNotFound, NodeLost when the node ends meanwhile, and RequestTimeout with what it still does
        after ``wait_ms``.
        """
        request = DrainNodeRequest(node=node, undo=undo, wait=wait, wait_ms=wait_ms, stream=True)
        return await self._exchange("drain_node", request, DrainNodeReply, told(Draining, on_progress))

    async def push_model(
        self, model_id: str, nodes: Sequence[str] = (), *, on_progress: OnCopying | None = None
    ) -> PushModelReply:
        """Copy all files that a model needs to nodes that have not got them; to all if no nodes are named.

        ``on_progress`` is called with how far each node is. The reply says what became of it on each. What
        was cut goes on where it was when the same is asked for again. Requires the role operator. Raises
        NodeNotFound and ModelNotFound.
        """
        request = PushModelRequest(model_id=model_id, nodes=tuple(nodes), stream=True)
        return await self._exchange("push_model", request, PushModelReply, told(Copying, on_progress))

    async def preload_models(self, model_ids: Sequence[str]) -> PreloadModelsReply:
        """Load models before they are needed, and return the outcome of each."""
        request = PreloadModelsRequest(model_ids=tuple(model_ids))
        limit = PRELOAD_SECONDS * max(len(request.model_ids), 1)
        return await self._ask("preload_models", request, PreloadModelsReply, seconds=limit)

    async def predict_models(
        self, *, limit: int = 3, detail: bool = False, min_seq: int = 0
    ) -> PredictModelsReply:
        """Predict which models will be used next, the likeliest first; with ``detail`` also their chances."""
        request = PredictModelsRequest(limit=limit, detail=detail, min_seq=min_seq)
        return await self._ask("predict_models", request, PredictModelsReply)

    async def get_predictions(self, *, limit: int = 100, min_seq: int = 0) -> GetPredictionsReply:
        """Get the chances that models are used, what became of bets on them, and how good both were."""
        request = GetPredictionsRequest(limit=limit, min_seq=min_seq)
        return await self._ask("get_predictions", request, GetPredictionsReply)

    async def select_model(self, capability: str | None = None, *, min_seq: int = 0) -> SelectModelReply:
        """Select a model with a capability: loaded models come first, then the most trusted.

        Raises ModelNotFound if no model has the capability.
        """
        request = SelectModelRequest(capability=capability, min_seq=min_seq)
        return await self._ask("select_model", request, SelectModelReply)

    # --- generation ---------------------------------------------------------------------------------------

    def generate(
        self,
        model_id: str,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage | Mapping[str, Any]] | None = None,
        on_progress: OnProgress | None = None,
        on_waiting: OnWaiting | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Generate text chunk by chunk: ``async for chunk in client.generate(...): chunk.text``.

        Give a prompt as text or token ids, or the messages of a chat. Afterwards ``.reply`` has the whole
        text with usage and timings; with ``n`` over 1 each chunk says which ``.choice`` it belongs to.
        Leaving the loop early cancels it on the server. If the model must be loaded first, ``on_progress`` is
        called with the progress of its load, and ``on_waiting`` with its place in the line
        while there is no memory for it.
        """
        options.setdefault("generation_id", None)
        options["generation_id"] = options["generation_id"] or self._new_id()
        request = GenerateTextRequest(
            model_id=model_id,
            prompt=prompt if prompt is None or isinstance(prompt, str) else tuple(prompt),
            messages=chat_messages(messages),
            stream=True,
            **options,
        )
        given = {"model_id", "prompt", "messages", "stream", *options}
        return Generation(
            request,
            exchange=partial(self._generate, given),
            cancel=self._cancel,
            tasks=self._tasks,
            on_progress=on_progress,
            on_waiting=on_waiting,
        )

    async def generate_text(
        self,
        model_id: str,
        prompt: str | Sequence[int] | None = None,
        *,
        messages: Sequence[ChatMessage | Mapping[str, Any]] | None = None,
        on_progress: OnProgress | None = None,
        on_waiting: OnWaiting | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerateTextReply:
        """Generate text, and return the whole text with usage and timings.

        It streams internally, so that a node that dies is noticed within seconds. Cancelling this call
        cancels the generation on the server.
        """
        generation = self.generate(
            model_id, prompt, messages=messages, on_progress=on_progress, on_waiting=on_waiting, **options
        )
        return await generation.finish()

    async def answer(
        self, request: Mapping[str, object], hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        """Send the fields of a GenerateTextRequest as they are, and call ``hear`` with each signal.

        For programs that translate requests of another API: fields may be `msgspec.Raw`. ``stream`` is added,
        and ``generation_id`` if there is none. ``hear`` must not wait. Cancelling this call cancels the
        generation on the server, wherever it is. Raises the errors of `generate`.
        """
        generation_id = str(request.get("generation_id") or self._new_id())
        pieces = Pieces()

        def hear_in_order(signal: Signal) -> None:
            if isinstance(signal, Chunk):
                pieces.check(signal)
            hear(signal)

        body = {**request, "generation_id": generation_id, "stream": True}
        settled = False
        try:
            reply = await self._exchange_again(body, hear_in_order)
            settled = True
            return reply
        except SuiteError:
            settled = not pieces.are_lost
            raise
        finally:
            if not settled:
                await self._cancel(generation_id)

    async def cancel_generation(self, generation_id: str) -> CancelGenerationReply:
        """End a generation early; its requester gets the text so far."""
        request = CancelGenerationRequest(generation_id=generation_id)
        return await self._ask("cancel_generation", request, CancelGenerationReply)

    async def clear_kv_cache(
        self, *, model_id: str | None = None, conversation_id: str | None = None
    ) -> ClearKvCacheReply:
        """Clear the tokens kept for reuse: of a model, of a conversation, of both together, or all.

        Running generations go on, and their tokens are cleared when they end.
        """
        request = ClearKvCacheRequest(model_id=model_id, conversation_id=conversation_id)
        return await self._ask("clear_kv_cache", request, ClearKvCacheReply, seconds=CLEAR_SECONDS)

    # --- status -------------------------------------------------------------------------------------------

    async def list_models(self) -> ListModelsReply:
        """List all models, in as many requests as their number takes."""
        pages = await self._pages("list_models", ListModelsRequest(), ListModelsReply)
        return msgspec.structs.replace(pages[-1], models=tuple(chain(*(page.models for page in pages))))

    async def get_model_status(
        self, model_id: str | None = None, *, active: bool = False
    ) -> GetModelStatusReply:
        """Get the status of one model as ``.model``, or of all by id as ``.models``.

        ``active``: only of those that are loaded, loading, unloading or waited for.
        """
        request = GetModelStatusRequest(model_id=model_id, active=active)
        pages = await self._pages("get_model_status", request, GetModelStatusReply)
        if pages[-1].models is None:
            return pages[-1]
        models = {id: model for page in pages for id, model in (page.models or {}).items()}
        return msgspec.structs.replace(pages[-1], models=models)

    async def _pages(self, action: str, request: ModelsPage, kind: type[_Page]) -> list[_Page]:
        """All pages of a reply about models. The last one has all that is not about single models."""
        pages = [await self._ask(action, request, kind)]
        while (cursor := pages[-1].next_cursor) is not None:
            request = msgspec.structs.replace(request, cursor=cursor)
            pages.append(await self._ask(action, request, kind))
        return pages

    async def health_check(self) -> HealthCheckReply:
        """Check the health of the service."""
        return await self._ask("health_check", HealthCheckRequest(), HealthCheckReply)

    async def get_stats(self) -> GetStatsReply:
        """Get counts and sizes of all nodes together, and of each."""
        return await self._ask("get_stats", GetStatsRequest(), GetStatsReply)

    # --- the log ------------------------------------------------------------------------------------------

    @property
    def subject_root(self) -> str:
        """The first token of the service's subjects."""
        return self._subjects.root

    async def events(
        self,
        filter: str | None = None,
        *,
        model_id: str | None = None,
        after: int = 0,
        follow: bool = False,
    ) -> AsyncGenerator[Recorded, None]:
        """Iterate over the events after a sequence, in order; with ``follow``, also over all future ones.

        ``filter`` is an aggregate, its ids and a fact, as `event_filters` reads them: ``usage``,
        ``usage.SmolLM2-135M-Instruct.Q4_1.>``, ``instance.loaded``. Ids are written as they are. Instead of a
        filter, ``model_id`` asks for the events about one model. Without ``follow`` it ends, and has all that
        was acknowledged before. Needs the right to read the log: what a node's data directory gives, or the
        role `consumer`. Raises InvalidRequest for a filter that no event can match.
        """
        if filter and model_id is not None:
            raise InvalidRequest("filter and model_id are both given: send one of them")
        filters = (
            event_filters(self._subjects, filter)
            if model_id is None
            else events_of_model(self._subjects, model_id)
        )
        reader = await self._log.reader(follow=follow)
        if self._log.is_mirror and not follow:
            await reader.reach(await self._log_end())
        reading = reader.read(*filters, after=after, follow=follow, last_per_subject=False)
        async with aclosing(reading) as events:
            async for event in events:
                yield event

    async def last_seq(self) -> int:
        """The sequence of the newest event. Requires the right to read the log."""
        reader = await self._log.reader()
        return await self._log_end() if self._log.is_mirror else (await reader.extent()).last_seq

    @asynccontextmanager
    async def log_snapshot(self) -> AsyncIterator[LogSnapshot]:
        """The whole log in the server's own form, with all that was acknowledged before: for backups.

        It needs the right to read the log. Raises AccessDenied, also where a NATS of one's own was configured
        for an older version, and Unavailable.
        """
        reader = await self._log.reader()
        if self._log.is_mirror:
            await reader.reach(await self._log_end())
        async with reader.snapshot() as taken:
            yield taken

    async def _log_end(self) -> int:
        return (await self._ask("get_log_end", GetLogEndRequest(), GetLogEndReply)).last_seq

    # --- for Generation ----------------------------------------------------------------------------------

    async def _generate(
        self, given: Collection[str], request: GenerateTextRequest, hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        """Send the fields that the caller gave: for others a model may come with defaults of its own."""
        fields = msgspec.structs.fields(request)
        body = {each.encode_name: getattr(request, each.name) for each in fields if each.name in given}
        return await self._exchange_again(body, hear)

    async def _exchange_again(
        self, body: Mapping[str, object], hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        """Request a generation; if its pictures do not fit into a message, they are sent apart."""
        try:
            return await self._exchange_twice(body, hear)
        except TooLarge:
            if (split := await anyio.to_thread.run_sync(without_pictures, body)) is None:
                raise
        async with sending_files(self._connection, split.files) as inbox:
            return await self._exchange_twice({**split.body, "attachments": inbox}, hear)

    async def _exchange_twice(
        self, body: Mapping[str, object], hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        """Request a generation, and once more under the same id if its node is lost before any text came.

        What the lost node may still send then goes to an inbox that is gone. What continues a conversation is
        not requested again: its tokens were on that node.
        """
        begun = False

        def note(signal: Signal) -> None:
            nonlocal begun
            begun = begun or isinstance(signal, Chunk)
            hear(signal)

        try:
            return await self._exchange("generate_text", body, GenerateTextReply, note)
        except NodeLost as lost:
            if begun or body.get("continue", False) is not False:
                raise
            return await self._exchange_instead(lost, body, hear)

    async def _exchange_instead(
        self, lost: NodeLost, body: Mapping[str, object], hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        """Request a generation whose node is lost from another. Raises what was lost if that cannot be."""
        until = anyio.current_time() + ABANDONED_SECONDS
        while True:
            try:
                return await self._exchange("generate_text", body, GenerateTextReply, hear)
            except GenerationExists:  # the node is back, and does not know yet that nobody listens there
                if anyio.current_time() > until:
                    raise lost from None
                await anyio.sleep(ABANDONED_PAUSE_SECONDS)
            except Unavailable:  # so NATS was lost
                raise lost from None

    async def _cancel(self, generation_id: str) -> None:
        """Try to cancel a generation on the server, within `CANCEL_SECONDS`."""
        with anyio.move_on_after(CANCEL_SECONDS, shield=True), suppress(SuiteError):
            await self.cancel_generation(generation_id)
