"""What this node tells the others of itself."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from heapq import nlargest
from typing import Final

import msgspec

from suite.catalogue import Catalogue, Model
from suite.catalogue.variants import names_of
from suite.domain.footprint import NOTHING, Footprint
from suite.domain.nodes import NodeView, Offered
from suite.identity import Clock
from suite.messages.decisions import RAM
from suite.messages.presence import PROTOCOL, CataloguePage, HostedModel, NodeState, OfferedModel
from suite.node.fleet.peers import offered_of, view_of
from suite.node.instance import Instance
from suite.node.supervisor import Supervisor
from suite.version import __version__

PAGE_MODELS: Final = 2_000
"""How many models a page of a catalogue has, which then fits into a message."""
FAR_OFF: Final = 1 / 8
"""A measured need is told when it differs from the estimate by this part of it, in any memory."""
MOST_NEEDS: Final = 50
"""Of so many models the measured needs are told, those that are furthest from their estimates."""

_encode = msgspec.json.Encoder(order="deterministic").encode


class OwnState:
    """The state of this node, made anew whenever it is asked for."""

    def __init__(
        self,
        node: str,
        epoch: int,
        supervisor: Supervisor,
        catalogue: Catalogue,
        *,
        clock: Clock,
        has_models: bool = True,
    ) -> None:
        """`has_models`: whether the node serves models at all."""
        self.node = node
        self.epoch = epoch
        self.is_serving = False
        """Whether the node takes requests. It tells of itself before, and wants no work until then."""
        self.is_draining = False
        """Whether the node wants no new work."""
        self.is_stopping = False
        """Whether the node only ends what it has."""
        self.stands_for: tuple[str, ...] = ()
        """What only one node does at a time, and this one would do."""
        self.pins: Callable[[], tuple[str, ...]] = tuple
        """The pinned models that another node may keep instead."""
        self._supervisor = supervisor
        self._catalogue = catalogue
        self._clock = clock
        self._has_models = has_models
        self._number = 0
        self._offers = _Offers()
        self._seen: tuple[Model, ...] = ()
        self._sizes: object = None
        self._needs: dict[str, dict[str, int]] = {}

    def state(self, conversations: Iterable[int], *, is_leaving: bool = False) -> NodeState:
        """What the node tells next. `conversations`: the hashes of those that came since the last time."""
        self._number += 1
        return self._told(tuple(conversations), is_leaving=is_leaving)

    def again(self, conversations: Iterable[int]) -> NodeState:
        """The state with the number of the last one, for a node that asks for it."""
        return self._told(tuple(conversations), is_leaving=False)

    @property
    def view(self) -> NodeView:
        """This node, as it is decided about here."""
        return view_of(self._state((), is_draining=self.is_draining, is_leaving=False), self.offered)

    @property
    def offered(self) -> Mapping[str, Offered]:
        """What the node could load."""
        return self._offers.offered

    def page(self, after: str) -> CataloguePage:
        """The models that it could load with ids after one, as many as fit."""
        ids = sorted(id for id in self._offers.models if id > after)
        page = {id: self._offers.models[id] for id in ids[:PAGE_MODELS]}
        return CataloguePage(catalogue=self._offers.id, models=page, is_last=len(ids) <= PAGE_MODELS)

    def look(self) -> None:
        """See whether what it could load has changed, or what that takes."""
        models = tuple(self._catalogue.models.values()) if self._has_models else ()
        sizes, seen = self._supervisor.sizes.known, self._seen
        is_same = len(models) == len(seen) and all(a is b for a, b in zip(models, seen, strict=True))
        if not is_same:
            self._seen = models
            there = [each for each in models if each.outage is None]
            adapters = {each.model_id: each for each in there if each.adapter is not None}
            offers = {each.model_id: self._offer(each, adapters) for each in there if _is_whole(each)}
            self._offers = _Offers(offers)
        if not is_same or sizes is not self._sizes:
            self._sizes = sizes
            self._needs = self._needs_far_off()

    def _told(self, conversations: tuple[int, ...], *, is_leaving: bool) -> NodeState:
        is_draining = self.is_draining or not self.is_serving
        return self._state(conversations, is_draining=is_draining, is_leaving=is_leaving)

    def _state(self, conversations: tuple[int, ...], *, is_draining: bool, is_leaving: bool) -> NodeState:
        admission, now = self._supervisor.admission, self._clock()
        return NodeState(
            node=self.node,
            epoch=self.epoch,
            number=self._number,
            protocol=PROTOCOL,
            version=__version__,
            is_draining=is_draining,
            is_stopping=self.is_stopping,
            is_leaving=is_leaving,
            limits=memory_of(self._supervisor.residency.limit_bytes),
            free=memory_of(admission.free_bytes),
            waiting={id: len(queue.requests) for id, queue in admission.state.waiting.items()},
            models={
                id: self._hosted(each, now)
                for id, each in self._supervisor.instances.items()
                if not each.occupancy.leaving
            },
            pins=self.pins(),
            stands_for=self.stands_for,
            paused=self._supervisor.quarantine.paused(self._catalogue.models),
            needs=self._needs,
            catalogue=self._offers.id,
            conversations=conversations,
        )

    def _hosted(self, instance: Instance, now: float) -> HostedModel:
        model = instance.model
        resident = self._supervisor.residency.residents.get(model.model_id)
        return HostedModel(
            instance_id=instance.instance_id,
            sha256=instance.sha256 or model.sha256 or "",
            is_ready=instance.phase == "loaded",
            holds=instance.holds,
            slots=model.kv_cache.slots if model.kv_cache is not None else 1,
            memory=memory_of(resident.reserved_bytes if resident is not None else NOTHING),
            may_leave=instance.is_idle and not self._supervisor.stays(model.model_id),
            is_pinned=self._supervisor.is_pinned(model.model_id),
            is_replica=instance.purpose == "replica",
            idle_seconds=0.0 if instance.holds else round(max(0.0, now - instance.last_used), 1),
            load_seconds=round((instance.load_ms or 0.0) / 1000, 3),
        )

    def _offer(self, model: Model, adapters: Mapping[str, Model]) -> OfferedModel:
        return OfferedModel(
            sha256=model.sha256 or "",
            memory=memory_of(self._supervisor.sizes.estimated(model)),
            aliases=tuple(model.settings.aliases),
            settings=model.settings_key,
            adapters=names_of(model, adapters, self._catalogue.variants),
            chats=model.has_chat_template,
            reads_pictures=model.projector is not None,
            has_draft=model.draft is not None,
        )

    def _needs_far_off(self) -> dict[str, dict[str, int]]:
        """The measured needs that others must know of, because those in the catalogue would mislead them."""
        sizes, offered = self._supervisor.sizes, self._offers.offered
        needs = {
            each.model_id: self._supervisor.need_bytes(each)
            for each in self._seen
            if each.model_id in offered and sizes.is_measured(each)
        }
        distances = {id: _distance(need, offered[id].footprint) for id, need in needs.items()}
        far_off = [id for id, distance in distances.items() if distance > FAR_OFF]
        return {id: memory_of(needs[id]) for id in nlargest(MOST_NEEDS, far_off, key=distances.__getitem__)}


class _Offers:
    """What a node could load, in the forms in which it is needed."""

    def __init__(self, models: Mapping[str, OfferedModel] = {}) -> None:
        self.models = models
        self.id = blake2b(_encode(models), digest_size=8).hexdigest()
        self.offered = {id: offered_of(each) for id, each in models.items()}


def memory_of(footprint: Footprint) -> dict[str, int]:
    """Bytes by the name of a memory, as they stand in messages."""
    return {RAM: footprint.ram, **footprint.gpus}


def _is_whole(model: Model) -> bool:
    return model.error is None and model.settled


def _distance(need: Footprint, estimate: Footprint) -> float:
    """By which part of the estimate a need differs from it, in the memory where that is most."""
    names = {*need.names, *estimate.names}
    return max(abs(need[name] - estimate[name]) / max(1, estimate[name]) for name in names)
