"""The catalogue of a node's models, kept up to date as files are added, changed and removed::

catalogue = Catalogue.open([Path("models")], settings.models, data_dir / "digests.json")
await catalogue.scan()
model = catalogue.resolve("smollm2")
"""

from __future__ import annotations

import difflib
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import anyio
import anyio.to_thread
import msgspec
import watchfiles

from suite.catalogue.digests import DigestCache, fingerprint, just_changed, sha256
from suite.catalogue.files import Directories, Listing, ModelFile
from suite.catalogue.model import (
    Changes,
    Model,
    cache_tokens,
    context_tokens,
    has_changed,
    with_digest_before,
)
from suite.config import ModelSettings
from suite.engine.gguf.estimate import estimate
from suite.engine.gguf.file import GgufInfo, inspect
from suite.engine.gguf.signature import Signature
from suite.errors import ModelFileGone, ModelFileInvalid, ModelNotFound, SuiteError

logger = logging.getLogger("suite.catalogue")

SETTLE_SECONDS = 1.0
"""A file counts once it has not changed for this long, because it may still be being copied."""
_IDLE_TICKS = 5
"""Directories are scanned after this many seconds even without a change: some file systems report none."""
_POLLED_TICKS = 60


class Catalogue:
    """The models of one node by id, sorted by id. Use it only in the event loop's thread."""

    def __init__(
        self,
        directories: Directories,
        settings: Mapping[str, ModelSettings],
        digests: DigestCache,
        clock: Callable[[], float],
    ) -> None:
        self._directories = directories
        self._settings = settings
        self._digests = digests
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._aliases: dict[str, str] = {}
        self._missing: dict[str, str] = {}
        self._unsettled: dict[str, tuple[Signature, float]] = {}
        self._scanning = anyio.Lock()
        self._hashing = anyio.Lock()
        self.warnings: tuple[str, ...] = ()
        """What the last scan left out, and why."""

    @classmethod
    def open(
        cls,
        directories: Sequence[Path],
        settings: Mapping[str, ModelSettings],
        cache_file: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> Catalogue:
        """A catalogue of these directories, empty until its first scan. `cache_file` stores digests."""
        return cls(Directories(directories), settings, DigestCache(cache_file), clock)

    @property
    def models(self) -> Mapping[str, Model]:
        """All models by id, including those that cannot be loaded."""
        return self._models

    def resolve(self, id_or_alias: str) -> Model:
        """The model with this id, or else with this alias. Raises ModelNotFound, with similar names."""
        if (model_id := self.canonical(id_or_alias)) in self._models:
            return self._models[model_id]
        if id_or_alias in self._missing:
            raise ModelNotFound(f"no model {id_or_alias!r}: {self._missing[id_or_alias]}")
        raise ModelNotFound(f"no model {id_or_alias!r}: {self._suggestion(id_or_alias)}")

    def canonical(self, id_or_alias: str) -> str:
        """The id behind an alias; any other text is returned as it is, even if there is no such model."""
        return id_or_alias if id_or_alias in self._models else self._aliases.get(id_or_alias, id_or_alias)

    def check_present(self, model: Model) -> Signature:
        """Check, without reading it, that a file is still the one that was inspected, or was only touched.

        Returns the signature that it has now. Raises ModelFileGone when it no longer exists, and
        ModelFileInvalid when it is refused, or has changed and will be inspected by the next scan.
        """
        if not model.file.signature.parts:  # refused because of its path, so there is no file to check
            raise model.error or ModelFileInvalid()
        now = self._directories.look(model.path)
        if now.error is not None:
            raise now.error
        if not model.file.signature.is_touched(now.signature):
            raise just_changed(model.file_name)
        return now.signature

    async def scan(self, *, settle_seconds: float = 0.0) -> Changes:
        """Scan the directories and inspect new and changed files; an unchanged one costs only a stat.

        A new or changed file counts once it has not changed for `settle_seconds`.
        """
        async with self._scanning:
            listing = await anyio.to_thread.run_sync(self._directories.listing, self._settings)
            fresh = {key: file for key, file in listing.files.items() if not self._known(key, file)}
            ready = {key: file for key, file in fresh.items() if self._settled(key, file, settle_seconds)}
            waiting = fresh.keys() - ready.keys()
            self._unsettled = {key: self._unsettled[key] for key in waiting}
            inspected = await anyio.to_thread.run_sync(self._inspect_all, ready)
            return self._take_over(listing, inspected)

    async def watch(self) -> AsyncGenerator[Changes, None]:
        """Scan whenever files change, and yield what changed. Never ends by itself."""
        quiet = _IDLE_TICKS - 1  # so that the first tick scans for what changed since the last scan
        while True:
            present = [path for path in self._directories.paths if path.is_dir()]
            async with aclosing(_ticks(present)) as ticks:
                async for something in ticks:
                    quiet = 0 if something or self._unsettled else quiet + 1
                    if quiet % _IDLE_TICKS == 0:
                        changes = await self.scan(settle_seconds=SETTLE_SECONDS)
                        if changes:
                            yield changes
                        if present != [path for path in self._directories.paths if path.is_dir()]:
                            break  # a directory was added or removed: watch those that exist now

    async def digest(self, model_id: str) -> str:
        """The SHA-256 of a model's file; of a split file, of its parts one after the other.

        Each content is read once, in a thread, one file at a time. Raises ModelNotFound, ModelFileGone, and
        ModelFileInvalid when the file cannot be read or changes meanwhile.
        """
        async with self._hashing:
            model = self.resolve(model_id)
            if model.sha256 is not None:
                return model.sha256
            found = await self._hash(model)
        current = self._models.get(model.model_id)
        if current is not None and current.file.signature == model.file.signature:
            self._models[model.model_id] = msgspec.structs.replace(current, sha256=found, sha256_before=None)
        return found

    async def _hash(self, model: Model) -> str:
        stop = threading.Event()
        try:
            found = await anyio.to_thread.run_sync(sha256, _paths(model), stop, abandon_on_cancel=True)
        except OSError as error:
            raise _unreadable(model.file_name, error) from None
        finally:
            stop.set()  # an abandoned thread must not go on to read gigabytes
        assert found is not None, "only a cancelled caller stops it"
        if self.check_present(model) != model.file.signature:
            raise just_changed(model.file_name)
        await anyio.to_thread.run_sync(
            self._digests.put, model.path, model.file.signature, model.fingerprint, found
        )
        return found

    def _known(self, model_id: str, file: ModelFile) -> bool:
        before = self._models.get(model_id)
        return (
            before is not None
            and (before.path, before.file.signature) == (file.path, file.signature)
            and _text(before.file.error) == _text(file.error)
        )

    def _settled(self, model_id: str, file: ModelFile, seconds: float) -> bool:
        now = self._clock()
        signature, since = self._unsettled.get(model_id, (None, now))
        if signature != file.signature:
            since = now
        self._unsettled[model_id] = (file.signature, since)
        return now - since >= seconds

    def _inspect_all(self, files: Mapping[str, ModelFile]) -> dict[str, Model]:
        models: dict[str, Model] = {}
        for model_id, file in files.items():
            try:
                models[model_id] = self._inspect(model_id, file)
            except ModelFileGone:
                continue
        return models

    def _inspect(self, model_id: str, file: ModelFile) -> Model:
        settings = self._settings.get(model_id, ModelSettings())
        info: GgufInfo | None = None
        seen = ""
        error = file.error
        if error is None:
            try:
                info = inspect(file.path)
                seen = _fingerprint(file.path, info)
            except ModelFileInvalid as invalid:
                info, error = None, invalid
        if info is None:
            logger.warning("model %s cannot be loaded: %s", model_id, error)
        tokens = context_tokens(settings, info) if info else 0
        cache = cache_tokens(settings, info) if info else 0
        return Model(
            model_id=model_id,
            file=file,
            info=info,
            error=error,
            sha256=self._digests.get(file.signature, seen) if info else None,
            fingerprint=seen,
            settings=settings,
            context_tokens=tokens,
            cache_tokens=cache,
            estimate=estimate(
                info, cache_tokens=cache, batch_tokens=settings.batch_tokens, slots=settings.slots
            )
            if info
            else None,
        )

    def _take_over(self, listing: Listing, inspected: Mapping[str, Model]) -> Changes:
        before = self._models
        kept = {model_id: model for model_id, model in before.items() if model_id in listing.files}
        fresh = {
            model_id: with_digest_before(model, before.get(model_id)) for model_id, model in inspected.items()
        }
        again = [model_id for model_id in fresh if model_id in before]
        now = dict(sorted((kept | fresh).items()))
        self._models, self._missing = now, listing.missing
        warnings = listing.warnings + self._name_aliases()
        for warning in warnings:
            if warning not in self.warnings:
                logger.warning("%s", warning)
        self.warnings = warnings
        return Changes(
            added=tuple(model_id for model_id in now if model_id not in before),
            removed=tuple(model_id for model_id in before if model_id not in now),
            touched=tuple(model_id for model_id in again if fresh[model_id].sha256_before is not None),
            changed=tuple(model_id for model_id in again if has_changed(before[model_id], fresh[model_id])),
        )

    def _name_aliases(self) -> tuple[str, ...]:
        warnings: list[str] = []
        self._aliases = {}
        for model_id, model in self._models.items():
            for alias in model.settings.aliases:
                other = alias if alias in self._models else self._aliases.setdefault(alias, model_id)
                if other != model_id:
                    warnings.append(f"the alias {alias!r} of {model_id} is ignored: it means {other} already")
        return tuple(warnings)

    def _suggestion(self, asked: str) -> str:
        names = {name.casefold(): name for name in (*self._models, *self._aliases)}
        near = difflib.get_close_matches(asked.casefold(), names, n=3, cutoff=0.5)
        if near:
            return f"did you mean {' or '.join(repr(names[name]) for name in near)}?"
        if names:
            return "list_models lists the available models"
        where = ", ".join(map(str, self._directories.paths))
        return f"there are none; put a .gguf file into {where}"


async def _ticks(directories: Sequence[Path]) -> AsyncGenerator[bool, None]:
    """Yield True when something changed below the directories, and False after each second without a change.

    Where the system cannot watch files, it yields False each second and ends after some time, to be tried
    again.
    """
    if directories:
        changes = watchfiles.awatch(
            *directories,
            watch_filter=None,
            rust_timeout=int(SETTLE_SECONDS * 1000),
            yield_on_timeout=True,
            ignore_permission_denied=True,
        )
        try:
            async with aclosing(changes):
                async for seen in changes:
                    yield bool(seen)
        except (OSError, RuntimeError, ExceptionGroup) as error:
            logger.warning("files cannot be watched, so they are scanned every few seconds: %s", error)
    for _ in range(_POLLED_TICKS):
        await anyio.sleep(SETTLE_SECONDS)
        yield False


def _paths(model: Model) -> list[Path]:
    return _part_paths(model.path, model.info) if model.info else [model.path]


def _part_paths(path: Path, info: GgufInfo) -> list[Path]:
    return [path.with_name(part) for part in info.parts]


def _fingerprint(path: Path, info: GgufInfo) -> str:
    """The fingerprint of a model that was just inspected. Raises ModelFileGone and ModelFileInvalid."""
    try:
        return fingerprint(_part_paths(path, info))
    except OSError as error:
        raise _unreadable(path.name, error) from None


def _unreadable(file_name: str, error: OSError) -> ModelFileGone | ModelFileInvalid:
    if isinstance(error, FileNotFoundError):
        return ModelFileGone(f"{file_name} is gone: put it back, or choose another model")
    return ModelFileInvalid(f"{file_name} cannot be read: {error.strerror or error}")


def _text(error: SuiteError | None) -> str | None:
    return error.message if error else None
