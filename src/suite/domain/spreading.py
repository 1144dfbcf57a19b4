"""Which nodes of a fleet load which of several models: each where it is best (ADR 58)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from suite.domain.nodes import Hosted, Nodes, NodeView
from suite.domain.placement import Wanted, place


def spread(model_ids: Iterable[str], nodes: Mapping[str, NodeView], *, here: str) -> dict[str, list[str]]:
    """Decide which node loads which models, in their order.

    Each is placed as if those before it were loaded already, so that they do not all go where only one fits.
    What no node has is left to the node `here`, which says so.
    """
    views = Nodes(nodes.values())
    placed: dict[str, list[str]] = {}
    for model_id in model_ids:
        placement = place(Wanted(model_id=model_id), views, here=here)
        node = here if placement is None else placement.node
        placed.setdefault(node, []).append(model_id)
        if node in views:
            views.put(_with_model(views[node], model_id))
    return placed


def _with_model(view: NodeView, model_id: str) -> NodeView:
    """The node when the model is loaded there."""
    if model_id in view.hosted or model_id not in view.offered:
        return view
    need = view.need_of(model_id)
    hosted = Hosted(is_ready=False, footprint=need)
    return replace(view, hosted={**view.hosted, model_id: hosted}, free=view.free - need)
