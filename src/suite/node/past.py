"""What the log says of a node's models from before its start: which are pinned, and which have failed."""

from __future__ import annotations

from datetime import datetime
from typing import NamedTuple

from suite.domain import pins, quarantine
from suite.domain.pins import Pinning
from suite.domain.quarantine import Experience, FilesChanged
from suite.log import Log
from suite.messages.events import ModelPinned, ModelQuarantined, ModelReleased, ModelUnpinned
from suite.messages.subjects import Subjects


class Past(NamedTuple):
    """What a node has to remember of its models."""

    pinned: set[str]
    """The ids of the models that are pinned on it."""
    experience: Experience
    """The models that failed on it."""


async def read_past(log: Log, subjects: Subjects, node: str, now: datetime) -> Past:
    """Read the past of a node's models in one pass. Raises Unavailable, ServerUnsuitable."""
    pinnings: dict[str, Pinning] = {}
    experience = Experience()
    async for recorded in log.read(subjects.aggregate("model")):
        fact = recorded.data
        if isinstance(fact, ModelPinned | ModelUnpinned):
            pinnings[fact.model_id] = pins.evolve(pinnings.get(fact.model_id, Pinning()), fact)
        elif isinstance(fact, ModelQuarantined | ModelReleased) and fact.node == node:
            experience = quarantine.evolve(experience, fact, recorded.time)
    for model_id in experience.failures:  # nobody watched the files meanwhile
        experience = quarantine.evolve(experience, FilesChanged(model_id=model_id), now)
    pinned = {model_id for model_id, pinning in pinnings.items() if node in pinning.nodes}
    return Past(pinned, experience)
