"""Records in the log which models the catalogue has, one aggregate per model (ADR 6)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from functools import partial

import anyio

from suite.catalogue import Catalogue, Model
from suite.domain.registration import Found, Gone, Registration, decide, evolve
from suite.errors import (
    ModelFileGone,
    ModelFileIncomplete,
    ModelFileInvalid,
    ModelNotFound,
    SuiteError,
)
from suite.log import Log
from suite.messages.events import ModelRegistered, ModelRemoved
from suite.messages.subjects import Subjects
from suite.node.aggregate import settle

logger = logging.getLogger("suite.registrar")

RETRY_SECONDS = 2.0
UNREAD_SECONDS = 60.0
"""After how long a file that could not be read is read again: its disk may have been away for a while."""


class Registrar:
    """Registers the models that this node has, and removes those that it no longer has, in the background."""

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        node: str,
        catalogue: Catalogue,
        on_digest: Callable[[Model], None] = lambda _: None,
        on_refused: Callable[[Model], None] = lambda _: None,
    ) -> None:
        """`on_digest` is called with every model whose digest is known, or which it shows to be damaged.

        `on_refused` is called with every model that cannot be loaded, when its files are seen and whenever
        they have changed, but not with what is still being written or downloaded.
        """
        self._log = log
        self._subjects = subjects
        self._node = node
        self._catalogue = catalogue
        self._on_digest = on_digest
        self._on_refused = on_refused
        self._due: dict[str, None] = dict.fromkeys(catalogue.models)
        self._unread: dict[str, None] = {}
        """The models whose files could not be read."""
        self._news = anyio.Event()

    def note(self, model_id: str) -> None:
        """Note that a model was added, removed or changed."""
        self._due[model_id] = None
        self._news.set()

    async def run(self) -> None:
        """Bring the log up to date with the catalogue, model by model. Failed appends are retried."""
        past_is_due = True
        while True:
            try:
                if past_is_due:
                    await self._note_missing()
                    past_is_due = False
                while self._due:
                    await self._register_next()
            except SuiteError as error:
                logger.warning("the catalogue is not in the log yet: %s", error.message)
                await anyio.sleep(RETRY_SECONDS)
                continue
            await self._wait()

    async def _wait(self) -> None:
        """Wait for news, or until files that could not be read are due again."""
        with anyio.move_on_after(UNREAD_SECONDS if self._unread else math.inf) as limit:
            await self._news.wait()
        self._news = anyio.Event()
        if limit.cancelled_caught:
            self._due |= self._unread
            self._unread.clear()

    async def _register_next(self) -> None:
        """Register one model. If it changes meanwhile, or that fails, it is due again."""
        model_id = next(iter(self._due))
        del self._due[model_id]
        try:
            await self._register(model_id)
        except SuiteError:
            self._due[model_id] = None
            raise

    async def _note_missing(self) -> None:
        """Mark the models that the log says this node has, and that it no longer has, as due."""
        states: dict[str, Registration] = {}
        async for recorded in self._log.read(self._subjects.aggregate("model")):
            if isinstance(recorded.data, ModelRegistered | ModelRemoved):
                model_id = recorded.data.model_id
                states[model_id] = evolve(states.get(model_id, Registration()), recorded.data)
        for model_id, state in states.items():
            if self._node in state.files and self._catalogue.has_gone(model_id):
                self._due[model_id] = None

    async def _register(self, model_id: str) -> None:
        model = self._catalogue.models.get(model_id)
        if model is None:
            if not self._catalogue.has_gone(model_id):
                return  # it is out of reach, and known again when it is back
            await self._settle(Gone(fact=ModelRemoved(model_id=model_id, node=self._node)))
            return
        if _is_refused(model):
            self._on_refused(model)
        if (fact := await self._describe(model)) is not None:
            await self._settle(Found(fact=fact))

    async def _describe(self, model: Model) -> ModelRegistered | None:
        """The registration of a model; None if its file is invalid or has just been removed."""
        if model.info is None:
            return None
        try:
            sha256 = await self._catalogue.digest(model.model_id)
        except (ModelFileGone, ModelNotFound):
            return None
        except ModelFileInvalid as error:
            logger.warning("%s is not registered yet: %s", model.model_id, error.message)
            self._unread[model.model_id] = None
            self._tell_damage(model.model_id)
            return None
        now = self._catalogue.models.get(model.model_id)
        if now is None or now.file.signature != model.file.signature:
            return None  # whoever noticed that notes it
        self._on_digest(now)
        return ModelRegistered(
            model_id=model.model_id,
            node=self._node,
            file_name=model.file_name,
            file_bytes=model.info.file_bytes,
            sha256=sha256,
            architecture=model.info.architecture,
            parameters=model.info.parameters,
            quantization=model.info.quantization,
            trained_context_tokens=model.info.context_tokens,
            settings=model.version_settings,
            source=model.source,
        )

    def _tell_damage(self, model_id: str) -> None:
        now = self._catalogue.models.get(model_id)
        if now is not None and now.error is not None:
            self._on_digest(now)

    async def _settle(self, command: Found | Gone) -> None:
        """Append the fact, unless the log has it already."""
        model_id = command.fact.model_id
        await settle(
            self._log,
            self._subjects.aggregate("model", model_id),
            f"the registration of {model_id}",
            Registration(),
            evolve=evolve,
            decide=partial(decide, command=command),
        )


def _is_refused(model: Model) -> bool:
    is_coming = not model.settled or isinstance(model.file.error, ModelFileIncomplete)
    return model.error is not None and not is_coming
