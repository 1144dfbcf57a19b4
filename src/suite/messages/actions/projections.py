"""Read models: their errors, the fleet, and building them anew."""

from __future__ import annotations

from typing import Literal

import msgspec

from suite.messages.actions.base import ModelId, Page, Query, Reply, Request
from suite.messages.events import Severity


class GetErrorsRequest(Page, frozen=True, kw_only=True):
    """What went wrong, the newest first: reported errors, failed loads, crashes, lost nodes."""

    severity: Severity | None = None
    model_id: ModelId | None = None


class ErrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One error."""

    seq: int
    error_type: str
    message: str
    severity: Severity
    node: str
    model_id: str | None
    timestamp: str


class GetErrorsReply(Reply, frozen=True, kw_only=True):
    """A page of errors; ``next_cursor`` is None on the last one."""

    errors: tuple[ErrorEntry, ...]
    next_cursor: str | None


class RebuildProjectionRequest(Request, frozen=True, kw_only=True):
    """Fold a read model anew from the log beside the live one, then put it in its place."""

    name: Literal["catalogue", "usage", "evaluation", "errors"]
    stream: bool = False
    """True: send progress until the final reply."""
    force: bool = False
    """True: also when the log has lost events that the read model has; its file is then kept aside."""


class RebuildProjectionReply(Reply, frozen=True, kw_only=True):
    """The new read model answers."""

    name: str
    events: int
    seconds: float
    seq: int
    """Up to where it is folded."""


class GetFleetRequest(Query, frozen=True, kw_only=True):
    """Which models are where in the whole fleet, on nodes that are down too?"""


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file on one node, as it was registered last."""

    node: str
    node_up: bool
    """False: the node stopped or was lost."""
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int
    registered_at: str


class FleetModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model, where it is, and how its loads went on all nodes ever."""

    model_id: str
    files: tuple[FleetFile, ...]
    """By node; none while a node runs it whose file is not registered yet."""
    loaded_on: tuple[str, ...]
    """The nodes that have it loaded."""
    loads: int
    load_failures: int
    """Loads that somebody ended are not among them."""
    crashes: int
    mean_load_ms: float | None


class GetFleetReply(Reply, frozen=True, kw_only=True):
    """The models, by id."""

    models: tuple[FleetModel, ...]
