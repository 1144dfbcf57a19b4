"""list_versions, list_aliases, set_alias, promote_alias and take_back_alias."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime

from suite.bus.service import Call, action
from suite.domain.aliases import Alias
from suite.domain.versions import Version
from suite.errors import AliasNotFound, ModelNotFound
from suite.messages.actions.base import AdapterChoice
from suite.messages.actions.versions import (
    AliasInfo,
    ListAliasesReply,
    ListAliasesRequest,
    ListVersionsReply,
    ListVersionsRequest,
    PromoteAliasReply,
    PromoteAliasRequest,
    PromotionInfo,
    SetAliasReply,
    SetAliasRequest,
    TakeBackAliasReply,
    TakeBackAliasRequest,
    VersionInfo,
)
from suite.messages.times import rfc3339
from suite.node.node import Node
from suite.projections.reply_size import as_many_as_fit, left_out
from suite.projections.trust import VersionTrust, trust_by_version
from suite.projections.usage import VersionUse, uses_by_version


@action("list_versions", is_lookup=True)
async def list_versions(node: Node, request: ListVersionsRequest, _: Call) -> ListVersionsReply:
    """List the versions of models, by the log."""
    async with node.projections.usage.reading(request.min_seq, own_seq=node.last_seq) as db:
        await node.versions.reach(max(request.min_seq, node.last_seq))
        versions = _asked_for(node, request)
        model_id = None if request.model_name is None else versions[0].model_id
        uses = await uses_by_version(db, model_id)
    if request.unused:
        versions = _unused(node, versions, uses, request.unused_seconds)
    async with node.projections.evaluation.reading(request.min_seq, own_seq=node.last_seq) as db:
        trusts = await trust_by_version(db, model_id)
    nothing = VersionTrust(None, 0)
    infos = [
        _info(node, each, _use_of(node, each, uses), trusts.get((each.model_id, each.number), nothing))
        for each in versions
    ]
    kept = as_many_as_fit(infos)
    return ListVersionsReply(versions=kept, warnings=left_out(infos, kept, "versions"))


def _asked_for(node: Node, request: ListVersionsRequest) -> list[Version]:
    """Raises ModelNotFound for a model that the log does not know."""
    if request.model_name is None:
        return list(node.versions.versions)
    found = list(node.versions.versions.of(node.names.model_of(request.model_name)))
    if not found:
        raise ModelNotFound(f"the log has no version of {request.model_name!r}: see `suite versions`")
    return found


def _use_of(
    node: Node, version: Version, uses: Mapping[tuple[str, int | None], VersionUse]
) -> VersionUse | None:
    """The uses of a version. Those that say no version count for the one that the model is at."""
    own = uses.get((version.model_id, version.number))
    if version.number != node.versions.versions.newest(version.model_id):
        return own
    unknown = uses.get((version.model_id, None))
    if own is None or unknown is None:
        return own or unknown
    return VersionUse(own.uses + unknown.uses, max(own.last, unknown.last))


def _unused(
    node: Node,
    versions: Iterable[Version],
    uses: Mapping[tuple[str, int | None], VersionUse],
    seconds: float,
) -> list[Version]:
    now = node.now()

    def is_since(time: datetime) -> bool:
        return (now - time).total_seconds() <= seconds

    def is_used(version: Version) -> bool:
        use = _use_of(node, version, uses)
        was_used = is_since(version.time) or (use is not None and is_since(use.last))
        return was_used or bool(node.versions.standing_for(version))

    return [each for each in versions if not is_used(each)]


def _info(node: Node, version: Version, use: VersionUse | None, known: VersionTrust) -> VersionInfo:
    registered = version.registered
    return VersionInfo(
        model_id=version.model_id,
        version=version.number,
        sha256=version.sha256,
        settings=registered.settings,
        source=registered.source,
        file_name=registered.file_name,
        file_bytes=registered.file_bytes,
        architecture=registered.architecture,
        quantization=registered.quantization,
        first_seen=rfc3339(version.time),
        nodes=node.names.nodes(version),
        aliases=node.versions.standing_for(version),
        uses=0 if use is None else use.uses,
        last_used=None if use is None else rfc3339(use.last),
        trust=known.trust,
        evaluations=known.evaluations,
        base=registered.base or None,
        adapters=tuple(AdapterChoice(id=each.id, scale=each.scale) for each in registered.adapters),
    )


@action("list_aliases", is_lookup=True)
async def list_aliases(node: Node, request: ListAliasesRequest, _: Call) -> ListAliasesReply:
    """List the aliases of the log, and what is being promoted to them."""
    await node.versions.reach(node.last_seq)
    known = sorted(node.versions.aliases.items())
    wanted = [(name, alias) for name, alias in known if request.alias in (None, name)]
    infos = [await _alias_info(node, name, alias) for name, alias in wanted]
    kept = as_many_as_fit(infos)
    return ListAliasesReply(aliases=kept, warnings=left_out(infos, kept, "aliases"))


async def _alias_info(node: Node, name: str, alias: Alias) -> AliasInfo:
    assert alias.target is not None, "an alias stands for something as long as it is known"
    return AliasInfo(
        alias=name,
        model_id=alias.target.model_id,
        version=alias.target.version,
        seq=node.versions.since(name),
        may_go_back=alias.promoted is not None,
        promotion=await _promotion_info(node, name, alias),
    )


async def _promotion_info(node: Node, name: str, alias: Alias) -> PromotionInfo | None:
    running = alias.promotion
    if running is None:
        return None
    canary = await node.aliases.canary(name, running) if running.is_canary else None
    return PromotionInfo(
        promotion_id=running.id,
        model_id=running.target.model_id,
        version=running.target.version,
        state="canary" if running.is_canary else "started",
        canary_share=running.canary_share,
        gates=running.gates,
        take_back=running.take_back,
        canary_requests=0 if canary is None else canary.requests,
        canary_seconds=0.0 if canary is None else canary.seconds,
        findings=await node.aliases.findings(name, running),
        waits_for=node.aliases.waits.get(running.id, ""),
    )


@action("set_alias")
async def set_alias(node: Node, request: SetAliasRequest, call: Call) -> SetAliasReply:
    """Have an alias stand for a model or a version, or for nothing."""
    if request.target is None:
        seq = await node.aliases.remove(request.alias, call)
        was = " is removed" if seq is not None else " stood for nothing"
        return SetAliasReply(
            alias=request.alias, model_id=None, version=0, message=f"{request.alias}{was}", seq=seq
        )
    target, seq = await node.aliases.assign(request.alias, request.target, call)
    already = " already" if seq is None else ""
    return SetAliasReply(
        alias=request.alias,
        model_id=target.model_id,
        version=target.version,
        message=f"{request.alias} stands for {target}{already}",
        seq=seq,
    )


@action("promote_alias")
async def promote_alias(node: Node, request: PromoteAliasRequest, call: Call) -> PromoteAliasReply:
    """Begin to promote a version to an alias."""
    fact, seq, target = await node.aliases.start(request, call)
    if fact is None:
        return PromoteAliasReply(
            alias=request.alias,
            promotion_id="",
            model_id=target.model_id,
            version=target.version,
            old_model_id=target.model_id,
            old_version=target.version,
            message=f"{request.alias} stands for {target} already: there is nothing to promote",
            seq=seq,
        )
    return PromoteAliasReply(
        alias=fact.alias,
        promotion_id=fact.promotion_id,
        model_id=fact.model_id,
        version=fact.version,
        old_model_id=fact.old_model_id,
        old_version=fact.old_version,
        message=f"{fact.model_id}@{fact.version} is being promoted to {fact.alias}",
        seq=seq,
    )


@action("take_back_alias")
async def take_back_alias(node: Node, request: TakeBackAliasRequest, call: Call) -> TakeBackAliasReply:
    """End a promotion, or take back what was promoted."""
    fact, seq = await node.aliases.take_back(request.alias, call)
    await node.versions.reach(seq)
    alias = node.versions.aliases.get(request.alias)
    if alias is None or alias.target is None:
        raise AliasNotFound(f"{request.alias!r} was taken back, and removed by somebody in the same moment")
    target = alias.target
    return TakeBackAliasReply(
        alias=request.alias,
        model_id=target.model_id,
        version=target.version,
        message=f"{request.alias} stands for {target}: {fact.model_id}@{fact.version} gets no requests",
        seq=seq,
    )
