"""The catalogue of a node's models, kept up to date as files are added, changed and removed::

catalogue = Catalogue.open([Path("models")], settings.models, data_dir)
await catalogue.scan()
model = catalogue.resolve("SmolLM2-135M-Instruct.Q4_1")
"""

from __future__ import annotations

import difflib
import heapq
import logging
import math
import threading
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from pathlib import Path
from typing import TypeVar, TypeVarTuple

import anyio
import anyio.to_thread
import msgspec

from suite import data_directory
from suite.catalogue import variants
from suite.catalogue.digests import DigestCache, just_changed, sha256
from suite.catalogue.directories import Directories, Listing
from suite.catalogue.draft import with_drafts
from suite.catalogue.files import ModelFile
from suite.catalogue.ids import Ids
from suite.catalogue.inspection import Inspection, part_paths, unreadable
from suite.catalogue.looks import Looks
from suite.catalogue.model import Changes, Model, changes_between, with_claim_checked, with_digest_before
from suite.catalogue.names import printable
from suite.catalogue.outage import Outage, outage_problems
from suite.catalogue.variants import Variant
from suite.catalogue.watch import identities, ticks
from suite.config import FollowLinks, ModelSettings
from suite.domain.footprint import NOTHING, Footprint
from suite.engine.gguf.signature import Signature
from suite.errors import (
    DraftModelUnfit,
    ModelFileGone,
    ModelFileIncomplete,
    ModelFileInvalid,
    ModelNotFound,
    SuiteError,
)

logger = logging.getLogger("suite.catalogue")

SETTLE_SECONDS = 1.0
"""A file counts once it has not changed for this long, because it may still be being copied."""
SILENT_SECONDS = 30.0
"""A drive that takes longer to list the directories, or to let one file be inspected, does not answer."""
IDLE_SECONDS = 5.0
"""Directories are scanned after this time even without a change: some file systems report none."""
_NEAR = 0.6
"""How alike what was asked for and a name are at least, for a suggestion (0 to 1)."""
_COMPARED = 100
"""How many characters of what was asked for are compared with names."""

_T = TypeVar("_T")
_Ts = TypeVarTuple("_Ts")


