"""Copying models from node to node."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import ModelId, Name, Reply, Request

PushState: TypeAlias = Literal["copied", "present", "failed"]


class PushModelRequest(Request, frozen=True, kw_only=True):
    """Copy all files that a model needs to be served to nodes that have not got them.

    These are its own, its projector and its draft model; of a name that stands for a model with adapters, the
    model and these. They come from `node` or, if that is null, from one that has them. What was cut goes on
    where it was when the same is asked for again. Settings are not copied.
    """

    model_id: ModelId
    nodes: Annotated[tuple[Name, ...], Meta(max_length=1000)] = ()
    """The nodes that are to have it. Empty: all nodes."""
    stream: bool = False
    """True: send how far it is until the final reply."""


class PushedModel(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a model's copy on one node."""

    node: str
    state: PushState
    """`present`: it had all files with their content already, under whatever names."""
    model_id: str | None = None
    """The id that it has there; null if it failed, or if the node has not seen its file yet."""
    path: str | None = None
    """Where its file is there; of a split model, the first part; of a name without a file, its model's."""
    copied: tuple[str, ...] = ()
    """What was copied to it, by the ids that it has on the node that gives this reply: the model, its draft
    model, adapters. What was there already is left out."""
    code: str | None = None
    """Why it failed, as errors have it."""
    message: str | None = None
    """What went wrong. If it did not fail: what it still lacks there, such as settings, and what to do."""


class PushModelReply(Reply, frozen=True, kw_only=True):
    """The model was copied, as far as the nodes could take it, from the node that gives this reply."""

    model_id: str
    """The id of the model, or the name of one with adapters."""
    bytes: int
    """The size of all files that it needs, also of those that were there."""
    sha256: str
    """The digest of its file, which each copy was checked to have; of split ones, of all parts; of a name
    without a file, that of its model."""
    nodes: tuple[PushedModel, ...]
    """What became of it on each node, in the order of their names."""
