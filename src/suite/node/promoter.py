"""Carries promotions out, step by step, and takes them back by itself where it was told so (ADR 71).

The node of a fleet that leads does it. What is to be done follows from the log alone, so that another node,
or this one after a restart, goes on where it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterator
from typing import Final

import anyio
import anyio.abc
from msgspec.structs import replace

from suite.domain import aliases
from suite.domain.aliases import Alias, Promotion, Target
from suite.domain.nodes import NodeView
from suite.domain.placement import Wanted, eviction, place
from suite.domain.promotion import End, Outlook, Step, most_wait_seconds, next_step, verdict
from suite.domain.versions import Version
from suite.errors import (
    AdapterMismatch,
    AdapterNotFound,
    LoadFailed,
    ModelFileInvalid,
    NotEnoughMemory,
    Quarantined,
    SuiteError,
    VersionGone,
)
from suite.explanation.words import span
from suite.messages.actions.residency import LoadModelReply, LoadModelRequest
from suite.messages.events import AliasEvent, PromotionEnd, TakenBackReason
from suite.messages.promotion import Finding
from suite.node.fleet.leadership import Leadership
from suite.node.node import Node
from suite.projections.scores import retractions_of
from suite.ticks import tick

logger = logging.getLogger("suite.promotions")

LOOK_SECONDS: Final = 1.0
LOAD_SECONDS: Final = 600.0
"""How long a load may take before it is asked for again."""
TURN_WAIT_MS: Final = 60_000
"""How long a load waits for the turns of models that are in use; then it is looked again where to load."""


class Promoter:
    """The part of a node that carries promotions out for all nodes, while it is the one that does."""

    def __init__(self, node: Node, leadership: Leadership) -> None:
        self._node = node
        self._leadership = leadership
        self._busy: set[str] = set()
        """The promotions about which something is being done."""
        self._applied: set[str] = set()
        """Those, by id, of whose versions the adapters are known to be loaded."""
        self._blocked: dict[str, float] = {}
        """Since when promotions, by id, could not get memory (clock time)."""

    async def run(self) -> None:
        """Look every second while there is anything to look at, until cancelled."""
        async with anyio.create_task_group() as tasks:
            while True:
                if any(any(_watched(each)) for each in self._node.versions.aliases.values()):
                    await tick(LOOK_SECONDS)
                else:
                    await self._node.versions.wait_news()
                if self._leadership.is_held:
                    self._look(tasks)
                else:  # what promotions wait for, another node knows
                    self._node.aliases.forget_all_but(())

    def _look(self, tasks: anyio.abc.TaskGroup) -> None:
        known = self._node.versions.aliases
        every = (each for alias in known.values() for each in (alias.promotion, alias.promoted))
        ids = {each.id for each in every if each is not None}
        self._node.aliases.forget_all_but(ids)
        self._applied &= ids
        self._blocked = {id: since for id, since in self._blocked.items() if id in ids}
        for alias in known.values():
            for promotion in _watched(alias):
                # By promotion: a load for one that was ended does not keep the next one from going on.
                if promotion.id not in self._busy:
                    self._busy.add(promotion.id)
                    tasks.start_soon(self._settle, alias, promotion)

    async def _settle(self, alias: Alias, promotion: Promotion) -> None:
        """Do what is to be done about one promotion now. What fails is tried again at the next look."""
        try:
            if promotion == alias.promotion:
                await self._advance(alias, promotion)
            else:
                await self._watch(alias, promotion)
                self._node.aliases.waits.pop(promotion.id, None)
        except SuiteError as error:
            self._note_trouble(alias, promotion, error.message)
        except Exception as error:  # one alias must end neither the others nor the node
            told = "its node failed on it: see the log of its process"
            self._note_trouble(alias, promotion, told, failure=error)
        finally:
            self._busy.discard(promotion.id)

    def _note_trouble(
        self, alias: Alias, promotion: Promotion, message: str, *, failure: Exception | None = None
    ) -> None:
        """Say why it waits: in the log of the process only once, as it is tried again every second."""
        waits, level = self._node.aliases.waits, logging.WARNING if failure is None else logging.ERROR
        waiting = f"the next try, as the last one failed: {message}"
        if waits.get(promotion.id) != waiting:
            logger.log(level, "the promotion to %s waits: %s", alias.name, message, exc_info=failure)
        waits[promotion.id] = waiting

    # --- a promotion that is under way --------------------------------------------------------------------

    async def _advance(self, alias: Alias, promotion: Promotion) -> None:
        version = self._version(promotion.target)
        if version is None or not self._node.names.nodes(version):
            return await self._stop(alias, promotion, "gone", f"{promotion.target} is on no node any more")
        try:
            found = await self._node.aliases.findings(alias.name, promotion)
        except Exception:  # also what fails again and again has an end
            if self._waited_seconds(alias) < most_wait_seconds(promotion):
                raise
            return await self._stop(alias, promotion, "waited_too_long", self._waited(alias, promotion))
        outlook = self._outlook(alias, promotion, version, found)
        step = next_step(promotion, outlook)
        self._note_blocked(promotion, step, outlook, self._hosting(version))
        if isinstance(step, End):
            detail = self._detail(step, alias, promotion, version, found)
            return await self._stop(alias, promotion, step.reason, detail, found)
        return await self._do(step, alias, promotion, version, outlook, found)

    def _outlook(
        self, alias: Alias, promotion: Promotion, version: Version, found: tuple[Finding, ...]
    ) -> Outlook:
        versions = self._node.versions
        has_adapters = not version.registered.adapters or promotion.id in self._applied
        is_kept_out = self._lacks_memory(promotion, version, versions.serving) is not None
        since = self._blocked.get(promotion.id)
        return Outlook(
            verdict=verdict(found),
            is_there=self._is_there(version),
            is_ready=bool(self._loaded_on(version)) and has_adapters,
            has_failed=versions.quarantined(version) > versions.started(alias.name),
            fits=not is_kept_out or self._lacks_memory(promotion, version) is None,
            is_kept_out=is_kept_out,
            waited_seconds=self._waited_seconds(alias),
            blocked_seconds=0.0 if since is None else self._node.clock() - since,
        )

    def _lacks_memory(
        self, promotion: Promotion, version: Version, serving: Collection[str] = ()
    ) -> NotEnoughMemory | None:
        """Why a version cannot come into memory, beside these that serve too; None: it can, or is there."""
        if self._hosting(version):
            return None
        return self._node.aliases.never_fits(version, promotion.old, serving=serving)

    def _note_blocked(
        self, promotion: Promotion, step: Step | End, outlook: Outlook, hosting: Collection[NodeView]
    ) -> None:
        """Remember since when it gets no memory that it is to have."""
        is_due = step == "load" and outlook.is_there and not hosting
        if is_due or (promotion.is_canary and outlook.is_kept_out):
            self._blocked.setdefault(promotion.id, self._node.clock())
        else:
            self._blocked.pop(promotion.id, None)

    def _waited_seconds(self, alias: Alias) -> float:
        since = self._node.versions.waits_since(alias.name)
        return 0.0 if since is None else max(0.0, (self._node.now() - since).total_seconds())

    def _waited(self, alias: Alias, promotion: Promotion) -> str:
        """What it has waited for, and how long, as far as that is known here."""
        waits = self._node.aliases.waits.get(promotion.id, "")
        what = f" for {waits}" if waits else ""
        return f"it waited {span(self._waited_seconds(alias))}{what}; promote it again to go on"

    def _detail(
        self, end: End, alias: Alias, promotion: Promotion, version: Version, found: tuple[Finding, ...]
    ) -> str:
        """More about why it ends, for people."""
        match end.reason:
            case "crash_loop":
                return f"{version.name} failed again and again"
            case "gates":
                return ", ".join(each.gate for each in found if each.verdict == "missed")
            case "not_enough_memory":
                serving = self._node.versions.serving
                error = self._lacks_memory(promotion, version)
                error = error or self._lacks_memory(promotion, version, serving)
                return "" if error is None else error.message
            case _:
                return self._waited(alias, promotion)

    async def _do(
        self,
        step: Step,
        alias: Alias,
        promotion: Promotion,
        version: Version,
        outlook: Outlook,
        found: tuple[Finding, ...],
    ) -> None:
        waits, where = self._node.aliases.waits, self._loaded_on(version)
        match step:
            case "load":
                waits[promotion.id] = f"the load of {version.name}"
                await self._load(alias, promotion, version)
            case "canary":
                await self._change(alias, promotion, lambda now: aliases.begin_canary(now, promotion, where))
            case "promote":
                await self._change(
                    alias, promotion, lambda now: aliases.promote(now, promotion, where, found)
                )
                waits.pop(promotion.id, None)
            case "wait":
                waits[promotion.id] = _waits_for(alias, promotion, version, outlook, found)

    async def _load(self, alias: Alias, promotion: Promotion, version: Version) -> None:
        """Have the version loaded where it is best, beside the one that serves."""
        view = self._place(version)
        if view is None:
            self._node.aliases.waits[promotion.id] = f"a node that takes {version.name}"
            return
        is_there = version.loaded_id in view.hosted  # its adapters are to be loaded
        serving = self._node.versions.loaded_id(promotion.old)
        leaving, wait_ms = () if is_there else _leaving(view, version, serving), 0
        if leaving is None:  # what is used all the time has to leave after its turn, as for other requests
            self._node.aliases.waits[promotion.id] = f"memory on {view.node} that is in use"
            leaving, wait_ms = tuple(each for each in view.hosted if each != serving), TURN_WAIT_MS
        request = LoadModelRequest(
            model_id=version.name, load_wait_ms=wait_ms, purpose="promotion", only_evicting=leaving
        )
        try:
            await self._node.fleet.ask(view.node, "load_model", request, LoadModelReply, seconds=LOAD_SECONDS)
            self._applied.add(promotion.id)
        except VersionGone as error:
            await self._stop(alias, promotion, "gone", error.message)
        except (LoadFailed, Quarantined, ModelFileInvalid, AdapterMismatch, AdapterNotFound) as error:
            await self._stop(alias, promotion, "load_failed", error.message)

    def _place(self, version: Version) -> NodeView | None:
        views = self._node.fleet.views()
        others = views.keys() - set(self._node.names.nodes(version))
        wanted = Wanted(model_id=version.loaded_id, excluded=frozenset(others))
        placed = place(wanted, views, here=self._node.name)
        return None if placed is None else views.get(placed.node)

    def _is_there(self, version: Version) -> bool:
        return any(each in self._node.fleet.views() for each in self._node.names.nodes(version))

    def _loaded_on(self, version: Version) -> str:
        """A node that has the version ready; empty if none has."""
        for view in self._hosting(version):
            hosted = view.hosted[version.loaded_id]
            if hosted.is_ready and hosted.sha256 in ("", version.loaded_sha256):
                return view.node
        return ""

    def _hosting(self, version: Version) -> tuple[NodeView, ...]:
        """The nodes that have the version, and its model in memory or on the way there."""
        nodes = self._node.names.nodes(version)
        views = self._node.fleet.views().hosting(version.loaded_id)
        return tuple(each for each in views if each.node in nodes)

    # --- what was promoted --------------------------------------------------------------------------------

    async def _watch(self, alias: Alias, done: Promotion) -> None:
        """Take a version back that was promoted, if what it was told to watch for has happened."""
        version, since = self._version(done.target), self._node.versions.since(alias.name)
        if version is None:
            return
        if "crash_loop" in done.take_back and self._node.versions.quarantined(version) > since:
            await self._take_back(alias, done, "crash_loop", f"{version.name} failed again and again")
        elif "retraction" in done.take_back:
            await self._watch_evaluations(alias, done, version, since)

    async def _watch_evaluations(self, alias: Alias, done: Promotion, version: Version, since: int) -> None:
        async with self._node.projections.evaluation.reading() as db:
            retracted = await retractions_of(db, version.model_id, version.number, since)
        if not retracted:
            return
        found = await self._node.aliases.findings(alias.name, done, is_over=True)
        if found and verdict(found) == "met":
            return
        detail = f"evaluation {retracted[-1]} was retracted"
        await self._take_back(alias, done, "retraction", detail, found)

    async def _take_back(
        self,
        alias: Alias,
        done: Promotion,
        reason: TakenBackReason,
        detail: str,
        found: tuple[Finding, ...] = (),
    ) -> None:
        """Raises VersionGone if the old version is on no node any more: the new one then goes on serving."""
        self._node.names.require(done.old)
        await self._change(
            alias, done, lambda now: aliases.take_back(now, done, reason, detail=detail, findings=found)
        )

    # --- the log ------------------------------------------------------------------------------------------

    def _version(self, target: Target) -> Version | None:
        return self._node.versions.versions.get(target.model_id, target.version)

    async def _stop(
        self,
        alias: Alias,
        promotion: Promotion,
        reason: PromotionEnd,
        detail: str,
        found: tuple[Finding, ...] = (),
    ) -> None:
        self._node.aliases.waits.pop(promotion.id, None)
        await self._change(
            alias, promotion, lambda now: aliases.stop(now, promotion, reason, detail=detail, findings=found)
        )

    async def _change(
        self, alias: Alias, promotion: Promotion, decide: Callable[[Alias], AliasEvent | None]
    ) -> None:
        await self._node.aliases.change(alias.name, decide, promotion.id)


async def protect_serving(node: Node) -> None:
    """Have what serves under an alias stay in memory here while another version is promoted to it."""
    while True:
        node.supervisor.protect(node.versions.serving)
        await node.versions.wait_news()


def _watched(alias: Alias) -> Iterator[Promotion]:
    """What there is to look after: what may be taken back by itself, and the promotion that is under way."""
    if alias.promoted is not None and alias.promoted.take_back:
        yield alias.promoted
    if alias.promotion is not None:
        yield alias.promotion


def _leaving(view: NodeView, version: Version, serving: str) -> tuple[str, ...] | None:
    """The models that leave for a version: never the one that serves. None if there is no room now."""
    hosted = {id: each for id, each in view.hosted.items() if id != serving}
    found = eviction(replace(view, hosted=hosted), view.need_of(version.loaded_id))
    return None if found is None else found[1]


def _waits_for(
    alias: Alias, promotion: Promotion, version: Version, outlook: Outlook, found: tuple[Finding, ...]
) -> str:
    if promotion.is_canary and not outlook.is_there:
        return f"a node that has {version.name}; until then {alias.target} gets all requests"
    if promotion.is_canary and outlook.is_kept_out:
        return f"memory for {version.name} beside what other promotions keep"
    if promotion.gates is None:
        return "somebody who promotes it without a canary, or ends it"
    still = [each.gate for each in found if each.verdict == "open"]
    of_canary = [each for each in still if each.startswith("canary")]
    of_evaluations = [each for each in still if each not in of_canary]
    parts = [
        f"evaluations of {promotion.target}, for {', '.join(of_evaluations)}" if of_evaluations else "",
        f"a longer canary, for {', '.join(of_canary)}" if of_canary else "",
    ]
    return ", and ".join(filter(None, parts))
