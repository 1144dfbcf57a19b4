"""What the log says of a node's models from before its start: which are pinned, and which have failed."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from suite.domain import pins, quarantine
from suite.domain.pins import Pins
from suite.domain.quarantine import Experience, FilesChanged
from suite.log import Log
from suite.messages.events import ModelQuarantined, ModelReleased
from suite.messages.subjects import Subjects


class Past(NamedTuple):
    """What a node has to remember of its models."""

    pinned: Pins
    """The models that are pinned on it."""
    experience: Experience
    """The models that failed on it."""


async def read_past(log: Log, subjects: Subjects, node: str, now: datetime) -> Past:
    """Read the past of a node's models in one pass. Raises Unavailable, ServerUnsuitable."""
    pinned: Pins = {}
    experience = Experience()
    async for recorded in log.read(subjects.aggregate("model")):
        fact = recorded.data
        pinned = pins.evolve(pinned, fact, node=node)
        if isinstance(fact, ModelQuarantined | ModelReleased) and fact.node == node:
            experience = quarantine.evolve(experience, fact, recorded.time)
    for model_id in experience.failures:  # nobody watched the files meanwhile
        experience = quarantine.evolve(experience, FilesChanged(model_id=model_id), now)
    return Past(pinned, experience)
