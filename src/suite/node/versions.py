"""What this node knows of versions and aliases: it follows the log, and finds what a name means (ADR 70)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Container, Iterator, Mapping
from datetime import datetime
from typing import Final

import anyio

from suite.catalogue import Catalogue, Model
from suite.catalogue.variants import content_of
from suite.domain.aliases import Alias, Target, evolve
from suite.domain.versions import AT, Version, Versions, split
from suite.errors import ModelNotFound, SuiteError, VersionGone
from suite.log import Log
from suite.log.follower import Follower
from suite.messages.envelope import Recorded
from suite.messages.events import (
    AliasEvent,
    AliasSet,
    CanaryStarted,
    ModelQuarantined,
    ModelRegistered,
    PromotionStarted,
)

logger = logging.getLogger("suite.versions")

RETRY_SECONDS: Final = 2.0
REGISTERED_SECONDS: Final = 2.0
"""So soon after its digest is known the log knows a model, or something keeps it from that."""


class VersionBook:
    """The versions and aliases of the log, in memory. Both are few."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self.versions = Versions()
        self._aliases: dict[str, Alias] = {}
        self._since: dict[str, int] = {}
        self._started: dict[str, int] = {}
        self._canaries: dict[str, datetime] = {}
        self._waits: dict[str, datetime] = {}
        self._quarantined: dict[tuple[str, int], int] = {}
        """The newest quarantine of each version, by model and number."""
        self._failed: dict[tuple[str, str], int] = {}
        """The same by model and content, whatever the settings."""
        self._seq = 0
        self._follower: Follower | None = None
        self._news = anyio.Event()

    async def run(self) -> None:
        """Follow the log until cancelled, whatever happens to the connection."""
        while True:
            try:
                await self._follow()
            except SuiteError as error:
                logger.warning("versions and aliases are not followed at the moment: %s", error.message)
            await anyio.sleep(RETRY_SECONDS)

    async def reach(self, seq: int) -> None:
        """Wait until every event up to this one is known."""
        while self._seq < seq:
            if self._follower is not None:
                self._follower.settle()
            await self._news.wait()

    async def wait_news(self) -> None:
        """Wait until something has happened to a version or an alias."""
        await self._news.wait()

    # --- aliases ------------------------------------------------------------------------------------------

    @property
    def aliases(self) -> Mapping[str, Alias]:
        """The aliases of the log that stand for something, by name."""
        return self._aliases

    def names_of(self, model_id: str) -> tuple[str, ...]:
        """The aliases of the log that stand for a model, whichever version of it."""
        if not self._aliases:
            return ()
        targets = ((name, each.target) for name, each in self._aliases.items())
        return tuple(sorted(name for name, target in targets if target and target.model_id == model_id))

    def since(self, alias: str) -> int:
        """The event since which an alias stands for what it does."""
        return self._since.get(alias, 0)

    def started(self, alias: str) -> int:
        """The event with which the promotion began, or was changed last, that is under way to an alias."""
        return self._started.get(alias, 0)

    def canary_since(self, alias: str) -> datetime | None:
        """When the version got its share that is promoted to an alias; None: it has none."""
        return self._canaries.get(alias)

    def waits_since(self, alias: str) -> datetime | None:
        """Since when the promotion to an alias waits for what comes next: it was asked for last then, or its
        canary began. None: there is none.
        """
        return self._waits.get(alias)

    def quarantined(self, version: Version) -> int:
        """The newest event that says that a version failed again and again; 0: there is none.

        One with adapters fails with its model too, whatever that was computed with.
        """
        own = self._quarantined.get((version.model_id, version.number), 0)
        if version.registered.base:
            return max(own, self._failed.get((version.loaded_id, version.loaded_sha256), 0))
        return own

    def loaded_id(self, target: Target) -> str:
        """The id of the model that is in memory for what a name stands for."""
        version = self.versions.at(*target)
        return target.model_id if version is None else version.loaded_id

    @property
    def serving(self) -> Mapping[str, str]:
        """The models that serve under aliases to which others are promoted, each with its alias."""
        promoting = (each for each in self._aliases.values() if each.promotion is not None)
        return {self.loaded_id(each.target): each.name for each in promoting if each.target is not None}

    def standing_for(self, version: Version) -> tuple[str, ...]:
        """The aliases that stand for a version, or are to."""
        return tuple(sorted(name for name, each in self._aliases.items() if self._is_for(each, version)))

    def _is_for(self, alias: Alias, version: Version) -> bool:
        targets = (alias.target, None if alias.promotion is None else alias.promotion.target)
        return any(
            each is not None
            and each.model_id == version.model_id
            and (each.version or self.versions.newest(each.model_id)) == version.number
            for each in targets
        )

    # --- models -------------------------------------------------------------------------------------------

    def number(self, model: Model, sha256: str | None = None) -> int:
        """The version of a model with its settings, and this content or else its own; 0: not known yet."""
        content = sha256 or model.sha256
        return self.versions.number(model.model_id, content, model.version_settings)

    # --- the log ------------------------------------------------------------------------------------------

    async def _follow(self) -> None:
        aggregates = (ModelRegistered.aggregate, AliasSet.aggregate)
        try:
            async with self._log.follow(aggregates, after=self._seq) as self._follower:
                self._follower.settle()  # a start waits for what there is so far
                while True:
                    batch = await self._follower.next()
                    for event in batch.events:
                        self.apply(event)
                    self._seq = batch.seq
                    self._news.set()
                    self._news = anyio.Event()
        finally:
            self._follower = None

    def apply(self, recorded: Recorded) -> None:
        """Take up an event of the log."""
        event = recorded.data
        self.versions.apply(recorded)
        if isinstance(event, AliasEvent):
            self._change(event, recorded.seq, recorded.time)
        elif isinstance(event, ModelQuarantined):
            self._note_quarantine(event, recorded.seq)

    def _note_quarantine(self, event: ModelQuarantined, seq: int) -> None:
        """It is of the version that its node has: of this content, and of its settings only."""
        number = self.versions.current(event.model_id).get(event.node, 0)
        version = self.versions.get(event.model_id, number)
        self._failed[event.model_id, event.content] = seq
        if version is not None and version.sha256 == event.content:
            self._quarantined[event.model_id, number] = seq

    def _change(self, event: AliasEvent, seq: int, time: datetime) -> None:
        before = self._aliases.get(event.alias, Alias(name=event.alias))
        now = evolve(before, event)
        if isinstance(event, PromotionStarted):
            self._started[event.alias] = seq
        if isinstance(event, CanaryStarted):
            self._canaries[event.alias] = time
        if isinstance(event, PromotionStarted | CanaryStarted):
            self._waits[event.alias] = time
        if now.promotion is None:
            self._waits.pop(event.alias, None)
        if now.promotion is None or not now.promotion.is_canary:
            self._canaries.pop(event.alias, None)
        if now.target != before.target:
            self._since[event.alias] = seq
        if now.target is None and now.promotion is None:
            self._aliases.pop(event.alias, None)
        else:
            self._aliases[event.alias] = now


