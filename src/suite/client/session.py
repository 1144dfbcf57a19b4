"""A client's connection to the service, with a typed method for each action."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing, suppress
from typing import Any, Unpack

import anyio
from anyio.abc import TaskGroup

from suite.bus.connection import Connection
from suite.client.evaluations import Evaluations
from suite.client.generation import Generation, GenerationOptions, OnProgress, chat_messages
from suite.client.opened_log import OpenedLog
from suite.client.records import Records
from suite.errors import SuiteError
from suite.identity import NewId
from suite.messages.actions.chat import ChatMessage
from suite.messages.actions.embedding import EmbedReply, EmbedRequest
from suite.messages.actions.generation import (
    CancelGenerationReply,
    CancelGenerationRequest,
    ClearKvCacheReply,
    ClearKvCacheRequest,
    GenerateTextReply,
    GenerateTextRequest,
)
from suite.messages.actions.prediction import (
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
    UnloadModelReply,
    UnloadModelRequest,
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
)
from suite.messages.actor import NatsAccess
from suite.messages.envelope import Recorded
from suite.messages.signals import HEARTBEAT_SECONDS, Progress, Signal
from suite.messages.subjects import Subjects

SILENCE_SECONDS = 5 * HEARTBEAT_SECONDS
"""How long a node that owes a heartbeat each second may be silent before it counts as lost."""
REQUEST_SECONDS = 10.0
"""How long an action that only looks something up may take."""
CANCEL_SECONDS = 2.0
"""How long leaving a generation early waits for the server to be told."""
CLEAR_SECONDS = 70.0
"""How long clearing may wait for a step of a big model, and a little for its node to say so."""
EMBED_SECONDS = 600.0
"""How long embedding may take, with the load of the model if that is not loaded."""
UNLOAD_MARGIN_SECONDS = 30.0
"""How long ending a model's process may take after its generations have drained."""
PRELOAD_SECONDS = 600.0
"""How long each of the models that are preloaded may take."""


