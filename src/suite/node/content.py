"""Keeps to one content for each loaded model: one whose files have other content now is unloaded (ADR 25)."""

from __future__ import annotations

import anyio.abc

from suite.catalogue import Catalogue, Model
from suite.config import Settings
from suite.node.instance import Instance
from suite.node.snapshots import forget_content
from suite.node.supervisor import Supervisor


class ContentWatch:
    """Compares what is loaded with what the catalogue finds. Its tasks run in the given task group."""

    def __init__(
        self, settings: Settings, catalogue: Catalogue, supervisor: Supervisor, tasks: anyio.abc.TaskGroup
    ) -> None:
        self._settings = settings
        self._catalogue = catalogue
        self._supervisor = supervisor
        self._tasks = tasks

    def changed(self, model_id: str) -> None:
        """A model has other content: unload it. Its next use loads the new content."""
        instance = self._supervisor.instances.get(model_id)
        if instance is not None:
            self._tasks.start_soon(self._unload, instance)

    def known(self, model: Model) -> None:
        """The digest of a model is known: note it if this is what was loaded.

        If it is not, or is not what its store says it is, the model is unloaded.
        """
        instance = self._supervisor.instances.get(model.model_id)
        if instance is None:
            return
        if model.error is not None:
            self.changed(model.model_id)
        elif instance.signature == model.file.signature.text:
            instance.sha256 = model.sha256
        elif instance.sha256 != model.sha256:
            self.changed(model.model_id)

    async def _unload(self, instance: Instance) -> None:
        model_id = instance.model.model_id
        overwritten = self._is_overwritten(instance)
        await self._supervisor.unload(model_id, "file_changed", drain_seconds=self._settings.drain_seconds)
        if overwritten and instance.sha256 is not None:
            # Its process has the file mapped, so what it computed last is of neither content.
            await forget_content(self._settings, model_id, instance.sha256)

    def _is_overwritten(self, instance: Instance) -> bool:
        now = self._catalogue.models.get(instance.model.model_id)
        return now is None or instance.model.file.signature.was_overwritten(now.file.signature)
