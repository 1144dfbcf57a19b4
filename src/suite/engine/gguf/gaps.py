"""Finds what was never written in a file whose size was set before its content came.

Downloads often do this: the size is right, and what has not come yet reads as zeros. No single zero proves
anything: models have rows of zeros for tokens that do not exist, biases of zeros, and copies of them may have
holes there instead. So a file counts as unfinished only if

- the last tensors, 64 KiB of them or more, are nothing but zeros: files are written from front to back, and
  no model ends so;
- the file system says that 1 MiB or more of one tensor was never written, or, of a vocabulary, over half;
  a bias may be all zeros.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

from suite.engine.gguf.header import Header, Tensor

TAIL_BYTES: Final = 64 << 10
HOLE_BYTES: Final = 1 << 20
_VOCABULARIES: Final = ("token_embd.weight", "output.weight", "per_layer_token_embd.weight")
_BIAS: Final = ".bias"
_SAMPLES: Final = 16
_SAMPLE_BYTES: Final = 4096
_MAX_HOLES: Final = 1000


def find_gap(file: BinaryIO, header: Header) -> str | None:
    """Say which part of the tensors' data was never written; None if all seems to be there.

    Reads a few blocks, in most files one. Raises OSError.
    """
    if not header.tensors:
        return None
    descriptor = file.fileno()
    if _ends_in_zeros(descriptor, header):
        return "its end was not written yet, there are only zeros"
    end = header.data_offset + header.tensors[-1].offset + header.tensors[-1].bytes
    holes = list(_holes(descriptor, header.data_offset, end))
    for tensor in header.tensors if holes else ():
        if _is_missing(tensor, holes, header.data_offset):
            return (
                f"a part of tensor {tensor.name!r} was not written yet; "
                "if it is whole, copy it with `cp --sparse=never`"
            )
    return None


def _ends_in_zeros(descriptor: int, header: Header) -> bool:
    size = 0
    for tensor in reversed(header.tensors):
        if not _is_zero(descriptor, header.data_offset + tensor.offset, tensor.bytes):
            return False
        size += tensor.bytes
        if size >= TAIL_BYTES and not tensor.name.endswith(_BIAS):
            return True
    return False


def _is_zero(descriptor: int, start: int, size: int) -> bool:
    """Whether samples from all over the range are zeros; of a small one, whether all of it is."""
    last = max(0, size - _SAMPLE_BYTES)
    count = min(_SAMPLES, -(-size // _SAMPLE_BYTES))
    offsets = [last * sample // max(1, count - 1) for sample in range(count)]
    return not any(
        any(os.pread(descriptor, min(_SAMPLE_BYTES, size - offset), start + offset)) for offset in offsets
    )


def _is_missing(tensor: Tensor, holes: Iterable[range], data_offset: int) -> bool:
    """Whether more of a tensor is holes than zeros can explain."""
    if tensor.name.endswith(_BIAS):
        return False
    start = data_offset + tensor.offset
    end = start + tensor.bytes
    missing = sum(max(0, min(hole.stop, end) - max(hole.start, start)) for hole in holes)
    return missing >= (max(HOLE_BYTES, tensor.bytes // 2) if tensor.name in _VOCABULARIES else HOLE_BYTES)


def _holes(descriptor: int, start: int, end: int) -> Iterator[range]:
    """What was never written between two offsets, as far as the file system tells.

    What was allocated and read meanwhile may count as written, so a hole can be in pieces.
    """
    position = start
    for _ in range(_MAX_HOLES):
        try:
            hole = os.lseek(descriptor, position, os.SEEK_HOLE)
        except OSError:
            return  # this file system does not tell
        if hole >= end:
            return
        try:
            position = os.lseek(descriptor, hole, os.SEEK_DATA)
        except OSError:
            position = end  # nothing comes after it
        yield range(hole, position)
