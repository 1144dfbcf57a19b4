"""What the nodes of a fleet tell each other of themselves (ADR 57). Only nodes send and read this.

Each node sends its `NodeState` whenever it changes, and once a second besides. States are whole, so one that
is lost does no harm; only conversations are told once, so a gap in `number` has the listener ask for all of
them. What a node could load changes rarely and may be long: a state has only its id, and who does not know it
asks for the pages.
"""

from __future__ import annotations

from typing import Final, Literal, TypeAlias

import msgspec

from suite.messages.actions.base import ErrorReply

PROTOCOL: Final = 1
"""Nodes work together only with those of the same protocol."""


class Introduction(msgspec.Struct, frozen=True, kw_only=True):
    """What can be read of a node's state whatever protocol it speaks."""

    node: str
    protocol: int
    version: str = ""


class HostedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that is in memory, or on its way there."""

    instance_id: str
    sha256: str = ""
    """The digest of the content that is loaded; empty while it is not known."""
    is_ready: bool = False
    holds: int = 0
    """How many generations run or wait there."""
    slots: int = 1
    """How many generations run at the same time."""
    memory: dict[str, int] = {}
    """The bytes that it has of each memory, by its name: `ram`, `gpu0`."""
    may_leave: bool = False
    """Whether it could be unloaded for another model now."""
    is_pinned: bool = False
    """Whether it stays there until somebody unpins it."""
    is_replica: bool = False
    """Whether it was loaded as a copy, because the load was too much for other nodes."""
    idle_seconds: float = 0.0
    """For how long nobody has used it, when this was told."""
    load_seconds: float = 0.0
    """How long its load took; 0 while it is not known."""


class NodeState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one node is, and does, at the moment."""

    node: str
    epoch: int
    """The sequence of the event of its start: a higher one is a later life."""
    number: int
    """Counts the states of this life."""
    protocol: int
    version: str = ""
    is_draining: bool = False
    """Whether it wants no new work."""
    is_stopping: bool = False
    """Whether it ends what it has, and takes no request any more, not even one about itself."""
    is_leaving: bool = False
    """Whether it has stopped: the last state of a life."""
    limits: dict[str, int] = {}
    """The bytes that all models may have, by memory."""
    free: dict[str, int] = {}
    """The bytes of it that no model has."""
    waiting: dict[str, int] = {}
    """How many requests wait for memory for a model."""
    models: dict[str, HostedModel] = {}
    pins: tuple[str, ...] = ()
    """The models that it keeps loaded, and another node would keep instead if it drained or was lost."""
    stands_for: tuple[str, ...] = ()
    """What only one node does at a time, and this one would do."""
    paused: tuple[str, ...] = ()
    """The models that it does not load for a while, because they failed again and again."""
    needs: dict[str, dict[str, int]] = {}
    """What models were measured to need, by id and memory, where that is far from what the catalogue says."""
    catalogue: str = ""
    """The id of what it could load: the same for nodes with the same models and settings."""
    conversations: tuple[int, ...] = ()
    """The hashes of conversations that came here since the last state."""


class OfferedModel(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A model that a node could load."""

    sha256: str = ""
    """The digest of its file; empty while it is not known."""
    memory: dict[str, int] = {}
    """The bytes that it needs of each memory, estimated from its file and settings. Nodes with the same
    memories estimate the same."""
    aliases: tuple[str, ...] = ()
    settings: str = ""
    """A short digest of the settings that change how it loads."""
    adapters: tuple[str, ...] = ()
    """The adapters that it can be computed with, and the names that stand for it with adapters."""
    chats: bool = True
    """Whether it has a chat template. Nodes of versions that do not say so may have one."""
    reads_pictures: bool | None = None
    """Whether it has a projector; null: the node is of a version that does not tell."""
    has_draft: bool = False
    """Whether it has a draft model, and would copy that too. Nodes of older versions would not."""


class GetPresence(msgspec.Struct, frozen=True, kw_only=True):
    """Asks a node for its state with all its conversations, or for a page of what it could load."""

    catalogue_after: str | None = None
    """The last model of the page before; an empty text for the first page; null for the state."""


class CataloguePage(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what a node could load, in the order of the ids."""

    catalogue: str
    models: dict[str, OfferedModel]
    is_last: bool


ForwardedState: TypeAlias = Literal["handed_over", "ended", "misplaced"]
"""`handed_over`: a model's process is about to answer it. `ended`: it is answered. `misplaced`: what it was
for is not there any more, or the node stops or was cut off, and no answer has begun."""


class Forwarded(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of a request that one node has forwarded to another, as that one tells the first."""

    state: ForwardedState
    instance_id: str = ""
    """With `handed_over`: the instance whose process answers it."""
    generation_id: str = ""
    error: ErrorReply | None = None
    """With `misplaced`: why it is given back. The client hears that if no other node can serve it."""


class GetArrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Asks a node which of these requests, which were forwarded to it, it still has."""

    tokens: tuple[str, ...]


class KnownArrivals(msgspec.Struct, frozen=True, kw_only=True):
    """Those of the requests that the node has."""

    requests: dict[str, Forwarded | None]
    """Whose process may answer each; null while none does."""
