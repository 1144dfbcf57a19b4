"""Splits the URL of a NATS server from the credentials in it."""

from __future__ import annotations

from typing import Final
from urllib.parse import SplitResult, unquote, urlsplit

from suite.errors import InvalidConfiguration

_SCHEMES: Final = ("nats", "tls", "ws", "wss")


def split_url(url: str) -> tuple[str, str | None, str | None]:
    """Split a NATS URL into the URL without credentials, the user and the password.

    Of several servers, separated by commas, the first that has credentials gives them.
    Raises InvalidConfiguration for what is no address.
    """
    bare: list[str] = []
    user = password = None
    for each in url.split(","):
        try:
            parts = urlsplit(each if "://" in each else f"nats://{each}")
            name, word = parts.username, parts.password
            _check(parts)
        except ValueError as error:  # it may name the credentials: what stands in it is not repeated
            raise InvalidConfiguration(
                f"this is no address of NATS such as nats://127.0.0.1:4222 ({type(error).__name__})"
            ) from None
        bare.append(parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl())
        if name and user is None:
            user, password = unquote(name), unquote(word or "")
    return ",".join(bare), user, password


def _check(parts: SplitResult) -> None:
    """Raises ValueError for an address that NATS clients cannot use."""
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError
    _ = parts.port  # raises for what is no port