class Names:
    """Finds the model and the version that a name in a request means."""

    def __init__(self, book: VersionBook, catalogue: Catalogue) -> None:
        self._book = book
        self._catalogue = catalogue

    def resolved(
        self,
        name: str,
        request_id: Callable[[], str] = str,
        nodes: Callable[[], Container[str]] = tuple,
    ) -> str:
        """The name as every node understands it: an id, or an id with the number of a version.

        A model's id means that model, then come the aliases of the log, then those that are configured.
        What `request_id` gives decides whether a request is in the share of a canary; empty: it is not. A
        canary that none of these nodes has gets no requests: the version that serves answers them.
        Raises VersionNotFound, and VersionGone for a version that is history.
        """
        book = self._book
        if (AT not in name and name not in book.aliases) or self.is_model(name):
            return name
        alias = book.aliases.get(name)
        if alias is not None and (target := alias.chosen(request_id)) is not None:
            is_served = target == alias.target or self._is_on_any(target, nodes())
            return self._alive(target if is_served or alias.target is None else alias.target)
        named = split(name)
        if named is None:
            return name
        model_id = self._id_of(named.name)
        if not book.versions.of(model_id):
            return name  # whoever looks for the model says that there is none
        return self._spelled(book.versions.find(model_id, named.version))

    def find(self, text: str) -> Version:
        """The version that a text names: a name with a version, or a name for the one that it stands for.

        Raises ModelNotFound for a model of which the log knows nothing, VersionNotFound, and VersionGone for
        a name alone whose files are gone.
        """
        named = split(text)
        if named is not None and not self.is_model(text) and text not in self._book.aliases:
            model_id = self._id_of(named.name)
            self._check_known(named.name, model_id)
            return self._book.versions.find(model_id, named.version)
        model_id, number = self._target_of(text)
        self._check_known(text, model_id)
        found = self._book.versions.at(model_id, number)
        return found or self.present(self._book.versions.of(model_id)[-1])

    def _check_known(self, name: str, model_id: str) -> None:
        if not self._book.versions.of(model_id):
            raise ModelNotFound(f"the log knows no model {name[:255]!r}: see `suite versions`")

    def version(self, resolved: str) -> Version | None:
        """The version that a resolved name asks for; None if any will do."""
        named = split(resolved) if AT in resolved and not self.is_model(resolved) else None
        return None if named is None else self._book.versions.numbered(named.name, named.version)

    def present(self, version: Version) -> Version:
        """A version that some node has. Raises VersionGone."""
        self._spelled(version)
        return version

    def require(self, target: Target) -> None:
        """Check that a name could stand for this. Raises VersionGone if no node has it any more."""
        known = self._book.versions.of(target.model_id)
        if known and not self._book.versions.current(target.model_id):
            self.present(known[-1])
        self._alive(target)

    def nodes(self, version: Version) -> tuple[str, ...]:
        """Where a version is on disk, and would be loaded."""
        return self._book.versions.nodes(version.model_id, version.number)

    def number(self, name: str) -> int:
        """The version that this node has of what a name stands for; 0: none, or it is not known yet."""
        catalogue, id = self._catalogue, self._catalogue.meant(name)
        variant = catalogue.variants.get(id)
        model = catalogue.models.get(id if variant is None else variant.base)
        if model is None:
            return 0
        if variant is None:
            return self._book.number(model)
        content = content_of(variant, catalogue.models)
        return self._book.versions.number(id, content, model.version_settings)

    async def settled_number(self, name: str) -> int:
        """The same, but for files that have just come it waits until the log knows them; not for long.

        Raises what `Catalogue.digest` raises.
        """
        variant = self._catalogue.variant(name)
        for id in (self._catalogue.meant(name),) if variant is None else variant.parts:
            await self._catalogue.digest(id)
        with anyio.move_on_after(REGISTERED_SECONDS):
            while not self.number(name):
                await self._book.wait_news()
        return self.number(name)

    def model_of(self, name: str) -> str:
        """The id of the model that a name stands for, or the name of one with adapters, whichever version of
        it; other texts as they are.
        """
        named = split(name)
        if named is None or self.is_model(name) or name in self._book.aliases:
            return self._id_of(name)
        model_id = self._id_of(named.name)
        return model_id if self.is_model(model_id) else name

    def _id_of(self, name: str) -> str:
        """The id of the model, or the name of one with adapters, that a name without a version stands for."""
        return self._target_of(name).model_id

    def _target_of(self, name: str) -> Target:
        """What a name without a version stands for."""
        alias = self._book.aliases.get(name)
        if alias is None or alias.target is None or self.is_model(name):
            return Target(self._catalogue.meant(name))
        return alias.target

    def is_model(self, name: str) -> bool:
        """Whether a name is the id of a model that some node has."""
        catalogue = self._catalogue
        return name in catalogue.models or name in catalogue.variants or self._book.versions.newest(name) > 0

    def _is_on_any(self, target: Target, nodes: Container[str]) -> bool:
        return any(each in nodes for each in self._book.versions.nodes(target.model_id, target.version))

    def _alive(self, target: Target) -> str:
        """What an alias stands for. With other settings its content goes on: it is what was chosen."""
        version = self._book.versions.get(target.model_id, target.version)
        if version is None:
            return target.model_id
        same = (each for each in self._current(version.model_id) if each.sha256 == version.sha256)
        is_there = self._book.versions.nodes(version.model_id, version.number)
        return self._spelled(version if is_there else next(same, version))

    def _spelled(self, version: Version) -> str:
        """Raises VersionGone."""
        current = set(self._book.versions.current(version.model_id).values())
        if version.number not in current:
            raise VersionGone(_history(version, current))
        return version.model_id if len(current) == 1 else version.name

    def _current(self, model_id: str) -> Iterator[Version]:
        for number in sorted(set(self._book.versions.current(model_id).values()), reverse=True):
            if (version := self._book.versions.get(model_id, number)) is not None:
                yield version


def _history(version: Version, current: set[int]) -> str:
    has = f"it is at version {max(current)} now" if current else "no node has a file of it now"
    return (
        f"{version.name} ({version.sha256[:8]}, {version.registered.file_name}) is history: its content with "
        f"its settings is on no node any more; {has}. Use that, or put the file back"
    )
