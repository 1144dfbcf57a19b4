"""Upcasters: convert the body of an old event, version by version, to the newest version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import msgspec

from suite.messages.events import REGISTRY, Event, UnknownEvent

Body: TypeAlias = dict[str, Any]
Upcaster: TypeAlias = tuple[str, Callable[[Body], Body]]

UPCASTERS: Mapping[str, Upcaster] = {}
"""By old type name: the type name of the next version, and the function that converts a body to it."""


def decode_event(
    type_name: str,
    body: bytes,
    *,
    upcasters: Mapping[str, Upcaster] = UPCASTERS,
    registry: Mapping[str, type[Event]] = REGISTRY,
) -> Event:
    """Decode an event from its type name and JSON body, converted to its newest version.

    An unknown type gives an UnknownEvent, so that an older reader can read past the events of a newer writer.
    Raises msgspec.ValidationError for a body that does not match its type.
    """
    if type_name not in upcasters:
        kind = registry.get(type_name)
        return msgspec.json.decode(body, type=kind) if kind else UnknownEvent(body=body)
    fields: Body = msgspec.json.decode(body)
    while type_name in upcasters:
        type_name, lift = upcasters[type_name]
        fields = lift(fields)
    return msgspec.convert(fields, registry[type_name])
