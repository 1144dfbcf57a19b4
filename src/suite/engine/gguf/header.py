"""The header of a GGUF file, read within limits: key values and where each tensor lies, not the tensors.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. What llama.cpp refuses is refused
here too, and so is what would make a reader allocate or count without end. Nothing is trusted: each count is
checked against the bytes left in the file before anything is read or kept.
"""

from __future__ import annotations

import math
import struct
from enum import IntEnum
from typing import BinaryIO, NamedTuple, TypeAlias

from suite.engine.gguf.ggml import REMOVED_TENSOR_TYPES, TENSOR_TYPES, TensorType

MAX_HEADER_BYTES = 512 << 20
"""The largest header; that of a vocabulary of 262,144 tokens has 7 MB."""
MAX_KEPT_BYTES = 64 << 20
MAX_KEYS = MAX_TENSORS = 1 << 16
MAX_KEY_BYTES = (1 << 16) - 1
MAX_TEXT_BYTES = 1 << 20
"""The longest text that is kept, such as a chat template; a longer one is skipped."""
MAX_STRINGS = 1 << 23
"""The most strings in all arrays of the file together."""
MAX_KEPT_ELEMENTS = 1024
"""The longest array that is kept, such as head counts by layer; of a longer one only the length is kept."""
MAX_TENSOR_NAME_BYTES = 63
MAX_DIMENSIONS = 4
MAX_SIZE = (1 << 63) - 1

_DEFAULT_ALIGNMENT = 32
_WINDOW_BYTES = 1 << 18
_MAGIC = b"GGUF"
_VERSIONS = (2, 3)


class Malformed(ValueError):
    """The file is not a valid model file; the message says where and why."""


class Truncated(Malformed):
    """The file ends, or is empty, where more should come: it may be on its way."""


class Kind(IntEnum):
    """The types of values in the header."""

    UINT8 = 0
    INT8 = 1
    UINT16 = 2
    INT16 = 3
    UINT32 = 4
    INT32 = 5
    FLOAT32 = 6
    BOOL = 7
    STRING = 8
    ARRAY = 9
    UINT64 = 10
    INT64 = 11
    FLOAT64 = 12


_FORMATS = {
    Kind.UINT8: struct.Struct("<B"),
    Kind.INT8: struct.Struct("<b"),
    Kind.UINT16: struct.Struct("<H"),
    Kind.INT16: struct.Struct("<h"),
    Kind.UINT32: struct.Struct("<I"),
    Kind.INT32: struct.Struct("<i"),
    Kind.FLOAT32: struct.Struct("<f"),
    Kind.BOOL: struct.Struct("<?"),
    Kind.UINT64: struct.Struct("<Q"),
    Kind.INT64: struct.Struct("<q"),
    Kind.FLOAT64: struct.Struct("<d"),
}
_LENGTH = _FORMATS[Kind.UINT64]


class Array(NamedTuple):
    """An array; `values` is None for texts, and for more elements than are kept."""

    kind: Kind
    length: int
    values: tuple[int | float | bool, ...] | None


class SkippedText(NamedTuple):
    """A text that was too long to keep."""

    bytes: int


Value: TypeAlias = int | float | bool | str | Array | SkippedText


class Tensor(NamedTuple):
    """One tensor: its type, dimensions, offset within the data section, and size in bytes."""

    name: str
    type: TensorType
    dimensions: tuple[int, ...]
    offset: int
    bytes: int

    @property
    def elements(self) -> int:
        """The number of its values."""
        return math.prod(self.dimensions)


class Header(NamedTuple):
    """Everything in a GGUF file before the tensors' data."""

    version: int
    values: dict[str, Value]
    tensors: tuple[Tensor, ...]
    data_offset: int


def read_header(file: BinaryIO, size: int) -> Header:
    """Read the header of an open file of `size` bytes. Raises Malformed, or OSError when reading fails."""
    return _HeaderReader(file, size).read()


