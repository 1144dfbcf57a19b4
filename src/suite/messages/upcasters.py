"""Reading old events: each upcaster lifts the body of one version to the next, until it is the newest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from suite.messages.events import REGISTRY, Event, UnknownEvent

Body: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = tuple[str, Callable[[Body], Body]]

UPCASTERS: Mapping[str, Upcaster] = {}
"""From an old type name to the newer one and the function that lifts a body to it."""


def decode_event(
    type_name: str,
    body: bytes,
    *,
    upcasters: Mapping[str, Upcaster] = UPCASTERS,
    registry: Mapping[str, type[Event]] = REGISTRY,
) -> Event:
    """The event of this type name and JSON body, lifted to its newest version.

    A type that this version does not know comes back as an UnknownEvent, so that an older reader
    goes on past a newer writer. Raises msgspec.ValidationError for a body that is not of its type.
    """
    if type_name not in upcasters:
        kind = registry.get(type_name)
        return msgspec.json.decode(body, type=kind) if kind else UnknownEvent(body=body)
    fields: Body = msgspec.json.decode(body)
    while type_name in upcasters:
        type_name, lift = upcasters[type_name]
        fields = lift(fields)
    return msgspec.convert(fields, registry[type_name])
