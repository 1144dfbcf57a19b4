"""Writes the catalogue's comings and goings into the log, one aggregate a model."""

from __future__ import annotations

import logging

from suite.catalogue import Catalogue, Model
from suite.domain.registration import Found, Gone, Registration, decide, evolve
from suite.errors import Conflict, ModelFileGone, ModelFileInvalid, SuiteError
from suite.log import Expectation, Log
from suite.messages.events import ModelRegistered, ModelRemoved
from suite.messages.subjects import Subjects

logger = logging.getLogger("suite.registrar")


class Registrar:
    """Registers what this node finds, and removes what it no longer has."""

    def __init__(self, log: Log, subjects: Subjects, node: str, catalogue: Catalogue) -> None:
        self._log = log
        self._subjects = subjects
        self._node = node
        self._catalogue = catalogue

    async def found(self, model: Model) -> None:
        """Register a model's file by its digest; a file that goes meanwhile is left to `gone`."""
        if model.info is None:
            return
        try:
            sha256 = await self._catalogue.digest(model.model_id)
        except (ModelFileGone, ModelFileInvalid):
            return
        fact = ModelRegistered(
            model_id=model.model_id,
            node=self._node,
            file_name=model.file_name,
            file_bytes=model.info.file_bytes,
            sha256=sha256,
            architecture=model.info.architecture,
            parameters=model.info.parameters,
            quantization=model.info.quantization,
            trained_context_tokens=model.info.context_tokens,
        )
        await self._settle(Found(fact=fact))

    async def gone(self, model_id: str) -> None:
        """Append that this node no longer has the model."""
        await self._settle(Gone(fact=ModelRemoved(model_id=model_id, node=self._node)))

    async def remove_missing(self) -> None:
        """Append the removal of what this node had at its last run and no longer has."""
        states: dict[str, Registration] = {}
        async for recorded in self._log.read(self._subjects.aggregate("model")):
            if isinstance(recorded.data, ModelRegistered | ModelRemoved):
                model_id = recorded.data.model_id
                states[model_id] = evolve(states.get(model_id, Registration()), recorded.data)
        for model_id, state in states.items():
            if self._node in state.digests and model_id not in self._catalogue.models:
                await self.gone(model_id)

    async def _settle(self, command: Found | Gone) -> None:
        """Load the aggregate, decide, append; decide again when somebody else wrote meanwhile."""
        aggregate = self._subjects.aggregate("model", command.fact.model_id)
        state, last_seq = Registration(), 0
        while True:
            async for recorded in self._log.read(aggregate, after=last_seq):
                state, last_seq = evolve(state, recorded.data), recorded.seq
            fact = decide(state, command)
            if fact is None:
                return
            try:
                await self._log.append(fact, expect=Expectation(subject=aggregate, last_seq=last_seq))
            except Conflict:
                continue
            except SuiteError as error:
                logger.warning("%s is not registered: %s", command.fact.model_id, error.message)
            return
