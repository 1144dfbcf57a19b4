"""Says which models are not the same on all nodes of a fleet, though they have the same id (ADR 58)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from suite.domain.nodes import Offered

DIGEST_DIGITS: Final = 12
"""So many digits of a digest tell two files apart for a person."""


class Differences(msgspec.Struct, frozen=True, kw_only=True):
    """Sentences about models that differ, sorted by id."""

    files: tuple[str, ...] = ()
    """Ids that stand for several files. A request is served with one of them, which may not be the one that
    its sender means."""
    settings: tuple[str, ...] = ()
    """Models that nodes load in different ways, which may be meant so: their machines may differ."""


def differences(nodes: Mapping[str, Mapping[str, Offered]]) -> Differences:
    """Compare what the nodes could load, by node and model id."""
    offers: dict[str, dict[str, Offered]] = {}
    for node, offered in sorted(nodes.items()):
        for model_id, each in offered.items():
            offers.setdefault(model_id, {})[node] = each
    files, settings = [], []
    for model_id, by_node in sorted(offers.items()):
        if (told := different_files(model_id, {n: each.sha256 for n, each in by_node.items()})) is not None:
            files.append(told)
        if told := different_settings(model_id, {n: each.settings for n, each in by_node.items()}):
            settings.append(told)
    return Differences(files=tuple(files), settings=tuple(settings))


def different_files(model_id: str, digests: Mapping[str, str]) -> str | None:
    """A sentence if nodes have different files under one id; a digest that is empty is not known."""
    groups = _groups(digests)
    if len(groups) < 2:
        return None
    told = "; ".join(f"{digest[:DIGEST_DIGITS]} on {', '.join(nodes)}" for digest, nodes in groups.items())
    return f"{model_id} stands for different files: {told}: give all nodes the same file, or one another id"


def different_settings(model_id: str, keys: Mapping[str, str]) -> str | None:
    """A sentence if nodes load a model with different settings; a key that is empty is not known."""
    groups = _groups(keys)
    if len(groups) < 2:
        return None
    told = " than on ".join(", ".join(nodes) for nodes in groups.values())
    return f"{model_id} is loaded with other settings on {told}"


def _groups(values: Mapping[str, str]) -> dict[str, list[str]]:
    """The nodes by their value, both in order; without those whose value is not known."""
    groups: dict[str, list[str]] = {}
    for node, value in sorted(values.items()):
        if value:
            groups.setdefault(value, []).append(node)
    return groups
