"""How many tokens the nodes have generated, of what they say: screens make rates of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from suite.messages.actions.status import GenerationInfo, GetStatsReply


def generated_tokens(stats: GetStatsReply, generations: Iterable[GenerationInfo]) -> Mapping[str, int]:
    """The tokens that each node has generated since its start, those of unfinished answers included."""
    counts = {each.node: each.completion_tokens for each in stats.node_stats}
    for each in generations:
        if each.node in counts:
            counts[each.node] += each.completion_tokens or 0
    return counts
