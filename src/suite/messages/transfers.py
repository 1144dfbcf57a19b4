"""What nodes send each other to copy a model (ADR 61). Only nodes send and read this.

The node that has the files asks another to fetch them. That one asks for one part of a file after the other;
the first puts each into the object store, and answers under which name it is there. A draft model, a model
and its adapters are fetched one after the other, each as a model of its own.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from suite.messages.actions.transfers import PushedModel


class TransferFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file of a model."""

    path: str
    """Where it goes, below the model directory."""
    bytes: int
    sha256: str


class FetchModel(msgspec.Struct, frozen=True, kw_only=True):
    """Asks a node to fetch a model. It answers with `Fetching` until it is `Fetched`."""

    transfer_id: str
    source: str
    """The node to fetch it from."""
    model_id: str
    sha256: str
    """The digest of all files, one after the other."""
    files: tuple[TransferFile, ...]
    projector: TransferFile | None = None
    """That by which the model reads pictures. Its parts are asked for by the number after the last file's."""
    name: str = ""
    """The name that is to be served with this and what was fetched before; empty if something follows."""
    has_draft: bool = False
    """Whether the model of the name has a draft model, which was sent before it."""


class Fetching(msgspec.Struct, frozen=True, kw_only=True, tag="fetching"):
    """The node goes on with it, and has so many bytes; sent every second at least."""

    bytes: int


class Fetched(msgspec.Struct, frozen=True, kw_only=True, tag="fetched"):
    """The node has ended with it."""

    outcome: PushedModel


FetchNews: TypeAlias = Fetching | Fetched


class GetPart(msgspec.Struct, frozen=True, kw_only=True):
    """Asks for the part of a file that begins at an offset. Who asks has all parts before it."""

    transfer_id: str
    node: str
    """The node that asks."""
    file: int
    """The number of the file, from 0; the projector comes after the others."""
    offset: int


class Part(msgspec.Struct, frozen=True, kw_only=True, tag="part"):
    """The part is in the object store, under its digest."""

    sha256: str


class PartRefused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """There is no such part any more, as errors say it."""

    code: str
    message: str


PartAnswer: TypeAlias = Part | PartRefused
