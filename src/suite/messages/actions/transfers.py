"""Copying models from node to node."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import ModelId, Name, Reply, Request

PushState: TypeAlias = Literal["copied", "present", "failed"]


class PushModelRequest(Request, frozen=True, kw_only=True):
    """Copy the files of a model, and its projector, to nodes that have not got them.

    They come from `node` or, if that is null, from one that has them. What was cut goes on where it was when
    the same is asked for again.
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
    """`present`: it had a file with this content already, under whatever name, and needs no projector."""
    model_id: str | None = None
    """The id that it has there; null if it failed, or if the node has not seen its file yet."""
    path: str | None = None
    """Where its file is there; of a split model, the first part."""
    code: str | None = None
    """Why it failed, as errors have it."""
    message: str | None = None
    """What went wrong. With `present`: why the model reads no pictures there, although it does here."""


class PushModelReply(Reply, frozen=True, kw_only=True):
    """The model was copied, as far as the nodes could take it, from the node that gives this reply."""

    model_id: str
    bytes: int
    """The size of all files, with that of the projector."""
    sha256: str
    """The digest of the model, which each copy was checked to have; of split ones, of all parts."""
    nodes: tuple[PushedModel, ...]
    """What became of it on each node, in the order of their names."""
