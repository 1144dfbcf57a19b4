"""What happens, as all open pages are told it.

It is found out once for all of them, and only while one is open: a gateway without a page does nothing here.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from typing import Final

import anyio
import msgspec
from msgspec.structs import replace

from suite.client import Client
from suite.errors import AccessDenied, ModelNotFound, SuiteError, Unavailable
from suite.gateway.access import Rights
from suite.gateway.dashboard.told import (
    Aliases,
    Events,
    Hello,
    ModelRow,
    Models,
    Trouble,
    event_document,
    fleet,
    model_row,
)
from suite.gateway.encoding import encode
from suite.gateway.generations import Put
from suite.gateway.sse import EVENT_STREAM, comment, named_event
from suite.identity import Clock, Now
from suite.messages.actions.status import (
    GetModelStatusReply,
    GetStatsReply,
    HealthCheckReply,
    ModelInfo,
)
from suite.messages.envelope import Recorded
from suite.messages.events import AliasEvent, ModelEvent
from suite.tasks import background
from suite.ticks import tick
from suite.version import __version__

LOOK_SECONDS: Final = 1.0
"""How often the nodes are asked what they do, and the log is tried again that could not be read."""
TELL_SECONDS: Final = 0.25
"""How often new events of the log are told."""
MOST_EVENTS: Final = 200
"""How many events are told at a time. Of more, the newest are: pages can ask for the others."""
CATALOGUE_SECONDS: Final = 60.0
"""How often all models are listed though no event says that there are others."""
CHANGED_SECONDS: Final = 5.0
"""How often they are while events say so, and the aliases while a version is being promoted."""


class EventForm:
    """How the stream tells what is not news."""

    media_type = EVENT_STREAM

    def error(self, error: SuiteError) -> bytes:
        """The last event: the page is refused from now on."""
        return named_event("refused", encode(Trouble.of(error)))

    def keep_alive(self, told: str) -> bytes:
        """A sign of life."""
        return comment(told or "alive")


class Live:
    """The open pages, and what they were told last."""

    def __init__(self, client: Client, *, now: Now, clock: Clock) -> None:
        self._client = client
        self._now, self._clock = now, clock
        self._pages: set[Put] = set()
        self._opened, self._ended = anyio.Event(), anyio.Event()
        self._fleet = self._aliases = b""
        self._troubles: dict[str, bytes] = {}
        """What does not answer, by what it is about."""
        self._places: dict[str, tuple[str, ...]] = {}
        """The nodes that have each model: of one that is active, only those where it is say that it is."""
        self._models: dict[str, bytes] = {}
        """The rows as they were told, by the ids of the models."""
        self._new: deque[Recorded] = deque(maxlen=MOST_EVENTS)
        self._new_count = 0
        self._active: frozenset[str] = frozenset()
        """The models that something was done with at the last look."""
        self._listed_at = self._lists_at = -math.inf
        """When all models were listed, and when they are again."""
        self._asks_aliases_at = -math.inf

    async def tell(self, put: Put, rights: Rights) -> None:
        """Tell a page what is the case and what happens, until it is gone or the gateway ends."""
        with self._open(put, rights):
            await self._ended.wait()

    def end(self) -> None:
        """Have all pages end: the gateway does."""
        self._ended.set()

    @contextmanager
    def _open(self, put: Put, rights: Rights) -> Iterator[None]:
        put(piece("hello", hello(rights)))
        put(self._fleet)
        put(self._models_piece(self._models.values()))
        put(self._aliases)
        for trouble in self._troubles.values():
            put(trouble)
        self._pages.add(put)
        self._opened.set()
        try:
            yield
        finally:
            self._pages.discard(put)

    async def run(self) -> None:
        """Look at the service while a page is open, until cancelled."""
        while True:
            await self._opened.wait()
            self._opened = anyio.Event()
            async with background() as tasks:
                tasks.start_soon(self._watch_log)
                tasks.start_soon(self._tell_events)
                tasks.start_soon(self._watch_fleet)
                while self._pages:
                    await tick(LOOK_SECONDS)
            self._forget()

    def _forget(self) -> None:
        self._fleet, self._aliases, self._new_count, self._active = b"", b"", 0, frozenset()
        self._listed_at = self._lists_at = self._asks_aliases_at = -math.inf
        self._models.clear()
        self._places.clear()
        self._troubles.clear()
        self._new.clear()

    def _tell(self, told: bytes) -> None:
        for put in tuple(self._pages):
            put(told)

    def _tell_trouble(self, trouble: Trouble) -> None:
        self._troubles[trouble.about] = piece("trouble", trouble)
        self._tell(self._troubles[trouble.about])

    # --- the log ------------------------------------------------------------------------------------------

    async def _watch_log(self) -> None:
        """Hear of every new event. What comes while the log cannot be read is heard of afterwards."""
        after: int | None = None
        while True:
            try:
                last_seq = await self._client.last_seq()
                self._end_trouble_with_log()
                after = last_seq if after is None else after
                async with aclosing(self._client.events(after=after, follow=True)) as events:
                    async for event in events:
                        after = event.seq
                        self._hear(event)
            except SuiteError as error:
                self._tell_trouble(Trouble.of(error, about="log"))
                if isinstance(error, AccessDenied) and not isinstance(error, Unavailable):
                    return  # for good: the rest of the page needs no log
            await tick(LOOK_SECONDS)

    def _end_trouble_with_log(self) -> None:
        if self._troubles.pop("log", None) is not None:
            self._tell(piece("events", Events(events=(), skipped=0)))

    def _hear(self, event: Recorded) -> None:
        self._new.append(event)
        self._new_count += 1
        if isinstance(event.data, ModelEvent):
            self._lists_at = min(self._lists_at, self._listed_at + CHANGED_SECONDS)
        elif isinstance(event.data, AliasEvent):
            self._asks_aliases_at = -math.inf

    async def _tell_events(self) -> None:
        while True:
            await tick(TELL_SECONDS)
            if self._new:
                skipped = self._new_count - len(self._new)
                told = Events(events=tuple(map(event_document, self._new)), skipped=skipped)
                self._new.clear()
                self._new_count = 0
                self._tell(piece("events", told))

    # --- the nodes ----------------------------------------------------------------------------------------

    async def _watch_fleet(self) -> None:
        while True:
            try:
                await self._look()
                if self._clock() >= self._lists_at:
                    await self._list()
                if self._clock() >= self._asks_aliases_at:
                    await self._ask_aliases()
            except SuiteError as error:
                self._tell_trouble(Trouble.of(error, about="service"))
            await tick(LOOK_SECONDS)

    async def _look(self) -> None:
        """Ask what all nodes do, and tell it."""
        health, stats, status = await self._asked()
        self._troubles.pop("service", None)
        self._fleet = piece("fleet", fleet(self._now(), health, stats, status))
        self._tell(self._fleet)
        active = {id: self._active_row(info) for id, info in (status.models or {}).items()}
        ended = [await self._row(id) for id in self._active - active.keys()]
        self._active = frozenset(active)
        self._tell_models(active | {row.id: row for row in ended if row is not None})

    def _active_row(self, info: ModelInfo) -> ModelRow:
        return replace(model_row(info), nodes=self._places.get(info.model_id, info.nodes))

    async def _row(self, model_id: str) -> ModelRow | None:
        """A model that nothing is done with any more; None: it is gone."""
        try:
            info = (await self._client.get_model_status(model_id)).model
        except ModelNotFound:
            return None
        return None if info is None else model_row(info)

    async def _asked(self) -> tuple[HealthCheckReply, GetStatsReply, GetModelStatusReply]:
        client = self._client
        health = await client.health_check()
        stats = await client.get_stats()
        return health, stats, await client.get_model_status(active=True)

    async def _list(self) -> None:
        """List all models, and tell which are new, have changed or are gone."""
        infos = (await self._client.list_models()).models
        self._listed_at = self._clock()
        self._lists_at = self._listed_at + CATALOGUE_SECONDS
        self._places = {info.model_id: info.nodes for info in infos}
        rows = {info.model_id: model_row(info) for info in infos}
        self._tell_models(rows, are_all=True)

    async def _ask_aliases(self) -> None:
        """Ask what aliases stand for, and tell it if that is new."""
        due = self._asks_aliases_at = self._clock() + CHANGED_SECONDS
        aliases = (await self._client.list_aliases()).aliases
        if self._asks_aliases_at == due and all(each.promotion is None for each in aliases):
            self._asks_aliases_at += CATALOGUE_SECONDS - CHANGED_SECONDS
        told = piece("aliases", Aliases(aliases=aliases))
        if told != self._aliases:
            self._aliases = told
            self._tell(told)

    def _tell_models(self, rows: Mapping[str, ModelRow], *, are_all: bool = False) -> None:
        encoded = {id: encode(row) for id, row in rows.items()}
        changed = {id: row for id, row in encoded.items() if self._models.get(id) != row}
        removed = tuple(id for id in self._models if id not in rows) if are_all else ()
        self._models.update(changed)
        for id in removed:
            del self._models[id]
        if changed or removed or are_all:
            self._tell(self._models_piece(changed.values(), removed))

    def _models_piece(self, rows: Iterable[bytes], removed: tuple[str, ...] = ()) -> bytes:
        told = Models(
            rows=tuple(map(msgspec.Raw, rows)), removed=removed, are_all_known=math.isfinite(self._listed_at)
        )
        return piece("models", told)


def piece(name: str, told: msgspec.Struct) -> bytes:
    """What a page is told, under its name."""
    return named_event(name, encode(told))


def hello(rights: Rights) -> Hello:
    """What a page is told first."""
    return Hello(
        version=__version__,
        key=rights.key,
        may=tuple(sorted(rights.endpoints)),
        expires_at=rights.expires_at,
    )
