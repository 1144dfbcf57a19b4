"""Versions of models, aliases, and the promotion of one version to an alias (ADR 70, 71)."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from suite.messages.actions.base import AdapterChoice, Name, Query, Reply, Request
from suite.messages.promotion import Finding, Gates, TakeBackReason

Version: TypeAlias = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=512,
        description="A version of a model: `NAME@3` by number, `NAME@` and a beginning of its digest, or a "
        "name alone for the version that the model is at.",
    ),
]
Share: TypeAlias = Annotated[float, Meta(ge=0, lt=1)]


class ListVersionsRequest(Query, frozen=True, kw_only=True):
    """List the versions of a model, or of all, by the log: also those whose content is gone."""

    model_name: Name | None = None
    """The model's id or one of its aliases. Null: all models."""
    unused: bool = False
    """Only those that nobody uses: no alias stands for them, and nobody has used them since
    ``unused_seconds``."""
    unused_seconds: Annotated[float, Meta(ge=0)] = 30 * 86_400.0


class VersionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A version of a model: content with settings."""

    model_id: str
    version: int
    """Its number: versions are numbered in the order in which the log saw them."""
    sha256: str
    settings: dict[str, str | int | float | bool] | None
    """Those that tell versions apart, as far as they are not the defaults. Null: not known."""
    source: str
    """Where it is from; empty: not known."""
    file_name: str
    file_bytes: int
    architecture: str
    quantization: str
    first_seen: str
    nodes: tuple[str, ...]
    """Where it is on disk, and would be loaded. Empty: its content is gone, and it is history."""
    aliases: tuple[str, ...]
    """Those of the log that stand for it."""
    uses: int
    """Generations in the log that say which version they used."""
    last_used: str | None
    """Null: nobody has used it, as far as the log says."""
    trust: float | None
    """From its evaluations (ADR 11). Null: nothing is known."""
    evaluations: int
    base: str | None = None
    """The id of the model that it is with adapters; ``sha256`` is then a digest of those of all files, with
    the scales, and what is told of a file is of those of the adapters. Null: it is a model itself."""
    adapters: tuple[AdapterChoice, ...] = ()
    """What that model is computed with."""


class ListVersionsReply(Reply, frozen=True, kw_only=True):
    """The versions, by model and number."""

    versions: tuple[VersionInfo, ...]


class ListAliasesRequest(Request, frozen=True, kw_only=True):
    """List the aliases of the log, with the promotions that are under way.

    Those of the configuration stand in the status of their models.
    """

    alias: Name | None = None
    """Null: all."""


class PromotionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A promotion that is under way."""

    promotion_id: str
    model_id: str
    version: int
    state: Literal["started", "canary"]
    """`canary`: it gets its share of the requests."""
    canary_share: float
    gates: Gates | None
    take_back: tuple[TakeBackReason, ...]
    findings: tuple[Finding, ...]
    """What is known so far about each gate."""
    waits_for: str
    """What it waits for, for people; empty: for nothing."""
    canary_requests: int = 0
    """How many requests it has answered since it got its share of them."""
    canary_seconds: float = 0.0
    """For how long it has had its share."""


class AliasInfo(msgspec.Struct, frozen=True, kw_only=True):
    """An alias, and what it stands for."""

    alias: str
    model_id: str
    version: int
    """0: whichever the model is at."""
    seq: int
    """The event since which it stands for that."""
    may_go_back: bool
    """Whether it was promoted, so that it can be taken back."""
    promotion: PromotionInfo | None


class ListAliasesReply(Reply, frozen=True, kw_only=True):
    """The aliases, by name."""

    aliases: tuple[AliasInfo, ...]


class SetAliasRequest(Request, frozen=True, kw_only=True):
    """Have an alias stand for a model or a version at once, whether that is loaded or not."""

    alias: Name
    target: Version | None
    """Null: remove it."""


class SetAliasReply(Reply, frozen=True, kw_only=True):
    """The alias stands for it from now on."""

    alias: str
    model_id: str | None
    """Null: it is removed."""
    version: int
    """0: whichever the model is at."""
    message: str
    seq: int | None
    """The event. Null: it was so already."""


class PromoteAliasRequest(Request, frozen=True, kw_only=True):
    """Promote a version to an alias. The old one serves until the new one is ready and meets the gates."""

    alias: Name
    target: Version
    canary_share: Share = 0.0
    """Which part of the requests the new version gets meanwhile. Without gates it keeps that share until the
    version is promoted without one, 30 days at most."""
    gates: Gates | None = None
    """Null: it is promoted as soon as it is ready."""
    take_back: tuple[TakeBackReason, ...] = ()
    """What takes it back by itself, once it is promoted."""
    any_architecture: bool = False
    """Whether it may be of another architecture than the old version. One without a chat template is refused
    all the same if the old version has one, as chats would be refused then."""


class PromoteAliasReply(Reply, frozen=True, kw_only=True):
    """The promotion is under way, and its steps are events; or the version serves already."""

    alias: str
    promotion_id: str
    """Empty: there is nothing to promote, as the alias stands for the version already."""
    model_id: str
    version: int
    old_model_id: str
    old_version: int
    message: str
    seq: int
    """The event that says that it is under way, or the one since which the alias stands for it."""


class TakeBackAliasRequest(Request, frozen=True, kw_only=True):
    """End the promotion that is under way, or take the version back that was promoted last."""

    alias: Name


class TakeBackAliasReply(Reply, frozen=True, kw_only=True):
    """The old version serves all requests."""

    alias: str
    model_id: str
    """What the alias stands for."""
    version: int
    message: str
    seq: int
