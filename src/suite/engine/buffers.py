"""What llama.cpp allocates for a model, read from its messages while it loads.

No function of its C API tells the sizes of its buffers, but each is announced in one line::

    load_tensors:   CPU_Mapped model buffer size =    92.10 MiB
    llama_kv_cache:        CPU KV buffer size =    90.00 MiB
    sched_reserve:        CPU compute buffer size =    98.25 MiB

A version that words them otherwise is one whose buffers are not known.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from suite.messages.actor import Buffer, BufferPart

_LINE: Final = re.compile(r"(\w+): +(\S+) +(model|KV|RS|compute|output) buffer size = +([\d.]+) MiB")
_PARTS: Final[Mapping[str, BufferPart]] = {
    "model": "weights",
    "KV": "kv",
    "RS": "kv",
    "compute": "compute",
    "output": "compute",
}
_MIB: Final = 1 << 20


class Buffers:
    """The buffers that were announced so far."""

    def __init__(self) -> None:
        self._found: list[Buffer] = []
        self._replaced: dict[tuple[str, str], Buffer] = {}
        """Those that are allocated anew when they must be larger, by device and name."""

    def take(self, line: str) -> None:
        """Note what a line announces, if it announces a buffer."""
        found = _LINE.match(line)
        if found is None:
            return
        _, device, name, mebibytes = found.groups()
        buffer = Buffer(device=device, part=_PARTS[name], bytes=int(float(mebibytes) * _MIB))
        if buffer.part == "compute":
            self._replaced[device, name] = buffer
        else:
            self._found.append(buffer)

    def all(self) -> tuple[Buffer, ...]:
        """Every buffer that there is now."""
        return (*self._found, *self._replaced.values())
