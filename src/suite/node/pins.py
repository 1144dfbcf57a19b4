"""The models that are pinned on this node: they are loaded with it, and stay (ADR 40)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import anyio
import anyio.abc

from suite.catalogue import Catalogue, Model
from suite.domain.turn_answer import never_fits
from suite.errors import NotEnoughMemory, SuiteError
from suite.identity import Clock, NewId
from suite.messages.events import ModelPinned, ModelUnpinned
from suite.node.admission import Terms
from suite.node.instance import Instance
from suite.node.journal import Journal
from suite.node.supervisor import Supervisor
from suite.ticks import tick_or

logger = logging.getLogger("suite.node")

LOOK_SECONDS: Final = 1.0
"""How often it is seen to that what is pinned is loaded, and has memory kept for it."""
FIRST_PAUSE_SECONDS: Final = 0.5
LONGEST_PAUSE_SECONDS: Final = 300.0
"""From one attempt to load a pinned model to the next, at least. Each pause is twice as long as the one
before, if the attempts come that close. What fails by itself is quarantined besides."""


class _Attempt(NamedTuple):
    """The last one to load a model."""

    pause_seconds: float
    next_at: float


class Pins:
    """Pins models, remembers which are, and has them loaded again when they have left."""

    def __init__(
        self,
        pinned: Mapping[str, bool],
        *,
        journal: Journal,
        node: str,
        catalogue: Catalogue,
        supervisor: Supervisor,
        report: Callable[[str, str], None],
        new_id: NewId,
        clock: Clock,
    ) -> None:
        """`pinned` says of each model whether it may move, in the order in which they were pinned. `report`
        gets the type of an error, and the error.
        """
        self.on_unpin: Callable[[str], None] = lambda _: None
        """Called with the id of a model that is to be pinned nowhere, whether it is pinned here or not."""
        self._ids = dict(pinned)
        self._journal = journal
        self._node = node
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._report = report
        self._new_id, self._clock = new_id, clock
        self._deciding = anyio.Lock()
        """Held from the look whether a model fits beside those that are pinned until its memory is kept."""
        self._left_out: dict[str, NotEnoughMemory] = {}
        self._last: dict[str, Instance] = {}
        """The last instance of each model that was seen."""
        self._loading: set[str] = set()
        self._attempts: dict[str, _Attempt] = {}
        self._news = anyio.Event()

    @property
    def problems(self) -> tuple[str, ...]:
        """Which models are pinned in vain, and what to do."""
        return tuple(f"pinned in vain: {error.message}" for error in self._left_out.values())

    @property
    def movable(self) -> tuple[str, ...]:
        """The pinned models that another node may keep instead."""
        return tuple(id for id, may_move in self._ids.items() if may_move)

    async def run(self) -> None:
        """Have what is pinned loaded, now and whenever it has left, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                self._news = anyio.Event()
                async with self._deciding:
                    for model_id in self._ids:
                        self._keep_memory(model_id)
                for model_id in self._ids:
                    if (model := self._missing(model_id)) is not None:
                        self._begin(model, tasks)
                await tick_or(self._news, LOOK_SECONDS)

    def id_of(self, id_or_alias: str) -> str:
        """The id of a model that is pinned or in the catalogue. Raises as `Catalogue.resolve` does."""
        return id_or_alias if id_or_alias in self._ids else self._catalogue.resolve(id_or_alias).model_id

    async def pin(self, model: Model, *, may_move: bool) -> int | None:
        """Pin a model, and load it in the background. Returns the event's sequence; None if it was pinned.

        `may_move`: whether another node may keep it instead when this one drains or is lost.

        Raises Quarantined, NotEnoughMemory if it does not fit beside the other pinned models, or what
        `Journal.decide` raises.
        """
        model_id = model.model_id
        if model_id not in self._supervisor.instances:
            self._supervisor.quarantine.check(model)
        async with self._deciding:
            error = self._never_fits(model)
            if error is not None:
                raise error
            seq = None
            if self._ids.get(model_id) is not may_move:
                pinned, unpinned = self._facts(model_id, may_move)
                seq = await self._journal.decide(pinned, undone=unpinned)
                self._ids[model_id] = may_move
            self._supervisor.pin(model_id, self._supervisor.sizes.need(model).ready_bytes)
            self._left_out.pop(model_id, None)
        if model_id not in self._supervisor.instances:
            self._last.pop(model_id, None)
            self._attempts.pop(model_id, None)
        self._news.set()
        return seq

    async def unpin(self, model_id: str) -> int | None:
        """Unpin a model. Returns the event's sequence; None if it was not pinned.

        Raises what `Journal.decide` raises.
        """
        async with self._deciding:
            if model_id not in self._ids:
                return None
            pinned, unpinned = self._facts(model_id, self._ids[model_id])
            seq = await self._journal.decide(unpinned, undone=pinned)
            del self._ids[model_id]
            self._supervisor.pin(model_id, None)
            self._left_out.pop(model_id, None)
        self._news.set()
        return seq

    def _facts(self, model_id: str, may_move: bool) -> tuple[ModelPinned, ModelUnpinned]:
        return (
            ModelPinned(model_id=model_id, node=self._node, may_move=may_move),
            ModelUnpinned(model_id=model_id, node=self._node),
        )

    # --- memory -------------------------------------------------------------------------------------------

    def _keep_memory(self, model_id: str) -> None:
        """Keep memory for a pinned model whose files are there, if those that were pinned before leave it."""
        model = self._catalogue.models.get(model_id)
        ready_bytes, error = None, None
        if model is not None and model.error is None:
            ready_bytes = self._supervisor.sizes.need(model).ready_bytes
            error = self._never_fits(model)
        self._supervisor.pin(model_id, ready_bytes if error is None else None)
        if error is None:
            self._left_out.pop(model_id, None)
            return
        if model_id not in self._left_out:
            logger.warning("%s is pinned in vain: %s", model_id, error.message)
            self._report(error.code, error.message)
        self._left_out[model_id] = error

    def _never_fits(self, model: Model) -> NotEnoughMemory | None:
        """Why a model cannot be kept beside the other pinned ones; None if it can."""
        supervisor, model_id = self._supervisor, model.model_id
        need_bytes = supervisor.sizes.need(model).ready_bytes
        resident = supervisor.residency.residents.get(model_id)
        if resident is not None:
            if supervisor.is_pinned(model_id):
                return None
            need_bytes = need_bytes.at_least(resident.reserved_bytes)
        smaller = model.smaller(supervisor.residency.limit_bytes)
        return never_fits(supervisor.admission.state, model_id, need_bytes, smaller=smaller)

    # --- loads --------------------------------------------------------------------------------------------

    def _missing(self, model_id: str) -> Model | None:
        """The pinned model if it is to be loaded now."""
        supervisor, model = self._supervisor, self._catalogue.models.get(model_id)
        if model_id in supervisor.instances:
            self._last[model_id] = supervisor.instances[model_id]
            return None
        if model is None or model.outage is not None or not supervisor.is_pinned(model_id):
            return None
        attempt, last = self._attempts.get(model_id), self._last.get(model_id)
        is_wanted_away = last is not None and last.unloading in ("requested", "shutdown")
        is_too_early = attempt is not None and self._clock() < attempt.next_at
        if is_wanted_away or is_too_early or model_id in self._loading:
            return None
        return model if supervisor.quarantine.pause_of(model) is None else None

    def _begin(self, model: Model, tasks: anyio.abc.TaskGroup) -> None:
        now, before = self._clock(), self._attempts.get(model.model_id)
        pause_seconds = FIRST_PAUSE_SECONDS
        if before is not None and now - before.next_at < LONGEST_PAUSE_SECONDS:
            pause_seconds = min(2 * before.pause_seconds, LONGEST_PAUSE_SECONDS)
        self._attempts[model.model_id] = _Attempt(pause_seconds, now + pause_seconds)
        self._loading.add(model.model_id)
        tasks.start_soon(self._load, model)

    async def _load(self, model: Model) -> None:
        try:
            terms = Terms(deadline=math.inf, purpose="pin")
            async with self._supervisor.hold(model, terms, correlation_id=self._new_id()) as instance:
                self._last[model.model_id] = instance
                await instance.wait_loaded()
        except SuiteError as error:
            logger.warning("%s is pinned, and is not loaded: %s", model.model_id, error.message)
        finally:
            self._loading.discard(model.model_id)
