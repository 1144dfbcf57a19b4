"""Whether llama.cpp's multimodal library is there. It loads nothing, so a node may ask."""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path
from typing import Final

_LIBRARY: Final = "libmtmd.dylib" if sys.platform == "darwin" else "libmtmd.so"


@cache
def why_missing() -> str | None:
    """Why there is no multimodal library in this environment; None: there is one."""
    spec = importlib.util.find_spec("llama_cpp")
    folders = None if spec is None else spec.submodule_search_locations
    if any(Path(folder, "lib", _LIBRARY).exists() for folder in folders or ()):
        return None
    return (
        "llama-cpp-python was compiled without llama.cpp's multimodal library: compile it again, without "
        "LLAVA_BUILD=OFF in CMAKE_ARGS"
    )
