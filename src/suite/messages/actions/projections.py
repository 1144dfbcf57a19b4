"""Errors, the fleet, and rebuilding read models."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from suite.messages.actions.base import FleetReply, ModelId, Page, Query, Reply, Request
from suite.messages.events import Severity


class ErrorsPage(Page, frozen=True, kw_only=True):
    """A query for errors."""

    severity: Severity | None = None
    model_id: ModelId | None = None
    error_type: Annotated[str, Meta(max_length=100)] | None = None
    """The stable code of the errors, such as `load_failed`."""


class GetErrorsRequest(ErrorsPage, frozen=True, kw_only=True):
    """Get errors, newest first: reported errors, failed loads, crashes, lost nodes."""


class ErrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One error."""

    seq: int
    error_type: str
    message: str
    severity: Severity
    node: str
    model_id: str | None
    timestamp: str
    count: int = 1
    """How many errors of this kind it stands for: those of a minute are reported together."""


class GetErrorsReply(Reply, frozen=True, kw_only=True):
    """A page of errors; ``next_cursor`` is null on the last page."""

    errors: tuple[ErrorEntry, ...]
    next_cursor: str | None


class GetErrorGroupsRequest(ErrorsPage, frozen=True, kw_only=True):
    """Count errors by their type, model and node, first the group that has the newest one."""


class ErrorGroup(msgspec.Struct, frozen=True, kw_only=True):
    """The errors of one type, about one model, on one node."""

    error_type: str
    model_id: str | None
    """Null: they are about no model, or none that is known."""
    node: str
    count: int
    first_seen: str
    last_seen: str
    last_seq: int
    """The event that tells of the newest."""
    severity: Severity
    """The newest one's."""
    message: str
    """The newest one's."""


class GetErrorGroupsReply(Reply, frozen=True, kw_only=True):
    """A page of groups; ``next_cursor`` is null on the last page."""

    groups: tuple[ErrorGroup, ...]
    next_cursor: str | None


class RebuildProjectionRequest(Request, frozen=True, kw_only=True):
    """Rebuild a read model from the log beside the live one, then replace that. Each node has its own."""

    name: Literal["catalogue", "usage", "evaluation", "errors", "history"]
    stream: bool = False
    """True: send progress until the final reply."""
    force: bool = False
    """True: also when the log has lost events that the read model has; its file is then kept aside."""


class NodeRebuild(msgspec.Struct, frozen=True, kw_only=True):
    """The rebuilt read model of one node."""

    node: str
    events: int
    seconds: float
    seq: int
    """The last event that it includes."""


class RebuildProjectionReply(FleetReply, frozen=True, kw_only=True):
    """The rebuilt read model is in use, on all nodes."""

    name: str
    events: int
    """On the node that answers."""
    seconds: float
    """On the node that took longest."""
    seq: int
    """The last event that it includes on all nodes."""
    rebuilt: tuple[NodeRebuild, ...] = ()
    """What each node has rebuilt, first the one that answers."""


class GetFleetRequest(Query, frozen=True, kw_only=True):
    """Get the models of the whole fleet, including nodes that are down."""


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
    """A model's file on one node, as last registered."""

    node: str
    node_up: bool
    """False: the node stopped or was lost."""
    node_draining: bool = False
    """True: the node takes no new work."""
    file_name: str
    file_bytes: int
    sha256: str
    architecture: str
    parameters: int
    quantization: str
    trained_context_tokens: int
    registered_at: str


class FleetModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model: its files, the nodes that have it loaded, and statistics of all its loads."""

    model_id: str
    files: tuple[FleetFile, ...]
    """Sorted by node; empty while the only node that runs it has not registered its file yet."""
    loaded_on: tuple[str, ...]
    """The nodes that have it loaded."""
    loads: int
    load_failures: int
    """Without loads that were cancelled."""
    crashes: int
    mean_load_ms: float | None


class GetFleetReply(Reply, frozen=True, kw_only=True):
    """The models, by id."""

    models: tuple[FleetModel, ...]
