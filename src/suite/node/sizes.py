"""What memory this node's models need: estimated before their first load, measured afterwards (ADR 42)."""

from __future__ import annotations

import logging

import anyio

from suite.catalogue import Model
from suite.domain.footprint import Footprint
from suite.domain.sizes import Need, SizeKey, Sizes, evolve, merged, need
from suite.errors import ReadModelBehind, ReadModelUnavailable
from suite.messages.events import Event
from suite.projections.projector import Projector
from suite.projections.sizes import sizes

logger = logging.getLogger("suite.supervisor")

RECALL_SECONDS = 2.0
"""How long a node's start waits for what earlier runs have measured; then it goes on with estimates."""
_RETRY_SECONDS = 1.0


class ModelSizes:
    """The sizes of models, with what earlier runs of the node measured once that was read."""

    def __init__(self, node: str, limits: Footprint) -> None:
        """`limits` says which memories the node has."""
        self._node = node
        self._limits = limits
        self._sizes: Sizes = {}
        self._is_recalled = anyio.Event()

    @property
    def known(self) -> Sizes:
        """What models were measured to need: another object whenever that has changed."""
        return self._sizes

    def need(self, model: Model) -> Need:
        """The memory for a load of this model."""
        measured = need(self._sizes, _key(model))
        if measured is None:
            estimated = self.estimated(model)
            return Need(estimated, estimated)
        return Need(*(each.counted_in(self._limits) for each in measured))

    def estimated(self, model: Model) -> Footprint:
        """The memory for its first load, from its file and settings alone."""
        return model.footprint(self._limits)

    def is_measured(self, model: Model) -> bool:
        """Whether its size is known from an earlier load."""
        return _key(model) in self._sizes

    def note(self, fact: Event) -> None:
        """Take notice of a fact about an instance of this node."""
        self._sizes = evolve(self._sizes, fact)

    async def recall(self, catalogue: Projector, seq: int) -> None:
        """Read what was measured up to an event of the log, as soon as the read model has it."""
        while not self._is_recalled.is_set():
            try:
                async with catalogue.reading(seq) as db:
                    self._sizes = merged(await sizes(db, self._node), self._sizes)
                self._is_recalled.set()
            except (ReadModelBehind, ReadModelUnavailable) as error:
                logger.info("sizes of models are estimated for now: %s", error.message)
                await anyio.sleep(_RETRY_SECONDS)

    async def wait_recalled(self) -> None:
        """Wait for `recall`, but not for long: a read model may be rebuilt meanwhile."""
        with anyio.move_on_after(RECALL_SECONDS):
            await self._is_recalled.wait()


def _key(model: Model) -> SizeKey:
    return SizeKey(model.sha256 or "", model.settings_key)
