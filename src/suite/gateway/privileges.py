"""What requests may ask for that changes things for all: a key needs the right of an admin for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from msgspec import Raw

_SOON_SECONDS: Final = 1.0
"""A model that is to stay for less is unloaded as soon as nobody uses it."""


def privilege_of(fields: Mapping[str, object]) -> str | None:
    """What of the fields of a request for the service is for admins; None: nothing.

    The service checks the fields later, so they may be wrong here.
    """
    keep_alive = fields.get("keep_alive")
    if isinstance(keep_alive, Raw):
        keep_alive = msgspec.json.decode(keep_alive)
    if keep_alive == "forever":
        return "have a model stay loaded forever"
    if keep_alive == "now" or (isinstance(keep_alive, int | float) and keep_alive < _SOON_SECONDS):
        return "unload a model"
    priority = fields.get("priority")
    if isinstance(priority, int | float) and priority > 0:
        return "be served before others (priority over 0)"
    return None
