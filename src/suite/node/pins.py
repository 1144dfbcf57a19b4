"""The models that are pinned on this node: they are loaded with it, and stay (ADR 40)."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable
from functools import partial

import anyio.abc

from suite.catalogue import Catalogue, Model
from suite.domain.pins import Pinning, decide, evolve
from suite.domain.turns import never_fits
from suite.errors import SuiteError
from suite.identity import NewId
from suite.log import Log
from suite.messages.events import ModelPinned, ModelUnpinned
from suite.messages.subjects import Subjects
from suite.node.admission import Terms
from suite.node.aggregate import settle
from suite.node.generations import wait_loaded
from suite.node.supervisor import Supervisor

logger = logging.getLogger("suite.node")


class Pins:
    """Pins models, and remembers which are."""

    def __init__(
        self,
        model_ids: Iterable[str],
        *,
        log: Log,
        subjects: Subjects,
        node: str,
        catalogue: Catalogue,
        supervisor: Supervisor,
        tasks: anyio.abc.TaskGroup,
        new_id: NewId,
    ) -> None:
        self._ids = set(model_ids)
        self._log = log
        self._subjects = subjects
        self._node = node
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._tasks = tasks
        self._new_id = new_id

    def start(self) -> None:
        """Load what is pinned already."""
        self.heed_files()
        for model_id in sorted(self._ids & self._catalogue.models.keys()):
            self._tasks.start_soon(self._load, self._catalogue.models[model_id])

    def heed_files(self) -> None:
        """Keep memory for those pinned models that can be loaded, whose files come and go."""
        for model_id in self._ids:
            model = self._catalogue.models.get(model_id)
            usable = model if model is not None and model.error is None else None
            self._supervisor.pin(model_id, None if usable is None else self._supervisor.need_bytes(usable))

    def id_of(self, id_or_alias: str) -> str:
        """The id of a model that is pinned or in the catalogue. Raises as `Catalogue.resolve` does."""
        return id_or_alias if id_or_alias in self._ids else self._catalogue.resolve(id_or_alias).model_id

    async def pin(self, model: Model) -> int | None:
        """Pin a model, and load it in the background. Returns the event's sequence; None if it was pinned.

        Raises Quarantined, NotEnoughMemory if it does not fit beside the other pinned models, or what the
        append raises.
        """
        if model.model_id not in self._supervisor.instances:
            self._supervisor.quarantine.check(model)
        state, limit_bytes = self._supervisor.admission.state, self._supervisor.residency.limit_bytes
        smaller = model.smaller(limit_bytes)
        need_bytes = self._supervisor.need_bytes(model)
        error = never_fits(state, model.model_id, need_bytes, smaller=smaller)
        if error is not None:
            raise error
        seq = await self._settle(ModelPinned(model_id=model.model_id, node=self._node))
        self._ids.add(model.model_id)
        self._supervisor.pin(model.model_id, need_bytes)
        self._tasks.start_soon(self._load, model)
        return seq

    async def unpin(self, model_id: str) -> int | None:
        """Unpin a model. Returns the event's sequence; None if it was not pinned."""
        seq = await self._settle(ModelUnpinned(model_id=model_id, node=self._node))
        self._ids.discard(model_id)
        self._supervisor.pin(model_id, None)
        return seq

    async def _settle(self, command: ModelPinned | ModelUnpinned) -> int | None:
        return await settle(
            self._log,
            self._subjects.aggregate("model", command.model_id),
            f"the pin of {command.model_id}",
            Pinning(),
            evolve=evolve,
            decide=partial(decide, command=command),
        )

    async def _load(self, model: Model) -> None:
        try:
            terms = Terms(deadline=math.inf, purpose="pin")
            async with self._supervisor.hold(model, terms, correlation_id=self._new_id()) as instance:
                await wait_loaded(instance, None)
        except SuiteError as error:
            logger.warning("%s is pinned, and is not loaded: %s", model.model_id, error.message)
