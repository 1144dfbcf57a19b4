"""The client's methods for the keys of the gateway. They need the role operator."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from suite.client.asking import Asking
from suite.messages.actions.base import Moment
from suite.messages.actions.keys import (
    CreateKeyReply,
    CreateKeyRequest,
    KeyInfo,
    ListKeysReply,
    ListKeysRequest,
    RevokeKeyReply,
    RevokeKeyRequest,
)
from suite.messages.events import KeyEndpoint


class GatewayKeys(Asking):
    """The actions for keys, with which programs use the gateway."""

    async def create_key(
        self,
        name: str,
        *,
        models: Sequence[str] | None = None,
        endpoints: Sequence[KeyEndpoint] | None = None,
        requests_per_minute: int | None = None,
        tokens_per_minute: int | None = None,
        expires_at: Moment | None = None,
    ) -> CreateKeyReply:
        """Make a key. The reply has its secret, which nobody can show again.

        ``models`` are patterns such as ``smollm*``; None: all models. ``endpoints`` None: all but ``view``
        and ``admin``. Raises KeyExists.
        """
        request = CreateKeyRequest(
            name=name,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            expires_at=expires_at,
        )
        if models is not None:
            request = msgspec.structs.replace(request, models=tuple(models))
        if endpoints is not None:
            request = msgspec.structs.replace(request, endpoints=tuple(endpoints))
        return await self._ask("create_key", request, CreateKeyReply)

    async def list_keys(self) -> ListKeysReply:
        """List all keys by name, in as many requests as their number takes."""
        keys: list[KeyInfo] = []
        page = await self._ask("list_keys", ListKeysRequest(), ListKeysReply)
        while page.next_cursor is not None:
            keys += page.keys
            page = await self._ask("list_keys", ListKeysRequest(cursor=page.next_cursor), ListKeysReply)
        return msgspec.structs.replace(page, keys=(*keys, *page.keys))

    async def revoke_key(self, name: str) -> RevokeKeyReply:
        """Revoke the key of this name, or with this id. Raises KeyNotFound."""
        return await self._ask("revoke_key", RevokeKeyRequest(name=name), RevokeKeyReply)
