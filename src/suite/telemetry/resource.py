"""Which process spans and metrics come from."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from suite.identity import new_id
from suite.version import __version__

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource

NAMESPACE: Final = "suite"
_INSTANCE_ID: Final = new_id()
"""Of this process, so that what it traces and what it measures are told to be of the same."""


def resource(*, node: str, process: str) -> Resource:
    """The resource of this process: a kind of service (``suite-node``), and which of its instances it is.

    ``process`` begins with its kind: ``node``, ``gateway``, ``model tiny``. ``OTEL_SERVICE_NAME`` and
    ``OTEL_RESOURCE_ATTRIBUTES`` have the last word.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource

    kind = process.partition(" ")[0]
    ours: dict[str, str | int] = {
        "service.namespace": NAMESPACE,
        "service.name": f"{NAMESPACE}-{kind}",
        "service.version": __version__,
        "service.instance.id": _INSTANCE_ID,
        "process.pid": os.getpid(),
        "suite.node.name": node,
        "suite.process": process,
    }
    return Resource.create(ours).merge(OTELResourceDetector().detect())