class Catalogue:
    """The models of one node by id, sorted by id. Use it in the event loop's thread, but for what blocks."""

    def __init__(
        self,
        directories: Directories,
        settings: Mapping[str, ModelSettings],
        digests: DigestCache,
        clock: Callable[[], float],
        limits: Footprint,
    ) -> None:
        self._directories = directories
        self._settings = settings
        self._digests = digests
        self._inspection = Inspection(settings, digests, limits)
        self._clock = clock
        self._models: dict[str, Model] = {}
        self._aliases: dict[str, str] = {}
        self._variants: dict[str, Variant] = {}
        self._missing: dict[str, str] = {}
        self._outages = directories.unlisted()
        self._unsettled: dict[str, tuple[Signature, float]] = {}
        self._changed = False
        """Whether something has changed since the last scan that a change has caused."""
        self._scanning = anyio.Lock()
        self._hashing = anyio.Lock()
        self._looks = Looks()
        self.warnings: tuple[str, ...] = ()
        """What the last scan left out, and why."""
        self._unreadable: tuple[str, ...] = ()
        self._unread: dict[Path, str] = {}
        self._scanned = False
        self._asking: list[float] = []
        """Since when the drives have not answered what they were asked."""

    @classmethod
    def open(
        cls,
        directories: Sequence[Path],
        settings: Mapping[str, ModelSettings],
        data_dir: Path,
        *,
        limits: Footprint = NOTHING,
        follow_links: FollowLinks = "inside",
        clock: Callable[[], float] = time.monotonic,
    ) -> Catalogue:
        """A catalogue of these directories, empty until its first scan.

        `data_dir` keeps the digests of files and which id means which file. Default KV caches depend on
        `limits`, those of the node's memories.
        """
        ids = Ids(data_dir / data_directory.IDS)
        found = Directories(directories, ids, follow_links)
        return cls(found, settings, DigestCache(data_dir / "digests.json"), clock, limits)

    @property
    def models(self) -> Mapping[str, Model]:
        """All models by id, including those that cannot be loaded."""
        return self._models

    @property
    def variants(self) -> Mapping[str, Variant]:
        """The models of their own name that are another model with adapters, by name."""
        return self._variants

    def variant(self, id_or_alias: str) -> Variant | None:
        """What a name stands for that is a model with adapters; None: it is none, or no name at all."""
        return self._variants.get(self.meant(id_or_alias))

    @property
    def directories(self) -> Mapping[Path, str | None]:
        """The model directories, each with the reason why the last scan could not read it."""
        return {path: self._unread.get(path) for path in self._directories.paths}

    @property
    def problems(self) -> tuple[str, ...]:
        """Which directories with known models cannot be read or do not answer, and what to do."""
        if not self._asking or self._clock() - min(self._asking) < SILENT_SECONDS:
            return self._unreadable
        return tuple(dict.fromkeys((*self._unreadable, self._silence)))

    @property
    def _silence(self) -> str:
        return (
            f"one of the model directories has not answered for {SILENT_SECONDS:.0f} s or more: "
            f"see whether the drives of {self._where} are there; what is loaded goes on answering"
        )

    def resolve(self, id_or_alias: str) -> Model:
        """The model with this id, or else with this alias.

        Raises ModelNotFound, with similar names, and ModelFileGone for a model of an earlier run whose file
        is out of reach.
        """
        if (model_id := self.canonical(id_or_alias)) in self._models:
            return self._models[model_id]
        if id_or_alias in self._outages:
            raise _away(id_or_alias, self._outages[id_or_alias])
        if id_or_alias in self._missing:
            raise ModelNotFound(f"no model {id_or_alias!r}: {self._missing[id_or_alias]}")
        raise ModelNotFound(f"no model {id_or_alias!r}: {self._suggestion(id_or_alias)}")

    def canonical(self, id_or_alias: str) -> str:
        """The id behind an alias, before a version's number, or of the model that a variant loads.

        Any other text is returned as it is, even if there is no such model.
        """
        id = self.meant(id_or_alias)
        variant = self._variants.get(id)
        return id if variant is None else variant.base

    def meant(self, id_or_alias: str) -> str:
        """The id or the variant behind an alias, or before a version's number; any other text as it is."""
        if self._is_name(id_or_alias):
            return id_or_alias
        if (meant := self._aliases.get(id_or_alias)) is not None:
            return meant
        name, at, _ = id_or_alias.rpartition("@")
        return name if at and self._is_name(name) else id_or_alias

    def _is_name(self, text: str) -> bool:
        return text in self._models or text in self._variants

    def check_present(self, model: Model) -> Signature:
        """Check, without reading it, that a file is still the one that was inspected, or was only touched.

        Blocks.

        Returns the signature that it has now. Raises ModelFileGone when it no longer exists, and
        ModelFileInvalid when it is refused, or has changed and will be inspected by the next scan.
        """
        if not model.file.signature.parts:  # refused because of its path, so there is no file to check
            raise model.error.copy() if model.error else ModelFileInvalid()
        if model.outage is not None:
            raise _away(model.file_name, model.outage)
        if not model.settled:
            raise model.error.copy() if model.error else ModelFileIncomplete()
        now = self._directories.look(model.file.entry)
        if now.error is not None:
            raise now.error
        if not model.file.signature.is_touched(now.signature):
            raise just_changed(model.file_name)
        return now.signature

    async def look(self, model: Model) -> Signature:
        """Do in a thread what `check_present` does.

        Raises as that, and ModelFileGone as well when the drive does not answer within `LOOK_SECONDS`.
        """
        tops = (top for top in self._directories.paths if model.path.is_relative_to(top))
        directory, key = next(tops, model.path.parent), (model.path, model.file.signature)
        try:
            return await self._looks.look(directory, key, partial(self.check_present, model))
        except TimeoutError:
            raise ModelFileGone(
                f"{model.file_name} is out of reach: its drive does not answer; "
                "see whether it is there, or choose another model"
            ) from None

    def has_gone(self, model_id: str) -> bool:
        """Whether no file has this id any more, and none that is out of reach at the moment either.

        A name that settings make is not gone as long as one of its files is out of reach.
        """
        if not self._scanned or self._is_name(model_id):
            return False
        its = self._settings.get(model_id)
        named = () if its is None else (its.base, *(each.id for each in variants.choices(its.adapters)))
        return self._outages.keys().isdisjoint((model_id, *named))

    async def scan_first(self, *, patience_seconds: float = SILENT_SECONDS) -> None:
        """Scan, but leave it to the watch if a drive does not answer; till then there are no models."""
        try:
            await self.scan(patience_seconds=patience_seconds)
        except TimeoutError:
            self._unreadable = (self._silence,)
            logger.warning("%s", self._silence)

    async def scan(self, *, settle_seconds: float = 0.0, patience_seconds: float = math.inf) -> Changes:
        """Scan the directories and inspect new and changed files; an unchanged one costs only a stat.

        A new or changed file counts once it has not changed for `settle_seconds`; till then a new one is
        listed as arriving, and a known one as well if it changes again: it is being overwritten. What is out
        of reach stays as it was.

        Raises TimeoutError when a drive does not answer for `patience_seconds`.
        """
        async with self._scanning:
            listing = await self._ask(patience_seconds, self._directories.listing, self._settings)
            fresh = {key: file for key, file in listing.files.items() if self._is_fresh(key, file, listing)}
            rewritten = {key for key, file in fresh.items() if self._is_rewritten(key, file)}
            ready = {key: file for key, file in fresh.items() if self._settled(key, file, settle_seconds)}
            waiting = fresh.keys() - ready.keys()
            self._unsettled = {key: self._unsettled[key] for key in waiting}
            inspected = {
                key: await self._ask(patience_seconds, self._inspection.inspect, key, file)
                for key, file in ready.items()
            }
            arriving = {
                key: self._inspection.arriving(key, fresh[key])
                for key in waiting
                if key in rewritten or key not in self._models or not self._models[key].settled
            }
            dropped = await anyio.to_thread.run_sync(self._directories.remember, listing)
            return self._take_over(listing, inspected, arriving, dropped)

    async def _ask(self, patience_seconds: float, ask: Callable[[*_Ts], _T], *args: *_Ts) -> _T:
        """Call in a thread what waits for a drive. Raises TimeoutError."""
        since = self._clock()
        self._asking.append(since)
        try:
            with anyio.fail_after(patience_seconds):
                return await anyio.to_thread.run_sync(ask, *args, abandon_on_cancel=True)
        finally:
            self._asking.remove(since)

    async def watch(self) -> AsyncGenerator[Changes, None]:
        """Scan whenever files change, and yield what changed. Never ends by itself."""
        scanned, self._changed = -math.inf, True  # so that the first tick scans
        while True:
            watched = await self._identities()
            async with aclosing(ticks(list(watched), partial(self._patience, watched))) as told:
                async for something in told:
                    # a directory that came, went, or is another one now is watched anew
                    other = watched != await self._identities()
                    self._changed = self._changed or something or other or bool(self._unsettled)
                    if self._clock() - scanned < (SETTLE_SECONDS if self._changed else IDLE_SECONDS):
                        continue
                    scanned, self._changed = self._clock(), False
                    if changes := await self.scan(settle_seconds=SETTLE_SECONDS):
                        yield changes
                    if other:
                        break

    def _patience(self, watched: Collection[Path]) -> int:
        """How many seconds to wait for a change: one while a scan is due, or a directory is missing."""
        is_expected = self._changed or self._unsettled or len(watched) < len(self._directories.paths)
        return 1 if is_expected else round(IDLE_SECONDS)

    async def _identities(self) -> dict[Path, tuple[int, int]]:
        return await self._ask(math.inf, identities, self._directories.paths)

    async def digest(self, model_id: str) -> str:
        """The SHA-256 of a model's or an adapter's file; of a split file, of its parts one after the other.

        Each content is read once, in a thread, one file at a time. Raises ModelNotFound, ModelFileGone, and
        ModelFileInvalid when the file cannot be read or changes meanwhile.
        """
        if (known := self._of_id(model_id).sha256) is not None:  # it needs no turn
            return known
        async with self._hashing:
            model = self._of_id(model_id)
            if model.sha256 is not None:
                return model.sha256
            found = await self._hash(model)
        current = self._models.get(model.model_id)
        if current is not None and current.file.signature == model.file.signature:
            now = msgspec.structs.replace(current, sha256=found, sha256_before=None)
            self._models[model.model_id] = now = with_claim_checked(now)
            if now.error is not None and current.error is None:
                logger.warning("%s", now.error.message)
                raise now.error.copy()
        return found

    def _of_id(self, model_id: str) -> Model:
        """What has this id itself, an adapter too. Raises ModelNotFound and ModelFileGone."""
        return self._models.get(model_id) or self.resolve(model_id)

    async def _hash(self, model: Model) -> str:
        stop = threading.Event()
        try:
            found = await anyio.to_thread.run_sync(sha256, _paths(model), stop, abandon_on_cancel=True)
        except OSError as error:
            raise unreadable(model.file_name, error) from None
        finally:
            stop.set()  # an abandoned thread must not go on to read gigabytes
        assert found is not None, "only a cancelled caller stops it"
        now = await self.look(model)
        if now != model.file.signature:
            raise just_changed(model.file_name)
        await anyio.to_thread.run_sync(
            self._digests.put, model.path, model.file.signature, model.fingerprint, found
        )
        return found

    def _is_fresh(self, model_id: str, file: ModelFile, listing: Listing) -> bool:
        """Whether the file must be read: it is new, or not as it was."""
        before = self._models.get(model_id)
        if before is None or not before.settled:
            return True
        if model_id in listing.outages:
            return False
        progress = file.entry.unfinished is not None  # its growth is no news
        return (
            (before.file.signature != file.signature and not progress)
            or before.file.entry != file.entry
            or _text(before.file.error) != _text(file.error)
        )

    def _is_rewritten(self, model_id: str, file: ModelFile) -> bool:
        """Whether a known file is being overwritten: it is other than at the last scan, and was so then."""
        before, last = self._models.get(model_id), self._unsettled.get(model_id)
        if before is None or not before.settled or last is None or last[0] == file.signature:
            return False
        known = before.file.signature
        return known.was_overwritten(file.signature) and not known.is_touched(file.signature)

    def _settled(self, model_id: str, file: ModelFile, seconds: float) -> bool:
        if file.entry.unfinished is not None:  # there is nothing to wait for
            seconds = 0.0
        now = self._clock()
        signature, since = self._unsettled.get(model_id, (None, now))
        if signature != file.signature:
            since = now
        self._unsettled[model_id] = (file.signature, since)
        return now - since >= seconds

    def _take_over(
        self,
        listing: Listing,
        inspected: Mapping[str, Model | None],
        arriving: Mapping[str, Model],
        dropped: Sequence[str],
    ) -> Changes:
        before = self._models
        fresh = {id: with_digest_before(model, before.get(id)) for id, model in inspected.items() if model}
        now = dict(arriving)
        for id, model in before.items():
            if id in listing.outages and model.settled:
                now[id] = msgspec.structs.replace(model, outage=listing.outages[id])
            elif id in listing.files and id not in now and id not in fresh:
                now[id] = _as_it_is(model, listing.files[id])
        self._models = with_drafts(dict(sorted((now | fresh).items())))
        self._variants = variants.found(self._models, self._settings)
        self._outages, self._missing, self._scanned = listing.outages, listing.missing, True
        self._unread = {outage.path: outage.reason for outage in listing.unreadable}
        self._tell(listing)
        rewritten = [id for id in arriving if id in before and before[id].settled]
        return changes_between(before, self._models, fresh, rewritten=rewritten, dropped=dropped)

    def _tell(self, listing: Listing) -> None:
        """Keep what the scan found wrong, and log what is new of it."""
        problems = outage_problems(listing.outages, listing.unreadable)
        found = (*listing.warnings, *self._name_aliases(), *self._wrong_variants(), *self._unfit_drafts())
        warnings = tuple(printable(text) for text in found)
        for text in (*problems, *warnings):
            if text not in (*self._unreadable, *self.warnings):
                logger.warning("%s", text)
        self._unreadable, self.warnings = problems, warnings

    def _name_aliases(self) -> tuple[str, ...]:
        warnings: list[str] = []
        self._aliases = {}
        unfiled = [name for name in self._variants if name not in self._models]
        names = {id: model.settings.aliases for id, model in self._models.items()}
        names |= {name: self._settings[name].aliases for name in unfiled}
        for model_id, aliases in names.items():
            for alias in aliases:
                other = alias if alias in names else self._aliases.setdefault(alias, model_id)
                if other != model_id:
                    warnings.append(f"the alias {alias!r} of {model_id} is ignored: it means {other} already")
        return tuple(warnings)

    def _wrong_variants(self) -> Iterable[str]:
        return variants.problems(self._variants, self._models, self._settings)

    def _unfit_drafts(self) -> tuple[str, ...]:
        errors = (model.error for model in self._models.values())
        return tuple(error.message for error in errors if isinstance(error, DraftModelUnfit))

    def _suggestion(self, asked: str) -> str:
        names = {name.casefold(): name for name in (*self._models, *self._variants, *self._aliases)}
        same = [name for name in names if name.endswith(f"/{asked.casefold()}")]
        near = same[:3] or _nearest(asked.casefold()[:_COMPARED], names)
        if near:
            return f"did you mean {' or '.join(repr(names[name]) for name in near)}?"
        if names:
            return f"see the list of models (`suite models`); the first is {min(names.values())!r}"
        return f"there are none; put a .gguf file into {self._where}"

    @property
    def _where(self) -> str:
        return ", ".join(map(printable, self._directories.paths))