class _HeaderReader:
    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file = file
        self._size = size
        self._position = 0
        self._kept = 0
        self._strings = 0

    def read(self) -> Header:
        version = self._version()
        tensor_count = self._count("tensors", MAX_TENSORS, least_bytes=24)
        key_count = self._count("key values", MAX_KEYS, least_bytes=13)
        values: dict[str, Value] = {}
        for _ in range(key_count):
            key = self._text("a key", MAX_KEY_BYTES)
            if key in values:
                raise Malformed(f"the key {key!r} occurs twice")
            values[key] = self._value(key)
        alignment = values.get("general.alignment", _DEFAULT_ALIGNMENT)
        if type(alignment) is not int or alignment <= 0 or alignment & (alignment - 1):
            raise Malformed(f"its alignment of {alignment} is not a power of two")
        tensors = self._tensors(tensor_count, alignment)
        data_offset = _padded(self._position, alignment)
        for tensor in tensors:
            end = data_offset + tensor.offset + tensor.bytes
            if end > self._size:
                raise Truncated(
                    f"it is truncated: tensor {tensor.name!r} ends at byte {end}, the file at {self._size}"
                )
        return Header(version, values, tensors, data_offset)

    def _version(self) -> int:
        if not self._size:
            raise Truncated("it is empty")
        magic = self._take(4, "the magic") if self._size >= len(_MAGIC) else b""
        if magic == bytes(len(_MAGIC)):
            raise Truncated("its beginning was not written yet, there are only zeros")
        if magic != _MAGIC:
            raise Malformed("it does not begin with 'GGUF'")
        version: int = self._scalar(Kind.UINT32, "the version")
        if version and not version & 0xFFFF:
            raise Malformed("it is a big-endian GGUF, which only big-endian machines read")
        if version not in _VERSIONS:
            raise Malformed(f"it is GGUF version {version}; versions 2 and 3 are read")
        return version

    def _tensors(self, count: int, alignment: int) -> tuple[Tensor, ...]:
        tensors: dict[str, Tensor] = {}
        expected = 0
        for _ in range(count):
            tensor = self._tensor()
            if tensor.name in tensors:
                raise Malformed(f"the tensor {tensor.name!r} occurs twice")
            if tensor.offset != expected:
                raise Malformed(f"tensor {tensor.name!r} is at offset {tensor.offset} instead of {expected}")
            tensors[tensor.name] = tensor
            expected = _padded(expected + tensor.bytes, alignment)
        return tuple(tensors.values())

    def _tensor(self) -> Tensor:
        name = self._text("a tensor name", MAX_TENSOR_NAME_BYTES)
        count: int = self._scalar(Kind.UINT32, f"tensor {name!r}")
        if not 1 <= count <= MAX_DIMENSIONS:
            raise Malformed(f"tensor {name!r} has {count} dimensions; 1 to {MAX_DIMENSIONS} are possible")
        dimensions = struct.unpack(f"<{count}Q", self._take(8 * count, f"tensor {name!r}"))
        type_number: int = self._scalar(Kind.UINT32, f"tensor {name!r}")
        offset: int = self._scalar(Kind.UINT64, f"tensor {name!r}")
        kind = TENSOR_TYPES.get(type_number)
        if kind is None:
            state = "no longer supports" if type_number in REMOVED_TENSOR_TYPES else "does not know"
            raise Malformed(f"tensor {name!r} is of type {type_number}, which llama.cpp {state}")
        if 0 in dimensions or math.prod(dimensions) > MAX_SIZE:
            raise Malformed(f"tensor {name!r} has impossible dimensions {dimensions}")
        if dimensions[0] % kind.block_values:
            raise Malformed(
                f"tensor {name!r} has rows of {dimensions[0]}, not a multiple of {kind.block_values}"
            )
        size = math.prod(dimensions) // kind.block_values * kind.block_bytes
        return Tensor(name, kind, dimensions, offset, size)

    def _value(self, key: str) -> Value:
        kind = self._kind(key)
        if kind is Kind.STRING:
            length: int = self._scalar(Kind.UINT64, key)
            if length > MAX_TEXT_BYTES:
                self._skip(length, key)
                return SkippedText(length)
            return self._take(length, key).decode("utf-8", "replace")
        if kind is Kind.ARRAY:
            return self._array(key)
        value: int | float | bool = self._scalar(kind, key)
        return value

    def _array(self, key: str) -> Array:
        kind = self._kind(key)
        count: int = self._scalar(Kind.UINT64, key)
        if kind is Kind.ARRAY:
            raise Malformed(f"{key!r} is an array of arrays, which llama.cpp does not read")
        if kind is Kind.STRING:
            self._skip_strings(count, key)
            return Array(kind, count, None)
        form = _FORMATS[kind]
        if count > MAX_KEPT_ELEMENTS:
            self._skip(count * form.size, key)
            return Array(kind, count, None)
        data = self._take(count * form.size, key)
        return Array(kind, count, tuple(value for (value,) in form.iter_unpack(data)))

    def _kind(self, key: str) -> Kind:
        number: int = self._scalar(Kind.UINT32, key)
        try:
            return Kind(number)
        except ValueError:
            raise Malformed(f"{key!r} is of the unknown type {number}") from None

    def _count(self, what: str, limit: int, *, least_bytes: int) -> int:
        count: int = self._scalar(Kind.UINT64, f"the number of {what}")
        if count > limit or count * least_bytes > self._size:
            raise Malformed(f"it claims to have {count} {what}")
        return count

    def _text(self, what: str, limit: int) -> str:
        length: int = self._scalar(Kind.UINT64, what)
        if length > limit:
            raise Malformed(f"{what} claims to have {length} bytes; {limit} are possible")
        return self._take(length, what).decode("utf-8", "replace")

    def _scalar(self, kind: Kind, what: str) -> int:
        # typed as int for its many callers that read counts; a float only comes back to `_value`
        form = _FORMATS[kind]
        value: int = form.unpack(self._take(form.size, what))[0]
        return value

    def _take(self, count: int, what: str) -> bytes:
        self._kept += count
        if self._kept > MAX_KEPT_BYTES:
            raise Malformed(f"its header is over {MAX_KEPT_BYTES} bytes of texts and numbers")
        start = self._position
        self._skip(count, what, seek=False)
        data = self._file.read(count)
        if len(data) < count:  # the file has shrunk since its size was taken
            raise Truncated(f"it is truncated at byte {start + len(data)}, in {what}")
        return data

    def _skip(self, count: int, what: str, *, seek: bool = True) -> None:
        end = self._position + count
        if end > self._size:
            kind = Truncated if end <= MAX_HEADER_BYTES else Malformed
            raise kind(f"it is truncated or damaged: {what} would end at byte {end} of {self._size}")
        if end > MAX_HEADER_BYTES:
            raise Malformed(f"its header goes on after {MAX_HEADER_BYTES} bytes, in {what}")
        if seek:
            self._file.seek(end)
        self._position = end

    def _skip_strings(self, count: int, what: str) -> None:
        self._strings += count
        if self._strings > MAX_STRINGS or count * _LENGTH.size > self._size - self._position:
            raise Malformed(f"{what!r} claims to have {count} texts")
        left = count
        while left:
            window = self._file.read(_WINDOW_BYTES)
            offset, last = 0, len(window) - _LENGTH.size
            if last < 0:
                raise Truncated(f"it is truncated in {what!r}, {left} texts before its end")
            while left and offset <= last:
                offset += _LENGTH.size + _LENGTH.unpack_from(window, offset)[0]
                left -= 1
            self._skip(offset, what)


def _padded(value: int, alignment: int) -> int:
    return -(-value // alignment) * alignment
