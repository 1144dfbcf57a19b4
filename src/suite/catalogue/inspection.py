"""Makes models of files: reads what a file says of itself and combines it with the settings. Blocks."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import msgspec

from suite.catalogue.digests import DigestCache, fingerprint
from suite.catalogue.entry import Entry
from suite.catalogue.files import ModelFile, gone
from suite.catalogue.kv_cache import KvCache, budget, estimated, kv_cache
from suite.catalogue.model import Model, with_claim_checked
from suite.catalogue.projectors import UNPAIRED, pair
from suite.config import ModelSettings
from suite.domain.footprint import Footprint
from suite.engine.gguf.adapter import AdapterInfo
from suite.engine.gguf.file import GgufInfo, describe
from suite.engine.gguf.names import is_projector_name
from suite.engine.template_text import template_text
from suite.errors import (
    AdapterMismatch,
    InvalidConfiguration,
    ModelFileGone,
    ModelFileIncomplete,
    ModelFileInvalid,
    SuiteError,
)

logger = logging.getLogger("suite.catalogue")


class Inspection:
    """Makes models of files that were found."""

    def __init__(
        self, settings: Mapping[str, ModelSettings], digests: DigestCache, limits: Footprint
    ) -> None:
        self._settings = settings
        self._digests = digests
        self._limits = limits

    def inspect(self, model_id: str, file: ModelFile) -> Model | None:
        """Read a file and describe it as a model; None if it is gone meanwhile."""
        try:
            return self._inspect(model_id, file)
        except ModelFileGone:
            return None

    def arriving(self, model_id: str, file: ModelFile) -> Model:
        """A model whose file is still being written, so that it is not worth reading yet."""
        error = ModelFileIncomplete(
            f"{file.path.name} is still being copied: it is served once it has not changed for a second"
        )
        return self._model(model_id, file, None, error, "", settled=False)

    def _inspect(self, model_id: str, file: ModelFile) -> Model:
        info: GgufInfo | None = None
        seen = ""
        error = file.error
        if error is None:
            try:
                described = describe(file.path)
                if isinstance(described, AdapterInfo):
                    return self._adapter(model_id, file, described)
                info = described
                seen = _fingerprint(file.path, info)
            except ModelFileInvalid as invalid:
                info, error = None, invalid.copy()
        if info is None and not is_projector_name(file.path.name):
            logger.warning("model %s cannot be loaded: %s", model_id, error)
        return self._model(model_id, file, info, error, seen, settled=True)

    def _adapter(self, model_id: str, file: ModelFile, described: AdapterInfo) -> Model:
        """An adapter, which is not loaded alone. Raises ModelFileGone and ModelFileInvalid."""
        error = AdapterMismatch(
            f"{model_id} is an adapter, and there is no one model that it is for: send it as one of the "
            f'adapters of a request for a model, or set base in models."{model_id}"'
        )
        try:
            seen = fingerprint([file.path])
        except OSError as failure:
            raise unreadable(file.path.name, failure) from None
        model = self._model(model_id, file, None, error, seen, settled=True)
        return msgspec.structs.replace(
            model, adapter=described, sha256=self._digests.get(file.signature, seen)
        )

    def _model(
        self,
        model_id: str,
        file: ModelFile,
        info: GgufInfo | None,
        error: SuiteError | None,
        seen: str,
        *,
        settled: bool,
    ) -> Model:
        settings = _completed(self._settings.get(model_id, ModelSettings()), file.entry)
        cache: KvCache | None = None
        if info is not None:
            try:
                cache = self._kv_cache(model_id, settings, info)
            except InvalidConfiguration as invalid:
                logger.warning("model %s cannot be loaded: %s", model_id, invalid)
                error = invalid
        pairing = UNPAIRED if info is None else pair(file.path, info, file.projectors, settings.projector)
        model = Model(
            model_id=model_id,
            file=file,
            info=info,
            error=error,
            settled=settled,
            sha256=self._digests.get(file.signature, seen) if info else None,
            fingerprint=seen,
            settings=settings,
            template=_template(settings),
            kv_cache=cache,
            estimate=estimated(cache, settings, info, pairing.projector) if info and cache else None,
            pairing=pairing,
        )
        return with_claim_checked(model)

    def _kv_cache(self, model_id: str, settings: ModelSettings, info: GgufInfo) -> KvCache:
        """Raises InvalidConfiguration."""
        cache = kv_cache(settings, info, budget(settings, self._limits))
        if cache.warning is not None:
            logger.warning("model %s: %s", model_id, cache.warning)
        return cache


def _template(settings: ModelSettings) -> str | None:
    """The chat template that is configured; what names no file that can be read stands for itself."""
    if settings.chat_template is None:
        return None
    try:
        return template_text(settings.chat_template)
    except InvalidConfiguration:  # whoever loads the model is told
        return settings.chat_template


def _completed(settings: ModelSettings, entry: Entry) -> ModelSettings:
    """A model's settings, with what comes with its file where they say nothing."""
    return msgspec.structs.replace(
        settings,
        context_length=settings.context_length or entry.context_tokens,
        aliases=(*settings.aliases, *entry.aliases),
    )


def part_paths(path: Path, info: GgufInfo) -> list[Path]:
    """The paths of all parts of a model."""
    return [path.with_name(part) for part in info.parts]


def unreadable(file_name: str, error: OSError) -> ModelFileGone | ModelFileInvalid:
    """The error for a file that could not be read."""
    if isinstance(error, FileNotFoundError):
        return gone(file_name)
    return ModelFileInvalid(f"{file_name} cannot be read: {error.strerror or error}")


def _fingerprint(path: Path, info: GgufInfo) -> str:
    """The fingerprint of a model that was just inspected. Raises ModelFileGone and ModelFileInvalid."""
    try:
        return fingerprint(part_paths(path, info))
    except OSError as error:
        raise unreadable(path.name, error) from None
