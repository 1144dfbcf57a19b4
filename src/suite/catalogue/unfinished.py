"""The names that programs give to downloads that are not finished."""

from __future__ import annotations

import re
from typing import Final

_CONTROL_SUFFIX: Final = ".aria2"
_UNFINISHED: Final = re.compile(
    r"(?P<target>.+\.gguf)(?:\.[^.]+)?\.(?:part|partial|incomplete|crdownload|download|tmp|aria2)",
    re.IGNORECASE | re.DOTALL,
)


def target_of(file_name: str) -> str | None:
    """The name that an unfinished download will have: ``m.gguf`` of ``m.gguf.part``; None for any other."""
    match = _UNFINISHED.fullmatch(file_name)
    return match["target"] if match else None


def is_control_file(file_name: str) -> bool:
    """Whether it lies beside the file that is being downloaded, which has its final name and size already."""
    return file_name.lower().endswith(_CONTROL_SUFFIX)
