"""llama.cpp's C API, with its log reduced to warnings and errors.

`import llama_cpp` also imports its high-level API with numpy and jinja2, which takes three quarters of the
import time and is not used here. So this module imports the C API alone::

    from suite.engine.bindings import lib
    lib.llama_backend_init()
"""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import logging
import sys
from collections import deque
from typing import TYPE_CHECKING

from suite.engine.buffers import Buffers

if TYPE_CHECKING:
    from types import ModuleType

    from suite.messages.actor import Buffer

__all__ = ["buffers", "import_quietly", "last_messages", "lib", "messages"]

_log = logging.getLogger("suite.llama")

_INFO, _WARNING, _ERROR, _CONTINUED = 2, 3, 4, 5  # of enum ggml_log_level
# Its warnings are about the contents of files, at each load, and call for nothing.
_LEVELS = {_WARNING: logging.DEBUG, _ERROR: logging.ERROR}


def import_quietly(module: str) -> ModuleType:
    """Import a module of llama_cpp, without what the package itself imports."""
    if "llama_cpp" in sys.modules:
        return importlib.import_module(module)
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None:
        raise ModuleNotFoundError("llama-cpp-python is not installed")
    # A package that is never executed, for as long as its submodule is imported from it.
    sys.modules["llama_cpp"] = importlib.util.module_from_spec(spec)
    try:
        return importlib.import_module(module)
    finally:
        del sys.modules["llama_cpp"]


if TYPE_CHECKING:
    from llama_cpp import llama_cpp as lib
else:
    lib = import_quietly("llama_cpp.llama_cpp")


class _Messages:
    """Passes llama.cpp's warnings and errors to logging, and keeps the last ones to explain a failed load."""

    def __init__(self) -> None:
        self.last: deque[str] = deque(maxlen=8)
        self.buffers = Buffers()
        self._level = 0
        # llama.cpp calls this for as long as the process lives, so the reference is kept here.
        self.callback = lib.llama_log_callback(self._take)
        lib.llama_log_set(self.callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes | None, _user_data: object) -> None:
        if level != _CONTINUED:
            self._level = level
        if self._level == _INFO and text and b"buffer size" in text:
            self.buffers.take(text.decode("utf-8", "replace"))
        severity = _LEVELS.get(self._level)
        if severity is None or not text:
            return
        line = text.decode("utf-8", "replace").strip()
        if line.strip("."):
            self.last.append(line)
            _log.log(severity, "%s", line)


messages = _Messages()


def last_messages() -> str:
    """Return llama.cpp's last warnings and errors in one line, and forget them."""
    text = "; ".join(messages.last)
    messages.last.clear()
    return text


def buffers() -> tuple[Buffer, ...]:
    """What llama.cpp has allocated in this process so far, as far as it has said so."""
    return messages.buffers.all()
