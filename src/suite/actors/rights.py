"""What a model's process needs of the system, and nothing else (ADR 68)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import urlsplit

from suite.confinement import gpus
from suite.confinement.confinement import Limits, Rights
from suite.engine.snapshots.folder import make_private
from suite.messages.actor import ActorSpec

_NATS_PORTS: Final = {"ws": 80, "wss": 443}
_NATS_PORT: Final = 4222
_COLLECTOR_PORTS: Final = {"http": 80, "https": 443}
_COLLECTORS: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "http_proxy",
    "https_proxy",
)
_DEFAULT_COLLECTORS: Final = ("http://localhost:4318", "http://localhost:4317")
_CERTIFICATES: Final = (
    "OTEL_EXPORTER_OTLP_CERTIFICATE",
    "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE",
)


class _Peer(NamedTuple):
    """A server that the process connects to."""

    host: str
    port: int

    @property
    def is_name(self) -> bool:
        """Whether its address has to be asked for."""
        try:
            ip_address(self.host)
        except ValueError:
            return self.host != "localhost"  # which /etc/hosts has
        return False

    @property
    def is_multicast_name(self) -> bool:
        """Whether it is a name of mDNS, for which a service of this machine is asked."""
        return self.host.endswith(".local")


def rights(spec: ActorSpec, *, memory_bytes: int, environ: Mapping[str, str] = os.environ) -> Rights:
    """The rights of the process of this model, whose directories are there (`make_directories`)."""
    uses_gpus = bool(gpus.devices())
    exports = spec.tracing.mode == "otlp"
    peers = [*_nats(spec), *(_collectors(environ) if exports else ())]
    return Rights(
        read=(*map(Path, _read(spec, environ)), *_given(spec)),
        write=tuple(_written(spec)),
        ports=tuple({peer.port for peer in peers}),
        # gRPC sorts addresses as if it sent them something.
        resolves_names=exports or any(peer.is_name for peer in peers),
        local_sockets=uses_gpus or any(peer.is_multicast_name for peer in peers),
        starts="programs",  # those that render templates and follow grammars
        uses_gpus=uses_gpus,
        limits=Limits(memory_bytes=memory_bytes, file_bytes=_file_bytes(spec)),
        hides_memory=True,
    )


def _read(spec: ActorSpec, environ: Mapping[str, str]) -> Iterator[str]:
    yield from (spec.model_path, *spec.model_files.paths)
    if spec.draft is not None:
        yield from (spec.draft.model_path, *spec.draft.paths)
    named = (spec.projector, spec.chat_template, spec.nats.ca_file, spec.nats.credentials_file)
    yield from filter(None, (*named, *map(environ.get, _CERTIFICATES)))


def make_directories(spec: ActorSpec) -> None:
    """Make the directories that it uses, for its user alone: confined, it cannot change their modes."""
    for directory in (*_written(spec), *_given(spec)):
        with suppress(OSError):  # it is told when something is written
            make_private(directory)
            for folder, _, _ in os.walk(directory):
                make_private(Path(folder))


def _given(spec: ActorSpec) -> Iterator[Path]:
    """The directory in which its node puts adapters later."""
    if spec.adapters is not None:
        yield Path(spec.adapters)


def _written(spec: ActorSpec) -> Iterator[Path]:
    """The directories of its snapshots and of spans."""
    snapshots = None if spec.snapshots is None else spec.snapshots.directory
    spans = None if spec.tracing.mode == "off" else spec.tracing.store
    yield from map(Path, filter(None, (snapshots, spans)))


def _file_bytes(spec: ActorSpec) -> int:
    """The most that a file of it takes."""
    snapshots = 0 if spec.snapshots is None else spec.snapshots.disk_bytes
    return max(snapshots, spec.tracing.store_bytes)


def _nats(spec: ActorSpec) -> Iterator[_Peer]:
    for url in spec.nats.url.split(","):
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        yield _Peer(parts.hostname or "", parts.port or _NATS_PORTS.get(parts.scheme, _NATS_PORT))


def _collectors(environ: Mapping[str, str]) -> Iterator[_Peer]:
    """Where spans may go: to the collector that the variables name, or one of this machine."""
    named = (environ.get(name, "") for name in _COLLECTORS)
    for url in (*filter(None, named), *_DEFAULT_COLLECTORS):
        with suppress(ValueError):  # the exporter says so
            parts = urlsplit(url if "://" in url else f"http://{url}")
            yield _Peer(parts.hostname or "", parts.port or _COLLECTOR_PORTS.get(parts.scheme, 80))