def _paths(model: Model) -> list[Path]:
    return part_paths(model.path, model.info) if model.info else [model.path]


def _as_it_is(model: Model, file: ModelFile) -> Model:
    """A model whose file is there and needs no inspection."""
    if model.outage is None and file.entry.unfinished is None:
        return model
    return msgspec.structs.replace(
        model, outage=None, file=model.file if file.entry.unfinished is None else file
    )


def _nearest(asked: str, names: Iterable[str]) -> list[str]:
    """Up to three names that are like what was asked for, or begin so, the likest first."""
    matcher = difflib.SequenceMatcher(b=asked)
    likeness = {name: max(_likeness(matcher, name), _likeness(matcher, name[: len(asked)])) for name in names}
    return [name for name in heapq.nlargest(3, likeness, key=likeness.__getitem__) if likeness[name]]


def _likeness(matcher: difflib.SequenceMatcher[str], name: str) -> float:
    """How alike a name and what was asked for are; 0 if it is not near, which is cheap to find out."""
    matcher.set_seq1(name)
    if matcher.real_quick_ratio() < _NEAR or matcher.quick_ratio() < _NEAR:
        return 0.0
    return likeness if (likeness := matcher.ratio()) >= _NEAR else 0.0


def _text(error: SuiteError | None) -> str | None:
    return error.message if error else None


def _away(name: str, outage: Outage) -> ModelFileGone:
    return ModelFileGone(f"{name} is out of reach: {outage}; bring it back, or choose another model")
