"""Checks what the environment says of the hub, before the library reads it and fails."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

from suite.errors import InvalidConfiguration


def check_environment(environ: Mapping[str, str]) -> None:
    """Raises InvalidConfiguration for an HF_ENDPOINT that is no address."""
    endpoint = environ.get("HF_ENDPOINT", "")
    if endpoint and not _is_address(endpoint):
        raise InvalidConfiguration(
            "HF_ENDPOINT is not the address of a hub: set one such as https://huggingface.co, or unset it"
        )


def _is_address(text: str) -> bool:
    try:
        address = urlsplit(text)
        return address.scheme in ("http", "https") and bool(address.hostname) and address.port != 0
    except ValueError:
        return False
