"""A table of GPUs in the place of NVIDIA's driver: what a process reads that imports `pynvml`.

No machine with a GPU is at hand, so it also answers for llama.cpp that it can use them. The table is a file,
so that a test changes what other programs use.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_MODULE = """
import json, pathlib
from types import SimpleNamespace
import suite.gpus

suite.gpus.llama_cpp_offloads = lambda: True

class NVMLError(Exception): pass

def _table(): return json.loads(pathlib.Path(__file__).with_name("gpus.json").read_text())
def nvmlInit(): pass
def nvmlDeviceGetCount(): return len(_table())
def nvmlDeviceGetHandleByIndex(index): return index
def nvmlDeviceGetName(handle): return "Recorded"
def nvmlDeviceGetMemoryInfo(handle): return SimpleNamespace(**_table()[handle])
def nvmlDeviceGetComputeRunningProcesses(handle): return []
"""


class GpuTable:
    """GPUs of these sizes, in bytes, in a directory of their own."""

    def __init__(self, directory: Path, *totals: int) -> None:
        directory.mkdir()
        (directory / "pynvml.py").write_text(_MODULE)
        self._directory = directory
        self._totals = totals
        self.used_by_others(*(0 for _ in totals))

    @property
    def environ(self) -> dict[str, str]:
        """Has a process find them."""
        paths = [str(self._directory), os.environ.get("PYTHONPATH", "")]
        return {"PYTHONPATH": os.pathsep.join(filter(None, paths))}

    def used_by_others(self, *used: int) -> None:
        """Have other programs use so many bytes of each GPU."""
        table = [{"total": total, "used": each} for total, each in zip(self._totals, used, strict=True)]
        written = self._directory / "gpus.tmp"
        written.write_text(json.dumps(table))
        written.replace(self._directory / "gpus.json")
