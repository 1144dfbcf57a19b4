"""Folders of other programs, as these lay them out on disk."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

OLLAMA_LAYER = "application/vnd.ollama.image."


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class HuggingFaceHub:
    """A cache of huggingface_hub: what is written lands in blobs, with links from snapshots."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def repository(self, name: str) -> Path:
        return self.directory / f"models--{name.replace('/', '--')}"

    def add(self, name: str, revision: str, file: str, content: bytes, *, current: bool = True) -> Path:
        """Add a file of a repository at a revision; its path in the snapshot."""
        home = self.repository(name)
        blob = home / "blobs" / sha256(content)
        link = home / "snapshots" / revision / file
        link.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link.symlink_to(os.path.relpath(blob, link.parent))
        if current:
            (home / "refs").mkdir(exist_ok=True)
            (home / "refs" / "main").write_text(revision)
        return link


class Ollama:
    """An Ollama store: a manifest a model, whose layers are blobs."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "manifests").mkdir(parents=True)
        (directory / "blobs").mkdir()

    def blob(self, content: bytes) -> Path:
        path = self.directory / "blobs" / f"sha256-{sha256(content)}"
        path.write_bytes(content)
        return path

    def add(
        self,
        name: str,
        content: bytes | None,
        *,
        parameters: Mapping[str, Any] | None = None,
        system: str | None = None,
        others: Mapping[str, bytes] | None = None,
    ) -> Path:
        """Add a model under a whole name such as ``registry.ollama.ai/library/llama3.2/1b``; its manifest."""
        layers = {} if content is None else {"model": content}
        if parameters is not None:
            layers["params"] = json.dumps(parameters).encode()
        if system is not None:
            layers["system"] = system.encode()
        layers |= others or {}
        document = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": {
                "mediaType": "application/vnd.docker.container.image.v1+json",
                "digest": f"sha256:{sha256(b'{}')}",
                "size": 2,
            },
            "layers": [self._layer(kind, layer) for kind, layer in layers.items()],
        }
        self.blob(b"{}")
        manifest = self.directory / "manifests" / name
        manifest.parent.mkdir(parents=True, exist_ok=True)
        manifest.write_text(json.dumps(document))
        return manifest

    def _layer(self, kind: str, content: bytes) -> dict[str, Any]:
        self.blob(content)
        return {
            "mediaType": f"{OLLAMA_LAYER}{kind}",
            "digest": f"sha256:{sha256(content)}",
            "size": len(content),
        }


def tree(directory: Path) -> dict[str, tuple[int, int, int]]:
    """Everything below a folder, with what a write would change: mode, size, time of change."""
    found = {}
    for folder, names, files in os.walk(directory):
        for path in (Path(folder), *(Path(folder, name) for name in (*names, *files))):
            status = path.lstat()
            found[str(path)] = (status.st_mode, status.st_size, status.st_mtime_ns)
    return found


@contextmanager
def unwritable(directory: Path) -> Iterator[None]:
    """The folder and all below it at modes that allow nobody to write, until the block is left."""
    folders = [Path(folder) for folder, _, _ in os.walk(directory)]
    files = [Path(folder, name) for folder, _, names in os.walk(directory) for name in names]
    for path in files:
        path.chmod(0o444)
    for path in folders:
        path.chmod(0o555)
    try:
        yield
    finally:
        for path in folders:
            path.chmod(0o755)
