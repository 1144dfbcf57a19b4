"""Loads the models that are likely to be used next, if there is free memory for them."""

from __future__ import annotations

import logging
import math

import anyio

from suite.catalogue import Model
from suite.errors import SuiteError
from suite.node.admission import Terms
from suite.node.generations import wait_loaded
from suite.node.node import Node

logger = logging.getLogger("suite.node")

MODELS = 3
"""How many predicted models are kept loaded; the same number as in the older services."""


class Preloader:
    """Predicts which models will be used next, and keeps them loaded."""

    def __init__(self, node: Node, interval_seconds: float) -> None:
        self._node = node
        self._interval_seconds = interval_seconds
        self._predicted: tuple[str, ...] = ()
        """The models of the last prediction, the likeliest first."""

    async def run(self) -> None:
        """Predict now and after every interval, and load what is predicted. Nothing is evicted for it."""
        while True:
            await self._predict()
            for model_id in self._predicted:
                await self._preload(model_id)
            await anyio.sleep(self._interval_seconds)

    def keep_alive(self, model: Model) -> float:
        """The idle time in seconds after which the model is unloaded; infinite while it is predicted.

        Otherwise a predicted model would be unloaded and loaded again in every round. A model whose file is
        out of reach stays as well: it could not be loaded again.
        """
        now = self._node.catalogue.models.get(model.model_id)
        stays = model.model_id in self._predicted or (now is not None and now.outage is not None)
        return math.inf if stays else self._node.keep_alive(model)

    async def _predict(self) -> None:
        try:
            self._predicted = tuple(await self._node.predict(limit=MODELS))
        except SuiteError as error:
            self._predicted = ()
            logger.warning("nothing is predicted: %s", error.message)

    async def _preload(self, model_id: str) -> None:
        model = self._node.catalogue.models.get(model_id)
        if model is None or model_id in self._node.supervisor.instances:
            return
        if model.error is not None or model.outage is not None:
            return
        admission = self._node.supervisor.admission
        if admission.state.waiting or self._node.supervisor.need_bytes(model) > admission.free_bytes:
            logger.info("%s is likely to be used, but there is no free memory for it", model_id)
            return
        try:
            loadable = await self._node.loadable(model_id)
            supervisor, id = self._node.supervisor, self._node.new_id()
            async with supervisor.hold(loadable, Terms(), correlation_id=id) as instance:
                await wait_loaded(instance, None)
        except SuiteError as error:
            logger.warning("%s, likely to be used, is not loaded: %s", model_id, error.message)
