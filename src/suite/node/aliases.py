"""Changes what aliases stand for, as somebody asks for it: each change is decided on the newest state, and is
one event (ADR 71)."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Final, NamedTuple, TypeVar

from suite.bus.action import Call
from suite.domain import aliases
from suite.domain.aliases import Alias, Promotion, Target, evolve
from suite.domain.footprint import Footprint, total_of
from suite.domain.nodes import NodeView
from suite.domain.promotion import Canary, check, findings
from suite.domain.versions import AT, Version, split
from suite.errors import (
    AliasNotFound,
    AliasTaken,
    ArchitectureDiffers,
    InvalidRequest,
    ModelNotFound,
    NoChatTemplate,
    NotEnoughMemory,
)
from suite.identity import NewId, Now
from suite.log import Log
from suite.messages.actions.versions import PromoteAliasRequest
from suite.messages.events import (
    AliasEvent,
    AliasRemoved,
    AliasSet,
    PromotionEvent,
    PromotionStarted,
)
from suite.messages.promotion import Finding
from suite.messages.subjects import Subjects
from suite.node.aggregate import settle
from suite.node.fleet.fleet import Fleet
from suite.node.versions import Names, VersionBook
from suite.projections.projections import Projections
from suite.projections.scores import samples_of
from suite.projections.usage import answered
from suite.units import size

_MARKS: Final = ".-_:/+"
"""What the name of an alias may have beside letters and digits: names of other services have these."""

_DOTS: Final = frozenset({".", ".."})
"""What means another folder in a path, also in that of an address."""

F = TypeVar("F", bound=AliasEvent)


class Aliases:
    """What requests do about aliases, on one node."""

    def __init__(
        self,
        log: Log,
        subjects: Subjects,
        book: VersionBook,
        names: Names,
        fleet: Fleet,
        projections: Projections,
        *,
        now: Now,
        new_id: NewId,
    ) -> None:
        self._log = log
        self._subjects = subjects
        self._book = book
        self._names = names
        self._fleet = fleet
        self._projections = projections
        self._now = now
        self._new_id = new_id
        self.waits: dict[str, str] = {}
        """What promotions wait for, by id, where this node carries them out."""

    async def assign(self, name: str, text: str, call: Call) -> tuple[Target, int | None]:
        """Have an alias stand for what a text names. Returns that, and the event; None: it did already.

        Raises AliasTaken, ModelNotFound, VersionNotFound and VersionGone.
        """
        self._check_name(name)
        target = self._target(text)
        fact = AliasSet(
            alias=name,
            model_id=target.model_id,
            version=target.version,
            requested_by=call.client or "",
        )
        _, seq = await self._settle(name, lambda alias: aliases.assign(alias, fact), call.request_id)
        return target, seq

    async def remove(self, name: str, call: Call) -> int | None:
        """Have an alias stand for nothing. Returns the event; None if it did not stand for anything."""
        fact = AliasRemoved(alias=name, requested_by=call.client or "")
        _, seq = await self._settle(name, lambda alias: aliases.remove(alias, fact), call.request_id)
        return seq

    async def start(
        self, request: PromoteAliasRequest, call: Call
    ) -> tuple[PromotionStarted | None, int, Target]:
        """Begin to promote a version.

        Returns the event that says so, its sequence, and what is promoted. For a version that serves already
        there is no event, and the sequence is of the one since which it does.

        Raises AliasNotFound, ModelNotFound, VersionNotFound, VersionGone, ArchitectureDiffers,
        NoChatTemplate, NotEnoughMemory, GatesContradict and PromotionRunning.
        """
        if request.gates is not None:
            check(request.gates, request.canary_share)
        version, old = self._names.present(self._names.find(request.target)), self._old(request.alias)
        self._check_chats(version, old)
        self._check_architecture(version, old, is_any_good=request.any_architecture)
        self._check_fits(version, old)
        asked = PromotionStarted(
            alias=request.alias,
            promotion_id=self._new_id(),
            model_id=version.model_id,
            version=version.number,
            old_model_id=old.model_id,
            old_version=old.version,
            canary_share=request.canary_share,
            gates=request.gates,
            take_back=tuple(dict.fromkeys(request.take_back)),
            requested_by=call.client or "",
        )
        fact, seq = await self._settle(
            request.alias, lambda alias: aliases.start(alias, asked, self._at), call.request_id
        )
        target = Target(version.model_id, version.number)
        return fact, self._book.since(request.alias) if seq is None else seq, target

    async def take_back(self, name: str, call: Call) -> tuple[PromotionEvent, int]:
        """Have the old version serve alone. Returns the event, and its sequence.

        Raises AliasNotFound, NothingToTakeBack, and VersionGone if the old version is on no node any more.
        """
        alias = self._book.aliases.get(name) or Alias(name=name, target=self._old(name))
        if alias.promotion is None and alias.promoted is not None:
            self._names.require(alias.promoted.old)
        by = call.client or ""
        fact, seq = await self._settle(name, lambda alias: aliases.back(alias, by), call.request_id)
        assert fact is not None, "it is appended, or refused"
        assert seq is not None, "it is appended, or refused"
        return fact, seq

    async def findings(
        self, name: str, promotion: Promotion, *, is_over: bool = False
    ) -> tuple[Finding, ...]:
        """What is known about each gate of a promotion; nothing where there are none.

        `is_over`: its version serves, so that the canary is past. Raises ReadModelUnavailable.
        """
        gates, old = promotion.gates, promotion.old
        if gates is None:
            return ()
        canary = None if is_over else await self.canary(name, promotion)
        async with self._projections.evaluation.reading() as db:
            new = await samples_of(db, *promotion.target)
            now = await samples_of(db, old.model_id, old.version or self._book.versions.newest(old.model_id))
        return findings(gates, new, now, canary)

    async def canary(self, name: str, promotion: Promotion) -> Canary:
        """How long the version has had its share of the requests, and how many it has answered since.

        Raises ReadModelUnavailable.
        """
        since = self._book.canary_since(name) if promotion.is_canary else None
        if since is None:
            return Canary()
        async with self._projections.usage.reading() as db:
            requests = await answered(db, *promotion.target, since=since)
        return Canary(requests, max(0.0, (self._now() - since).total_seconds()))

    def forget_all_but(self, promotion_ids: Collection[str]) -> None:
        """Keep only what these promotions wait for."""
        for id in self.waits.keys() - set(promotion_ids):
            del self.waits[id]

    async def change(self, name: str, decide: Callable[[Alias], F | None], correlation_id: str) -> int | None:
        """Append what is decided on the newest state of an alias. Returns the event; None if nothing is."""
        _, seq = await self._settle(name, decide, correlation_id)
        return seq

    # --- checks -------------------------------------------------------------------------------------------

    def _check_name(self, name: str) -> None:
        """Raises AliasTaken, and InvalidRequest for a name that is read as a version or is hard to type."""
        if self._names.is_model(name):
            raise AliasTaken(f"{name!r} is the id of a model: choose another name for the alias")
        if name in self._book.aliases:
            return  # older versions took some that are refused now
        if AT in name:
            raise InvalidRequest(f"field 'alias': {name[:80]!r} has an {AT}, which stands before a version")
        if strange := next((each for each in name if not each.isalnum() and each not in _MARKS), None):
            raise InvalidRequest(
                f"field 'alias': {name[:80]!r} has the character {strange!r}: letters, digits and {_MARKS} "
                "make a name that can be typed anywhere"
            )
        if not name[0].isalnum() or not _DOTS.isdisjoint(name.split("/")):
            raise InvalidRequest(
                f"field 'alias': {name[:80]!r} could be read as an option or as a path: begin with a letter "
                "or a digit, and have no . or .. between slashes"
            )

    def _target(self, text: str) -> Target:
        """What a text names: a version of a model, or a model at whichever version it is."""
        alias = self._book.aliases.get(text)
        if alias is not None and alias.target is not None and not self._names.is_model(text):
            return alias.target
        if split(text) is not None and not self._names.is_model(text):
            version = self._names.present(self._names.find(text))
            return Target(version.model_id, version.number)
        if not self._fleet.has(text) and not self._names.is_model(text):
            raise ModelNotFound(f"no model {text[:255]!r}: see the list of models (`suite models`)")
        return Target(self._fleet.meant(text))

    def _old(self, name: str) -> Target:
        """What serves under an alias now. Raises AliasNotFound."""
        alias = self._book.aliases.get(name)
        if alias is not None and alias.target is not None:
            return alias.target
        model_id = name if AT in name else self._fleet.meant(name)  # a version is no alias
        if model_id == name:
            raise AliasNotFound(f"there is no alias {name[:255]!r}: make it with `suite alias NAME MODEL`")
        return Target(model_id)

    def _check_architecture(self, version: Version, old: Target, *, is_any_good: bool) -> None:
        serving = self._book.versions.at(*old)
        if is_any_good or serving is None:
            return
        was, is_now = serving.registered.architecture, version.registered.architecture
        if was != is_now:
            raise ArchitectureDiffers(
                f"{version.name} is of the architecture {is_now}, and {serving.name}, which serves now, of "
                f"{was}: its tokens and its chat template differ. Say that it may (`--any-architecture`), or "
                "promote another version"
            )

    def _at(self, model_id: str) -> int:
        """The version that all nodes have of a model; 0: they differ, or it has none."""
        numbers = set(self._book.versions.current(model_id).values())
        return numbers.pop() if len(numbers) == 1 else 0

    def _check_chats(self, version: Version, old: Target) -> None:
        """Raises NoChatTemplate if chats with the version that serves would be refused with the new one."""
        if self._fleet.chats(old.model_id) and self._fleet.chats(version.loaded_id) is False:
            raise NoChatTemplate(
                f"{version.name} has no chat template, and {old}, which serves now, has one: chats would be "
                f'refused. Configure one (`chat_template` in [models."{version.loaded_id}"]), or promote '
                "another version"
            )

    def _check_fits(self, version: Version, old: Target) -> None:
        """Raises NotEnoughMemory if no node can have a version beside what stays there, as things stand."""
        if (error := self.never_fits(version, old, serving=self._book.serving)) is not None:
            raise error

    def never_fits(
        self, version: Version, old: Target, *, serving: Collection[str] = ()
    ) -> NotEnoughMemory | None:
        """Why no node can have a version beside the one that serves and what is pinned there; None: one can,
        or none is there that has it.

        `serving`: the models that may not leave either, as other promotions run.
        """
        own = self._fleet.canonical(self._book.loaded_id(old))
        rooms = [_room(each, version.loaded_id, own, serving) for each in self._offering(version)]
        if not rooms or any(each.need.is_within(each.limits) for each in rooms):
            return None
        return _never_fits(version, old, rooms[0])

    def _offering(self, version: Version) -> list[NodeView]:
        """The nodes that have a version and could load it."""
        views = self._fleet.views()
        able = [views[node] for node in self._names.nodes(version) if node in views]
        return [each for each in able if version.loaded_id in each.offered]

    async def _settle(
        self, name: str, decide: Callable[[Alias], F | None], correlation_id: str
    ) -> tuple[F | None, int | None]:
        decided: list[F | None] = [None]

        def noted(alias: Alias) -> F | None:
            decided[0] = decide(alias)
            return decided[0]

        seq = await settle(
            self._log,
            self._subjects.aggregate(AliasSet.aggregate, name),
            f"the alias {name}",
            Alias(name=name),
            evolve=evolve,
            decide=noted,
            correlation_id=correlation_id,
        )
        if seq is not None:
            await self._book.reach(seq)  # who has changed it sees that
        return decided[0], seq


class _Room(NamedTuple):
    """What a node has for a version, and for what stays there beside it."""

    need: Footprint
    """Of all together."""
    limits: Footprint
    staying: tuple[str, ...]
    """What stays there, besides the version and the one that serves."""


def _room(view: NodeView, model_id: str, own: str, serving: Collection[str]) -> _Room:
    """`own`: the model that serves until the other one is ready, which may be the same one."""
    needed = {model_id: view.need_of(model_id)}
    if own in view.offered and own != model_id:
        hosted = view.hosted.get(own)  # it keeps what it has
        needed[own] = view.need_of(own) if hosted is None else hosted.footprint
    staying = {
        id: each.footprint
        for id, each in view.hosted.items()
        if id not in needed and (each.is_pinned or id in serving)
    }
    need = total_of([*needed.values(), *staying.values()])
    return _Room(need, view.limits, tuple(staying))


def _never_fits(version: Version, old: Target, room: _Room) -> NotEnoughMemory:
    memory = room.need.beyond(room.limits).largest
    others, unpin = "", ""
    if room.staying:
        others = f" and {', '.join(room.staying)}, which may not leave (pinned, or another promotion runs)"
        unpin = " unpin one of them,"
    return NotEnoughMemory(
        f"{version.name} does not fit: with {old}, which serves until it is ready{others}, it needs "
        f"{size(room.need[memory])}, and the limit is {size(room.limits[memory])}; raise that,{unpin} give "
        "models a smaller context_length, or switch at once with `suite alias`"
    )
