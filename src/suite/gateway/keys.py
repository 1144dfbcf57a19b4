"""The keys that a gateway lets in: it follows the log, and knows what each may still use this minute."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import Final

from anyio.abc import TaskGroup
from starlette.datastructures import Headers

from suite.client import Client
from suite.domain.keys import (
    Keys,
    covers,
    identify,
    is_expired,
    require,
    require_admin,
    require_current,
    require_model,
    rights,
)
from suite.domain.rate_limit import Bucket
from suite.errors import ExpiredApiKey, InvalidApiKey, KeysMissing, RateLimited, SuiteError
from suite.gateway.access import Rights, endpoint_of
from suite.identity import Clock, Now
from suite.messages.envelope import Recorded
from suite.messages.events import Generated, KeyCreated, KeyRevoked

_KEYS: Final = "key"
_USES: Final = "usage.generated"


class KeyLimits:
    """What is left of the limits of one key. Times are those of the gateway's clock."""

    def __init__(self, key: KeyCreated, now: float) -> None:
        self.name = key.name
        self.requests = _bucket(key.requests_per_minute, now)
        self.tokens = _bucket(key.tokens_per_minute, now)

    def admit(self, now: float) -> None:
        """Count a request. Raises RateLimited, and counts nothing, if there is too little left."""
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None and (seconds := bucket.seconds_until(1, now)):
                raise RateLimited(
                    f"the key {self.name} may use {bucket.per_minute} {what} a minute, and has: "
                    f"try again in {seconds:.3g} s",
                    retry_after_ms=math.ceil(1000 * seconds),
                )
        if self.requests is not None:
            self.requests.take(1, now)

    def headers(self, now: float) -> dict[str, str]:
        """What there is and what is left, in the words of OpenAI's API."""
        found = {}
        for what, bucket in (("requests", self.requests), ("tokens", self.tokens)):
            if bucket is not None:
                found[f"x-ratelimit-limit-{what}"] = str(bucket.per_minute)
                found[f"x-ratelimit-remaining-{what}"] = str(bucket.remaining(now))
                found[f"x-ratelimit-reset-{what}"] = f"{bucket.seconds_until(bucket.per_minute, now):.3f}s"
        return found


class KeyRing:
    """Lets in whoever has a key, as far as that goes."""

    def __init__(self, *, now: Now, clock: Clock) -> None:
        self._keys = Keys()
        self._limits: dict[str, KeyLimits] = {}
        self._now, self._clock = now, clock

    # --- the log ------------------------------------------------------------------------------------------

    async def follow(self, client: Client, tasks: TaskGroup) -> None:
        """Read which keys there are, and from then on take up every change and every use in the background.

        Raises KeysMissing if there is none that may be used, and what reading the log raises.
        """
        last_seq = await client.last_seq()
        async with aclosing(client.events(_KEYS)) as events:
            async for event in events:
                self._apply(event)
        if all(is_expired(key, self._now()) for key in self._keys):
            raise KeysMissing(
                "a gateway that others can reach needs keys, and there are none: make one with "
                "`suite keys create NAME`, or listen on 127.0.0.1"
            )
        for filter in (_KEYS, _USES):
            tasks.start_soon(self._follow, client, filter, last_seq)

    async def _follow(self, client: Client, filter: str, after: int) -> None:
        async with aclosing(client.events(filter, after=after, follow=True)) as events:
            async for event in events:
                self._apply(event)

    def _apply(self, event: Recorded) -> None:
        match event.data:
            case Generated(requester=str() as requester) as use:
                self.charge(requester, use.prompt_tokens + use.completion_tokens)
            case KeyRevoked() as end:
                self._keys.apply(end)
                self._limits.pop(end.key_id, None)
            case fact:
                self._keys.apply(fact)

    # --- Access -------------------------------------------------------------------------------------------

    def identify(self, headers: Headers) -> str:
        """The id of the key of a request. Raises InvalidApiKey, ExpiredApiKey."""
        refused: SuiteError | None = None
        for secret in _secrets(headers):
            try:
                return identify(self._keys, secret, self._now()).key_id
            except (InvalidApiKey, ExpiredApiKey) as error:
                refused = refused or error
        assert refused is not None
        raise refused

    def admit(self, requester: str | None, path: str) -> None:
        """Count a request for this path. Raises KeyNotPermitted, RateLimited."""
        key = self._key(requester)
        require(key, endpoint_of(path))
        self._limits_of(key).admit(self._clock())

    def check_model(self, requester: str | None, model: str) -> None:
        """Raises KeyNotPermitted if the key may not use the model."""
        require_model(self._key(requester), model)

    def check_admin(self, requester: str | None, wish: str) -> None:
        """Raises KeyNotPermitted if the key is not for admins."""
        require_admin(self._key(requester), wish)

    def shows(self, requester: str | None, model: str) -> bool:
        """Whether the key may use the model."""
        return covers(self._key(requester), model)

    def rights(self, requester: str | None) -> Rights:
        """What the key may do. Raises InvalidApiKey, ExpiredApiKey."""
        key = self._key(requester)
        require_current(key, self._now())
        return Rights(key=key.name, endpoints=rights(key), expires_at=key.expires_at)

    def limits(self, requester: str | None) -> Mapping[str, str]:
        """What is left of the limits of a key."""
        key = self._keys.with_id(requester or "")
        return {} if key is None else self._limits_of(key).headers(self._clock())

    def charge(self, requester: str | None, tokens: int) -> None:
        """Count tokens that a key has used."""
        key = self._keys.with_id(requester or "")
        if key is not None and (bucket := self._limits_of(key).tokens) is not None:
            bucket.take(tokens, self._clock())

    def _key(self, requester: str | None) -> KeyCreated:
        """The key that a request was sent with. Raises InvalidApiKey if it was revoked meanwhile."""
        if (key := self._keys.with_id(requester or "")) is None:
            raise InvalidApiKey("this key was revoked: `suite keys create` makes one")
        return key

    def _limits_of(self, key: KeyCreated) -> KeyLimits:
        if key.key_id not in self._limits:
            self._limits[key.key_id] = KeyLimits(key, self._clock())
        return self._limits[key.key_id]


def _bucket(per_minute: int | None, now: float) -> Bucket | None:
    return None if per_minute is None else Bucket(per_minute, now)


def _secrets(headers: Headers) -> Sequence[str | None]:
    """The keys that a request has: as OpenAI's API takes it, and as Anthropic's does. None: it has none.

    Programs may send both, one of which they were not told to send: it is that of another service.
    """
    scheme, _, secret = headers.get("authorization", "").partition(" ")
    found = (secret.strip() if scheme.lower() == "bearer" else None, headers.get("x-api-key"))
    return [each for each in found if each is not None] or [None]
