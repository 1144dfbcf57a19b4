"""The versions of models: which there are, by a fold of the log (ADR 70)::

    versions = Versions()
    versions.apply(recorded)                  # a model was registered, or removed
    versions.find("tiny", "3")                # by number, or by a beginning of its digest
    versions.nodes("tiny", 3)                 # where it would be loaded

A version is a content with settings. It has the next number of its model when the log sees it for the first
time, and keeps it for ever: content that comes back is the version that it was. A name that stands for a
model with adapters has versions like a model; it is the model that is loaded for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Final, NamedTuple, TypeAlias

import msgspec

from suite.errors import VersionNotFound
from suite.messages.envelope import Recorded
from suite.messages.events import ModelRegistered, ModelRemoved

Settings: TypeAlias = Mapping[str, str | int | float | bool]

LEAST_DIGEST: Final = 4
"""So many characters of a digest are needed at least, to name a version by them."""
AT: Final = "@"


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """One version of a model."""

    model_id: str
    number: int
    registered: ModelRegistered
    """The event that the log saw it in first. Its settings are None while they are not known."""
    seq: int
    time: datetime

    @property
    def sha256(self) -> str:
        """The digest of its content; of one with adapters, of all that it is made of."""
        return self.registered.sha256

    @property
    def loaded_id(self) -> str:
        """The id of the model that is in memory for it: of one with adapters, its base."""
        return self.registered.base or self.model_id

    @property
    def loaded_sha256(self) -> str:
        """The digest of the file that is in memory for it."""
        return self.registered.base_sha256 or self.registered.sha256

    @property
    def name(self) -> str:
        """What requests may call it."""
        return f"{self.model_id}{AT}{self.number}"

    def is_of(self, sha256: str, settings: Settings | None) -> bool:
        """Whether it is this content with these settings. What is not known is no difference."""
        own = self.registered.settings
        return self.sha256 == sha256 and (own is None or settings is None or own == settings)


class _History:
    """The versions of one model, and which of them each node has."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.current: dict[str, int] = {}

    def find(self, sha256: str, settings: Settings | None) -> Version | None:
        return next((each for each in self.versions if each.is_of(sha256, settings)), None)


class Versions:
    """The versions of all models."""

    def __init__(self) -> None:
        self._models: dict[str, _History] = {}

    def apply(self, recorded: Recorded) -> None:
        """Take up an event of the log. Those that say nothing about versions are passed over."""
        match recorded.data:
            case ModelRegistered() as fact:
                self._register(fact, recorded)
            case ModelRemoved() as fact:
                if (history := self._models.get(fact.model_id)) is not None:
                    history.current.pop(fact.node, None)
            case _:
                pass

    def __iter__(self) -> Iterator[Version]:
        """Each of them, by model and number."""
        for model_id in sorted(self._models):
            yield from self._models[model_id].versions

    def of(self, model_id: str) -> tuple[Version, ...]:
        """The versions of a model by number; none of a model that the log does not know."""
        history = self._models.get(model_id)
        return () if history is None else tuple(history.versions)

    def get(self, model_id: str, number: int) -> Version | None:
        """The version with this number."""
        known = self.of(model_id)
        return known[number - 1] if 0 < number <= len(known) else None

    def numbered(self, model_id: str, text: str) -> Version | None:
        """The version with the number that stands in a text; None if that is none."""
        is_number = text.isdecimal() and len(text) < 10
        return self.get(model_id, int(text)) if is_number else None

    def number(self, model_id: str, sha256: str | None, settings: Settings) -> int:
        """The number of a content with settings; 0: the log does not know it, or the content is not known."""
        history = self._models.get(model_id)
        if history is None or not sha256:
            return 0
        found = history.find(sha256, settings)
        return 0 if found is None else found.number

    def current(self, model_id: str) -> Mapping[str, int]:
        """The number of the version that each node has of a model, by node."""
        history = self._models.get(model_id)
        return {} if history is None else history.current

    def newest(self, model_id: str) -> int:
        """The number of the version that a model is at: the newest that is on any node; 0: none is."""
        return max(self.current(model_id).values(), default=0)

    def at(self, model_id: str, number: int) -> Version | None:
        """The version with this number; for 0 the one that the model is at."""
        return self.get(model_id, number or self.newest(model_id))

    def nodes(self, model_id: str, number: int) -> tuple[str, ...]:
        """Where a version is on disk, and would be loaded."""
        return tuple(sorted(node for node, has in self.current(model_id).items() if has == number))

    def find(self, model_id: str, asked: str) -> Version:
        """The version that is called like this: a number, or a beginning of its digest.

        Raises VersionNotFound.
        """
        known = self.of(model_id)
        if (found := self.numbered(model_id, asked)) is not None:
            return found
        begins = [each for each in known if len(asked) >= LEAST_DIGEST and each.sha256.startswith(asked)]
        if len({each.sha256 for each in begins}) == 1:
            return begins[-1]
        raise VersionNotFound(f"{model_id} has no version {asked[:80]!r}: {_there_are(known, bool(begins))}")

    def _register(self, fact: ModelRegistered, recorded: Recorded) -> None:
        history = self._models.setdefault(fact.model_id, _History())
        found = history.find(fact.sha256, fact.settings)
        if found is None:
            found = Version(
                model_id=fact.model_id,
                number=len(history.versions) + 1,
                registered=fact,
                seq=recorded.seq,
                time=recorded.time,
            )
            history.versions.append(found)
        elif found.registered.settings is None and fact.settings is not None:
            history.versions[found.number - 1] = msgspec.structs.replace(found, registered=fact)
        history.current[fact.node] = found.number


class Named(NamedTuple):
    """A name with a version, as people write it."""

    name: str
    version: str


def split(text: str) -> Named | None:
    """A name and the version behind its last ``@``; None if the text has none."""
    name, at, version = text.rpartition(AT)
    return Named(name, version) if at and name and version else None


def _there_are(known: tuple[Version, ...], are_several: bool) -> str:
    if are_several:
        return "several begin like this, type more of the digest"
    if not known:
        return "the log knows none yet; it does a moment after its file was found"
    digests = ", ".join(f"{each.number} ({each.sha256[:8]})" for each in known[-8:])
    return f"it has {digests}; a digest is known by {LEAST_DIGEST} characters"
