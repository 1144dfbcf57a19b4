"""Records in the log which models the catalogue has, one aggregate per model (ADR 6)."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from functools import partial

import anyio
import msgspec

from suite.catalogue import Catalogue, Model
from suite.catalogue.variants import Variant, content_of, lacks
from suite.domain.registration import Found, Gone, Registration, decide, evolve
from suite.engine.gguf.file import GgufInfo
from suite.errors import (
    ModelFileGone,
    ModelFileIncomplete,
    ModelFileInvalid,
    ModelNotFound,
    SuiteError,
)
from suite.log import Log
from suite.messages.events import AppliedAdapter, ModelRegistered, ModelRemoved
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
        self._due: dict[str, None] = dict.fromkeys((*catalogue.models, *catalogue.variants))
        self._unread: dict[str, None] = {}
        """The models whose files could not be read."""
        self._variants: dict[str, frozenset[str]] = {}
        """The names of models with adapters that the log says this node has, each with what it is made of."""
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
            if (file := state.files.get(self._node)) is None:
                continue
            if file.parts:
                self._variants[model_id] = file.parts
            if file.parts or self._catalogue.has_gone(model_id):
                self._due[model_id] = None

    async def _register(self, model_id: str) -> None:
        """Have the log say what a name stands for, and see again to the names that this may matter for."""
        before = {**self._variants}
        if (variant := self._catalogue.variants.get(model_id)) is not None:
            await self._register_variant(model_id, variant)
        elif model_id in self._variants and not self._is_model(model_id):
            await self._remove_variant(model_id, self._variants[model_id])
        else:
            await self._register_model(model_id)
        now = {name: frozenset(each.parts) for name, each in self._catalogue.variants.items()}
        is_file = model_id not in now and model_id not in before
        for name in sorted((before | now).keys() - {model_id}):
            is_part = model_id in before.get(name, ()) or model_id in now.get(name, ())
            # With another model in the catalogue, an adapter may be for that, or for none any more.
            if is_part or (is_file and before.get(name) != now.get(name)):
                self._due[name] = None

    def _is_model(self, model_id: str) -> bool:
        model = self._catalogue.models.get(model_id)
        return model is not None and model.adapter is None

    async def _register_model(self, model_id: str) -> None:
        self._variants.pop(model_id, None)  # it was a name, and is a file now
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

    async def _register_variant(self, name: str, variant: Variant) -> None:
        """Register a name that stands for a model with adapters, as soon as all of it can be read."""
        catalogue = self._catalogue
        if any(lacks(name, variant, catalogue.models)):
            if name in self._variants:
                await self._remove_variant(name, frozenset(variant.parts))
            return
        try:
            for id in variant.parts:
                await catalogue.digest(id)
        except (ModelFileGone, ModelNotFound):
            return  # whoever noticed that notes it
        except ModelFileInvalid as error:
            logger.warning("%s is not registered yet: %s", name, error.message)
            self._unread[name] = None
            return
        fact = registered_name(self._node, name, variant, catalogue.models)
        if fact is not None and catalogue.variants.get(name) == variant:
            self._variants[name] = frozenset(variant.parts)
            await self._settle(Found(fact=fact))

    async def _remove_variant(self, name: str, parts: frozenset[str]) -> None:
        """Note that a name stands for no model with adapters any more, unless that is only out of reach."""
        known = self._catalogue.models
        missing = [id for id in parts if id not in known]
        if missing and not any(map(self._catalogue.has_gone, missing)):
            return
        await self._settle(Gone(fact=ModelRemoved(model_id=name, node=self._node)))
        self._variants.pop(name, None)

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
        return _registered(self._node, model, model.info, sha256)

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


def _registered(node: str, model: Model, info: GgufInfo, sha256: str) -> ModelRegistered:
    """The registration of a model."""
    return ModelRegistered(
        model_id=model.model_id,
        node=node,
        file_name=model.file_name,
        file_bytes=info.file_bytes,
        sha256=sha256,
        architecture=info.architecture,
        parameters=info.parameters,
        quantization=info.quantization,
        trained_context_tokens=info.context_tokens,
        settings=model.version_settings,
        source=model.source,
    )


def registered_name(
    node: str, name: str, variant: Variant, models: Mapping[str, Model]
) -> ModelRegistered | None:
    """The registration of a name that stands for a model with adapters; None while anything is not known.

    It is that of the model, but for the files.
    """
    base, content = models.get(variant.base), content_of(variant, models)
    if base is None or base.info is None or base.sha256 is None or content is None:
        return None
    adapters = [models[each.id] for each in variant.adapters]
    files = adapters or [base]
    return msgspec.structs.replace(
        _registered(node, base, base.info, content),
        model_id=name,
        file_name=", ".join(each.file_name for each in files),
        file_bytes=sum(each.file.signature.size for each in files),
        source=files[0].source,
        base=base.model_id,
        base_sha256=base.sha256,
        adapters=tuple(
            AppliedAdapter(id=each.id, sha256=adapter.sha256 or "", scale=each.scale)
            for each, adapter in zip(variant.adapters, adapters, strict=True)
        ),
    )


def _is_refused(model: Model) -> bool:
    is_coming = not model.settled or isinstance(model.file.error, ModelFileIncomplete)
    return model.error is not None and not is_coming
