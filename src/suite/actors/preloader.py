"""Has the models ready that are likely to be used next, where memory is free for them."""

from __future__ import annotations

import logging

import anyio

from suite.actors.generations import wait_loaded
from suite.actors.node import Node
from suite.errors import SuiteError

logger = logging.getLogger("suite.node")

MODELS = 3
"""How many predicted models are kept ready, as the older services did."""


async def preload_predicted(node: Node, interval_seconds: float) -> None:
    """Predict now and after every interval, and load what is predicted; nothing makes room for it."""
    while True:
        try:
            for model_id in await node.predict(limit=MODELS):
                await _preload(node, model_id)
        except SuiteError as error:
            logger.warning("nothing is predicted: %s", error.message)
        await anyio.sleep(interval_seconds)


async def _preload(node: Node, model_id: str) -> None:
    model = node.catalogue.models.get(model_id)
    residency = node.supervisor.residency
    if model is None or model.error is not None or model_id in node.supervisor.instances:
        return
    if model.need_bytes > residency.limit_bytes - residency.reserved_bytes:
        logger.info("%s is likely to be used, but there is no free memory for it", model_id)
        return
    try:
        async with node.supervisor.hold(node.loadable(model_id), correlation_id=node.new_id()) as instance:
            await wait_loaded(instance, None)
    except SuiteError as error:
        logger.warning("%s, likely to be used, is not loaded: %s", model_id, error.message)
