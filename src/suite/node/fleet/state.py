"""What this node tells the others of itself."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable, Mapping
from hashlib import blake2b
from typing import Final

import msgspec

from suite.catalogue import Catalogue, Model
from suite.domain.footprint import NOTHING, Footprint
from suite.domain.nodes import Offered
from suite.messages.decisions import RAM
from suite.messages.presence import PROTOCOL, CataloguePage, HostedModel, NodeState, OfferedModel
from suite.node.fleet.peers import offered_of
from suite.node.instance import Instance
from suite.node.supervisor import Supervisor
from suite.version import __version__

PAGE_MODELS: Final = 2_000
"""How many models a page of a catalogue has, which then fits into a message."""

_encode = msgspec.json.Encoder(order="deterministic").encode


class OwnState:
    """The state of this node, made anew whenever it is asked for."""

    def __init__(self, node: str, epoch: int, supervisor: Supervisor, catalogue: Catalogue) -> None:
        self.node = node
        self.epoch = epoch
        self.is_draining = False
        """Whether the node wants no new work."""
        self.pins: Callable[[], tuple[str, ...]] = tuple
        """The pinned models that another node may keep instead."""
        self._supervisor = supervisor
        self._catalogue = catalogue
        self._number = 0
        self._offers = _Offers()
        self._seen: tuple[Model, ...] = ()
        self._sizes: object = None

    def state(self, conversations: Iterable[int], *, now: float, is_leaving: bool = False) -> NodeState:
        """What the node tells next. `conversations`: the hashes of those that came since the last time."""
        self._number += 1
        return self._state(tuple(conversations), now=now, is_leaving=is_leaving)

    def again(self, conversations: Iterable[int], *, now: float) -> NodeState:
        """The state with the number of the last one, for a node that asks for it."""
        return self._state(tuple(conversations), now=now, is_leaving=False)

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
        models, sizes = tuple(self._catalogue.models.values()), self._supervisor.sizes.known
        is_same = sizes is self._sizes and len(models) == len(self._seen)
        if not is_same or any(a is not b for a, b in zip(models, self._seen, strict=True)):
            self._seen, self._sizes = models, sizes
            self._offers = _Offers({each.model_id: self._offer(each) for each in models if _is_whole(each)})

    def _state(self, conversations: tuple[int, ...], *, now: float, is_leaving: bool) -> NodeState:
        admission = self._supervisor.admission
        return NodeState(
            node=self.node,
            epoch=self.epoch,
            number=self._number,
            protocol=PROTOCOL,
            version=__version__,
            host=socket.gethostname(),
            is_draining=self.is_draining,
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
            may_leave=instance.is_idle and not self._supervisor.is_pinned(model.model_id),
            is_replica=instance.purpose == "replica",
            idle_seconds=0.0 if instance.holds else round(max(0.0, now - instance.last_used), 1),
            load_seconds=round((instance.load_ms or 0.0) / 1000, 3),
        )

    def _offer(self, model: Model) -> OfferedModel:
        return OfferedModel(
            sha256=model.sha256 or "",
            memory=memory_of(self._supervisor.need_bytes(model)),
            aliases=tuple(model.settings.aliases),
            settings=model.settings_key,
        )


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
    return model.error is None and model.outage is None and model.settled
