"""Which process spans and metrics come from."""

from __future__ import annotations

import os
import uuid
from typing import TYPE_CHECKING, Final

from suite.identity import new_id
from suite.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

NAMESPACE: Final = "suite"
_INSTANCES: Final = uuid.UUID("0f5c1a86-5f0e-4b63-9c0d-6d4f1f6f3c52")
"""The namespace of the ids of instances."""
_NEW_INSTANCE: Final = new_id()
"""Of this process, so that what it traces and what it measures are told to be of the same."""


def resource(*, node: str, process: str, place: str | None = None) -> Resource:
    """The resource of this process: a kind of service (``suite-node``), and which of its instances it is.

    ``process`` begins with its kind: ``node``, ``gateway``, ``model tiny``. ``place`` tells it from others of
    its kind on the node, and stays when it starts again, so that its metrics go on in the same series: a data
    directory, an address. None: it is another instance at each start. ``OTEL_SERVICE_NAME`` and
    ``OTEL_RESOURCE_ATTRIBUTES`` have the last word.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    kind = process.partition(" ")[0]
    ours: dict[str, str | int] = {
        "service.namespace": NAMESPACE,
        "service.name": f"{NAMESPACE}-{kind}",
        "service.version": __version__,
        "service.instance.id": _NEW_INSTANCE if place is None else _instance(node, process, place),
        "process.pid": os.getpid(),
        "suite.node.name": node,
        "suite.process": process,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())


def _instance(*names: str) -> str:
    return str(uuid.uuid5(_INSTANCES, "\n".join(names)))
