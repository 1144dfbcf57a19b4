"""Whom the gateway refuses, and its keys."""

from __future__ import annotations

from suite.errors.base import RETRY_AFTER_MS, SuiteError


class UnknownPath(SuiteError):
    """There is nothing under this path: /openapi.json lists what there is."""

    code = "unknown_path"
    status = 404


class WrongMethod(SuiteError):
    """This path takes another method: /openapi.json says which."""

    code = "method_not_allowed"
    status = 405


class InvalidApiKey(SuiteError):
    """The gateway does not know this key, or none was sent: `suite keys create` makes one."""

    code = "invalid_api_key"
    status = 401


class ExpiredApiKey(SuiteError):
    """The time of this key is over: `suite keys create` makes another one."""

    code = "expired_api_key"
    status = 401


class KeyNotPermitted(SuiteError):
    """This key may not do that: the message says what it may."""

    code = "key_not_permitted"
    status = 403


class RateLimited(SuiteError):
    """This key has used what it may use in a minute: try again when the message says."""

    code = "rate_limit_exceeded"
    status = 429

    def __init__(self, message: str | None = None, *, retry_after_ms: int = RETRY_AFTER_MS) -> None:
        super().__init__(message)
        self.retry_after_ms = retry_after_ms
        """When a request is let through again."""


class KeyExists(SuiteError):
    """There is a key of this name already: choose another name, or revoke it first."""

    code = "key_exists"
    status = 409


class KeyNotFound(SuiteError):
    """There is no key of this name: `suite keys` lists those there are."""

    code = "key_not_found"
    status = 404


class KeysMissing(SuiteError):
    """A gateway that others can reach needs keys: `suite keys create NAME` makes one."""

    code = "keys_missing"
    status = 409


class HostNotAllowed(SuiteError):
    """The request names another host than this one: call the gateway by its address, or use keys."""

    code = "host_not_allowed"
    status = 403


class OriginNotAllowed(SuiteError):
    """A page of this origin may not use the gateway: allow it with --cors-origin."""

    code = "origin_not_allowed"
    status = 403


class SlowRequest(SuiteError):
    """The request did not come in time: send it without pauses."""

    code = "slow_request"
    status = 408