class Client(Evaluations, Records):
    """The service, as long as its connection is open. Made by `connect`.

    It has a method for each action; some are in `Evaluations` and `Records`.

    Every method raises what the service refused with, as its class of `suite.errors`, and Unavailable,
    NoService, RequestTimeout or AccessDenied when it could not be asked.
    """

    def __init__(
        self,
        connection: Connection,
        tasks: TaskGroup,
        *,
        reader: NatsAccess | None,
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
        self, model_id: str, *, wait: bool = True, on_progress: OnProgress | None = None
    ) -> LoadModelReply:
        """Load a model, and return when it is ready, or with ``wait=False`` when the load has begun.

        However long it takes: the node proves each second that it works on it. Raises NodeLost when not.
        """

        def hear(signal: Signal) -> None:
            if on_progress is not None and isinstance(signal, Progress):
                on_progress(signal.fraction)

        request = LoadModelRequest(model_id=model_id, wait=wait, stream=True)
        return await self._exchange("load_model", request, LoadModelReply, hear)

    async def unload_model(self, model_id: str, *, drain_ms: int = 30_000) -> UnloadModelReply:
        """Unload a model; its running generations have ``drain_ms`` to end."""
        request = UnloadModelRequest(model_id=model_id, drain_ms=drain_ms)
        limit = max(drain_ms, 0) / 1000 + UNLOAD_MARGIN_SECONDS
        return await self._ask("unload_model", request, UnloadModelReply, seconds=limit)

    async def preload_models(self, model_ids: Sequence[str]) -> PreloadModelsReply:
        """Load models before they are needed, and say of each what became of it."""
        request = PreloadModelsRequest(model_ids=tuple(model_ids))
        limit = PRELOAD_SECONDS * max(len(request.model_ids), 1)
        return await self._ask("preload_models", request, PreloadModelsReply, seconds=limit)

    async def predict_models(self, *, limit: int = 3, min_seq: int = 0) -> PredictModelsReply:
        """Which models are likely to be used next, the likeliest first."""
        request = PredictModelsRequest(limit=limit, min_seq=min_seq)
        return await self._ask("predict_models", request, PredictModelsReply)

    async def select_model(self, capability: str | None = None, *, min_seq: int = 0) -> SelectModelReply:
        """Which model should do this: one that is loaded rather than one that is not, then the most trusted.

        Raises ModelNotFound when none can.
        """
        request = SelectModelRequest(capability=capability, min_seq=min_seq)
        return await self._ask("select_model", request, SelectModelReply)

    # --- generation ---------------------------------------------------------------------------------------

    def generate(
        self,
        model_id: str,
        prompt: str | None = None,
        *,
        messages: Sequence[ChatMessage | Mapping[str, Any]] | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[GenerationOptions],
    ) -> Generation:
        """Generate text, piece by piece: ``async for chunk in client.generate(...): chunk.text``.

        Give a prompt, or the messages of a chat. Afterwards ``.reply`` has the whole and its figures;
        leaving the loop early cancels on the server. ``on_progress`` hears of the model's load, if it
        has to be loaded first.
        """
        options.setdefault("generation_id", None)
        options["generation_id"] = options["generation_id"] or self._new_id()
        request = GenerateTextRequest(
            model_id=model_id, prompt=prompt, messages=chat_messages(messages), stream=True, **options
        )
        return Generation(
            request, exchange=self._generate, cancel=self._cancel, tasks=self._tasks, on_progress=on_progress
        )

    async def generate_text(
        self,
        model_id: str,
        prompt: str | None = None,
        *,
        messages: Sequence[ChatMessage | Mapping[str, Any]] | None = None,
        on_progress: OnProgress | None = None,
        **options: Unpack[GenerationOptions],
    ) -> GenerateTextReply:
        """Generate text and return the whole of it with its figures.

        It is streamed underneath, so that a node that dies is noticed within seconds, and cancelled on the
        server when this is cancelled.
        """
        generation = self.generate(model_id, prompt, messages=messages, on_progress=on_progress, **options)
        return await generation.finish()

    async def embed(self, model_id: str, input: str | Sequence[str], *, normalize: bool = True) -> EmbedReply:
        """Turn a text, or up to 256, into vectors; the model is loaded first if it is not."""
        texts = input if isinstance(input, str) else tuple(input)
        request = EmbedRequest(model_id=model_id, input=texts, normalize=normalize)
        return await self._ask("embed", request, EmbedReply, seconds=EMBED_SECONDS)

    async def cancel_generation(self, generation_id: str) -> CancelGenerationReply:
        """End a generation early; its requester gets what there is."""
        request = CancelGenerationRequest(generation_id=generation_id)
        return await self._ask("cancel_generation", request, CancelGenerationReply)

    async def clear_kv_cache(
        self, *, model_id: str | None = None, conversation_id: str | None = None
    ) -> ClearKvCacheReply:
        """Forget the tokens kept for reuse: of a model, a conversation, both together, or all.

        A conversation that generates goes on, and is forgotten when that ends.
        """
        request = ClearKvCacheRequest(model_id=model_id, conversation_id=conversation_id)
        return await self._ask("clear_kv_cache", request, ClearKvCacheReply, seconds=CLEAR_SECONDS)

    # --- status -------------------------------------------------------------------------------------------

    async def list_models(self) -> ListModelsReply:
        """Every model of the catalogue."""
        return await self._ask("list_models", ListModelsRequest(), ListModelsReply)

    async def get_model_status(self, model_id: str | None = None) -> GetModelStatusReply:
        """One model as ``.model``, or all by id as ``.models``."""
        request = GetModelStatusRequest(model_id=model_id)
        return await self._ask("get_model_status", request, GetModelStatusReply)

    async def health_check(self) -> HealthCheckReply:
        """Is the service well?"""
        return await self._ask("health_check", HealthCheckRequest(), HealthCheckReply)

    async def get_stats(self) -> GetStatsReply:
        """Counts and sizes of the node that answers."""
        return await self._ask("get_stats", GetStatsRequest(), GetStatsReply)

    # --- the log ------------------------------------------------------------------------------------------

    async def events(
        self, filter: str | None = None, *, after: int = 0, follow: bool = False
    ) -> AsyncGenerator[Recorded, None]:
        """The events after a sequence, in order; with ``follow``, on and on as they are appended.

        ``filter`` is a subject filter, with or without ``suite.event.`` in front, or an aggregate's name:
        ``instance.*.smollm2.>``, ``usage``. Without ``follow`` it ends, and has all that was acknowledged
        before. Needs the right to read the log: what a node's data directory gives, or the role `consumer`.
        """
        reader = await self._log.reader()
        if self._log.is_mirror and not follow:
            await reader.reach(await self._log_end())
        reading = reader.read(self._event_filter(filter), after=after, follow=follow, last_per_subject=False)
        async with aclosing(reading) as events:
            async for event in events:
                yield event

    async def last_seq(self) -> int:
        """The sequence of the newest event. Needs the right to read the log."""
        reader = await self._log.reader()
        return await self._log_end() if self._log.is_mirror else (await reader.extent()).last_seq

    async def _log_end(self) -> int:
        return (await self._ask("get_log_end", GetLogEndRequest(), GetLogEndReply)).last_seq

    def _event_filter(self, filter: str | None) -> str:
        if not filter:
            return self._subjects.events
        start = f"{self._subjects.root}.event."
        filter = filter.removeprefix(start)
        return start + (filter if "." in filter or filter == ">" else f"{filter}.>")

    # --- under generations --------------------------------------------------------------------------------

    async def _generate(
        self, request: GenerateTextRequest, hear: Callable[[Signal], None]
    ) -> GenerateTextReply:
        return await self._exchange("generate_text", request, GenerateTextReply, hear)

    async def _cancel(self, generation_id: str) -> None:
        """Tell the server that nobody wants this any more, as far as that can be done in little time."""
        with anyio.move_on_after(CANCEL_SECONDS, shield=True), suppress(SuiteError):
            await self.cancel_generation(generation_id)
