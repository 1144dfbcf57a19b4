"""llama.cpp's multimodal library (libmtmd), with its log reduced as that of llama.cpp itself.

It is imported with the first projector. llama-cpp-python may have been compiled without it, as
`suite.engine.pictures.availability` says.
"""

from __future__ import annotations

from ctypes import c_void_p
from functools import cache
from typing import TYPE_CHECKING

from suite.engine.bindings import import_quietly, messages

if TYPE_CHECKING:
    from types import ModuleType


@cache
def load() -> ModuleType:
    """Import the library. Raises OSError or ImportError where it cannot be loaded."""
    lib = import_quietly("llama_cpp.mtmd_cpp")
    lib.mtmd_log_set(messages.callback, c_void_p(0))
    lib.mtmd_helper_log_set(messages.callback, c_void_p(0))
    return lib
