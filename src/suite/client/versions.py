"""The client's methods for versions of models, and for aliases. Changing aliases needs the role operator."""

from __future__ import annotations

from collections.abc import Sequence

from suite.client.asking import Asking
from suite.messages.actions.versions import (
    ListAliasesReply,
    ListAliasesRequest,
    ListVersionsReply,
    ListVersionsRequest,
    PromoteAliasReply,
    PromoteAliasRequest,
    SetAliasReply,
    SetAliasRequest,
    TakeBackAliasReply,
    TakeBackAliasRequest,
)
from suite.messages.promotion import Gates, TakeBackReason


class ModelVersions(Asking):
    """The actions for versions and aliases."""

    async def list_versions(
        self,
        model_name: str | None = None,
        *,
        unused: bool = False,
        unused_seconds: float = 30 * 86_400.0,
        min_seq: int = 0,
    ) -> ListVersionsReply:
        """List the versions of a model, or of all, by the log: also those whose content is gone.

        ``unused``: only those that no alias stands for, and that nobody has used for ``unused_seconds``.
        Raises ModelNotFound.
        """
        request = ListVersionsRequest(
            model_name=model_name, unused=unused, unused_seconds=unused_seconds, min_seq=min_seq
        )
        return await self._ask("list_versions", request, ListVersionsReply)

    async def list_aliases(self, alias: str | None = None) -> ListAliasesReply:
        """List the aliases of the log, with the promotions that are under way."""
        return await self._ask("list_aliases", ListAliasesRequest(alias=alias), ListAliasesReply)

    async def set_alias(self, alias: str, target: str | None) -> SetAliasReply:
        """Have an alias stand for a model, or for a version (``NAME@3``), at once; None: for nothing.

        Raises AliasTaken, ModelNotFound, VersionNotFound and VersionGone.
        """
        return await self._ask("set_alias", SetAliasRequest(alias=alias, target=target), SetAliasReply)

    async def promote_alias(
        self,
        alias: str,
        target: str,
        *,
        canary_share: float = 0.0,
        gates: Gates | None = None,
        take_back: Sequence[TakeBackReason] = (),
        any_architecture: bool = False,
    ) -> PromoteAliasReply:
        """Promote a version to an alias. The old one serves until the new one is ready and meets the gates.

        ``canary_share``: which part of the requests the version gets meanwhile, from 0 to 1. ``take_back``:
        what takes it back by itself afterwards. Raises AliasNotFound, ModelNotFound, VersionNotFound,
        VersionGone, ArchitectureDiffers, NoChatTemplate, NotEnoughMemory, GatesContradict and
        PromotionRunning. To promote what serves already changes nothing: the reply has no ``promotion_id``.
        """
        request = PromoteAliasRequest(
            alias=alias,
            target=target,
            canary_share=canary_share,
            gates=gates,
            take_back=tuple(take_back),
            any_architecture=any_architecture,
        )
        return await self._ask("promote_alias", request, PromoteAliasReply)

    async def take_back_alias(self, alias: str) -> TakeBackAliasReply:
        """End the promotion that is under way, or take back what was promoted last.

        Raises AliasNotFound and NothingToTakeBack.
        """
        return await self._ask("take_back_alias", TakeBackAliasRequest(alias=alias), TakeBackAliasReply)
