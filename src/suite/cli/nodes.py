"""How commands print what several nodes have answered. A fleet of one prints nothing of this."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Final

import click

if TYPE_CHECKING:
    from suite.messages.actions.base import FleetReply
    from suite.messages.actions.status import ModelInfo

_SHOWN: Final = 4
"""How many nodes a cell of a table names."""


def named(nodes: Collection[str]) -> str:
    """The nodes in one cell of a table: all, or the first and how many more there are."""
    names = sorted(nodes)
    if len(names) <= _SHOWN:
        return ", ".join(names)
    return f"{', '.join(names[: _SHOWN - 1])} and {len(names) + 1 - _SHOWN} more"


def nodes_of(models: Iterable[ModelInfo]) -> Sequence[str]:
    """The nodes that have any of the models."""
    return sorted({node for model in models for node in model.nodes})


def tell_missing(reply: FleetReply) -> None:
    """Say on stderr which nodes did not answer."""
    if reply.missing_nodes:
        missing = ", ".join(reply.missing_nodes)
        click.echo(f"warning: {missing} did not answer: what is there is not told", err=True)
