"""Which node is to serve a request, by what this one knows of all of them (ADR 57).

The decision is that of `suite.domain.placement`; what a request needs of a node is read from it here.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from suite.bus.action import Action
from suite.domain.nodes import Nodes
from suite.domain.placement import Placement, Wanted, lacking, place
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actions.transfers import PushModelRequest
from suite.node.fleet.model_names import ModelNames
from suite.node.fleet.peers import Peers, conversation_hash
from suite.node.fleet.presence import Presence

MOST_TRIES: Final = 3
"""On so many nodes a request is tried, before its client gets `node_lost`."""


class Placements:
    """Decides about requests, each when it comes and again when a node has not served it."""

    def __init__(self, node: str, names: ModelNames, peers: Peers, presence: Presence) -> None:
        self._node = node
        self._names = names
        self._peers = peers
        self._presence = presence

    def views(self) -> Nodes:
        """All nodes that may get work, as they are decided about."""
        return self._peers.views(self._presence.view)

    async def first(self, request: msgspec.Struct) -> Placement | None:
        """Where a request is to be served. What nobody seems to have, a node that has just come may have."""
        placement = self._placement(request)
        if placement is None and not self._presence.is_acquainted:
            await self._presence.acquaint()
            placement = self._placement(request)
        return placement

    def next(self, action: Action[Any], request: msgspec.Struct, tried: frozenset[str]) -> Placement | None:
        """Where a request goes that these nodes could not serve. None if it ends here."""
        if getattr(request, "node", None) is not None or len(tried) >= MOST_TRIES:
            return None
        if action.route == "model":
            return self._placement(request, excluded=tried)
        able = (each.node for each in self._peers.states.values() if not each.is_draining)
        other = next((node for node in able if node not in tried), None)
        return Placement(node=other, reason="any") if other is not None else None

    def is_best_here(self, request: msgspec.Struct) -> bool:
        """Whether a request would be served on this node if it came now."""
        placement = self._placement(request)
        return placement is not None and placement.node == self._node

    def _placement(self, request: msgspec.Struct, excluded: frozenset[str] = frozenset()) -> Placement | None:
        asked = getattr(request, "model_id", None)
        if asked is None:
            return None
        model_id, views = self._names.id_of(asked), self.views()
        excluded |= lacking(model_id, self._names.adapters_of(request), views)
        if (nodes := self._names.nodes(asked)) is not None:
            excluded |= views.keys() - set(nodes)
        wanted = Wanted(
            model_id=model_id,
            conversation_node=self._conversation_node(model_id, request),
            continues=getattr(request, "continue_", False),
            excluded=excluded,
            needs_projector=_needs_projector(request),
            needs_draft=isinstance(request, PushModelRequest),
        )
        return place(wanted, views, here=self._node)

    def _conversation_node(self, model_id: str, request: msgspec.Struct) -> str:
        """The node that the conversation of a request came to last; empty if there is none."""
        conversation_id = getattr(request, "conversation_id", None)
        if conversation_id is None:
            return ""
        return self._peers.conversation_node(conversation_hash(model_id, conversation_id))


def _needs_projector(request: msgspec.Struct) -> bool:
    """Whether a request brings pictures, or is about all files of a model."""
    if isinstance(request, GenerateTextRequest):
        return any(each.has_pictures for each in request.messages or ())
    return isinstance(request, PushModelRequest)
