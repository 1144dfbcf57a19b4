"""The file format of a snapshot: the state of a sequence, its conversation, and checksums to detect damage.

A file has a fixed part (magic, version, length and checksum of the header), the header in msgpack, the token
ids as little-endian 32-bit integers, then llama.cpp's state. llama.cpp does not notice flipped bits, so every
byte has a checksum: the state a CRC, which takes a quarter of the time of a cryptographic hash while an
answer waits for it; the rest BLAKE2b. Files are not synced to disk, because the checksums also detect what a
power failure damaged.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from io import BufferedReader, BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

VERSION = 2
"""The version of this format; files of other versions are not read."""

TOKEN_BYTES = 4

Payload: TypeAlias = bytes | memoryview
"""The state of a sequence, as llama.cpp saves it."""

_WITH_ADAPTERS = " adapters "
_MAGIC = b"suite-kv"
_DIGEST_BYTES = 16
_FIXED_HEADER = struct.Struct(f"<8sHI{_DIGEST_BYTES}s")
_PIECE = 1 << 20
"""Bytes that are written between two checks whether to go on."""


TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class InvalidSnapshotFile(Exception):
    """The file is not a complete snapshot of this version and key. The message says why, not what it has."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The header of a snapshot file."""

    key: str
    """Identifies the model and the settings that the state belongs to."""
    conversation_id: str
    min_prefix: Annotated[int, msgspec.Meta(ge=0)] = msgspec.field(name="shortest")
    """The fewest tokens to which the state can be truncated. Version 2 of the format calls it `shortest`."""
    tail: tuple[TokenId, ...] | None
    """Sampled after the tokens, not part of the state; None: the conversation cannot be continued from it."""
    tokens: int
    tokens_digest: bytes
    payload_bytes: int
    payload_checksum: int


class Saved(NamedTuple):
    """The saved state of a conversation, as it travels to another node."""

    conversation_id: str
    tokens: bytes
    """Packed by `pack`."""
    tail: tuple[int, ...] | None
    """Sampled after the tokens, not part of the state; None: the conversation cannot be continued from it."""
    min_prefix: int
    payload: Payload
    adapters: str = ""
    """The key of the adapters that it was decoded with; empty: without any."""

    @property
    def token_count(self) -> int:
        """How many tokens it has."""
        return len(self.tokens) // TOKEN_BYTES

    @property
    def size(self) -> int:
        """Its bytes, without those of the header."""
        return len(self.payload) + len(self.tokens)


class Preamble(NamedTuple):
    """All of a file except llama.cpp's state."""

    header: Header
    tokens: bytes
    """Packed by `pack`."""
    adapters: str
    """As in `Saved`."""


def key_with(key: str, adapters: str) -> str:
    """The key of what was decoded with adapters, which who knows only the key without them must not read."""
    return f"{key}{_WITH_ADAPTERS}{adapters}" if adapters else key


def pack(tokens: Sequence[int]) -> bytes:
    """Pack token ids into four bytes each, little-endian, to store and compare them."""
    packed = array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> list[int]:
    """The token ids that `pack` packed."""
    tokens = array("i", packed)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tolist()


def digest(data: bytes) -> bytes:
    """The checksum of a header or of tokens."""
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


def uninitialised(size: int) -> memoryview:
    """Uninitialised memory for a payload: zeroing tens of megabytes takes longer than saving a state."""
    import numpy as np  # not needed to read headers only

    return np.empty(size, np.uint8).data


def encode(
    key: str,
    conversation_id: str,
    tokens: bytes,
    payload: Payload,
    *,
    min_prefix: int,
    tail: tuple[int, ...] | None,
    adapters: str = "",
) -> bytes:
    """The bytes of a file before its payload."""
    header = msgspec.msgpack.encode(
        Header(
            key=key_with(key, adapters),
            conversation_id=conversation_id,
            min_prefix=min_prefix,
            tail=tail,
            tokens=len(tokens) // TOKEN_BYTES,
            tokens_digest=digest(tokens),
            payload_bytes=len(payload),
            payload_checksum=crc32(payload),
        )
    )
    return _FIXED_HEADER.pack(_MAGIC, VERSION, len(header), digest(header)) + header + tokens


def to_bytes(key: str, saved: Saved) -> bytes:
    """All bytes of a file."""
    beginning = encode(
        key,
        saved.conversation_id,
        saved.tokens,
        saved.payload,
        min_prefix=saved.min_prefix,
        tail=saved.tail,
        adapters=saved.adapters,
    )
    return b"".join((beginning, saved.payload))


def from_bytes(key: str, data: bytes) -> Saved:
    """Read and verify all bytes of a file of this key. Raises InvalidSnapshotFile."""
    file = BytesIO(data)
    header, tokens, adapters = _read_preamble(file, len(data), key)
    payload = memoryview(data)[file.tell() :]
    if crc32(payload) != header.payload_checksum:
        raise InvalidSnapshotFile("its state is damaged")
    return Saved(header.conversation_id, tokens, header.tail, header.min_prefix, payload, adapters)


def write(path: Path, pieces: Sequence[Payload], *, used: float, go_on: Callable[[], bool]) -> bool:
    """Write a new private file (0600) of these pieces, modified at `used` (epoch seconds).

    False: `go_on` returned False in between, and the file is incomplete. Raises OSError.
    """
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb", buffering=0) as file:
        for piece in pieces:
            rest = memoryview(piece)
            while rest:
                if not go_on():
                    return False
                rest = rest[file.write(rest[:_PIECE]) :]
        os.utime(descriptor, (used, used))
    return True


def mark_used(path: Path, used: float) -> None:
    """Have a file say that it was modified then (epoch seconds). Raises InvalidSnapshotFile or OSError.

    It is opened for that: a confined process may not do it by a path.
    """
    with _opened(path) as file:
        os.utime(file.fileno(), (used, used))


def read_header(path: Path) -> Header:
    """Read a file's header, even of an incomplete file. Raises InvalidSnapshotFile or OSError."""
    with _opened(path) as file:
        return _read_header(file, _size(file))


def read_preamble(path: Path, key: str) -> Preamble:
    """Read the header and the tokens of a file of this key. Raises InvalidSnapshotFile or OSError."""
    with _opened(path) as file:
        return _read_preamble(file, _size(file), key)


def read_payload(path: Path, key: str, tokens: bytes) -> Payload:
    """Read and verify llama.cpp's state of these tokens. Raises InvalidSnapshotFile or OSError."""
    with _opened(path) as file:
        preamble = _read_preamble(file, _size(file), key)
        if preamble.tokens != tokens:
            raise InvalidSnapshotFile("it holds other tokens than it did")
        payload = uninitialised(preamble.header.payload_bytes)
        complete = file.readinto(payload) == len(payload)
    if not complete or crc32(payload) != preamble.header.payload_checksum:
        raise InvalidSnapshotFile("its state is damaged")
    return payload


def _opened(path: Path) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise InvalidSnapshotFile("it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _size(file: BufferedReader) -> int:
    return os.fstat(file.fileno()).st_size


def _read_header(file: BinaryIO, size: int) -> Header:
    fixed = file.read(_FIXED_HEADER.size)
    if len(fixed) < _FIXED_HEADER.size:
        raise InvalidSnapshotFile("it is truncated")
    magic, version, length, checksum = _FIXED_HEADER.unpack(fixed)
    if magic != _MAGIC:
        raise InvalidSnapshotFile("it is not a snapshot")
    if version != VERSION:
        raise InvalidSnapshotFile(f"it is of version {version}, not {VERSION}")
    if length > size:
        raise InvalidSnapshotFile("its header is damaged")
    raw = file.read(length)
    if digest(raw) != checksum:
        raise InvalidSnapshotFile("its header is damaged")
    try:
        return msgspec.msgpack.decode(raw, type=Header)
    except msgspec.DecodeError:
        raise InvalidSnapshotFile("its header has other fields") from None


def _read_preamble(file: BinaryIO, size: int, key: str) -> Preamble:
    header = _read_header(file, size)
    own, _, adapters = header.key.partition(_WITH_ADAPTERS)
    if own != key:
        raise InvalidSnapshotFile("it is of another model or of other settings")
    token_bytes = header.tokens * TOKEN_BYTES
    if size != file.tell() + token_bytes + header.payload_bytes:
        raise InvalidSnapshotFile("it is truncated, or has grown")
    tokens = file.read(token_bytes)
    if digest(tokens) != header.tokens_digest:
        raise InvalidSnapshotFile("its tokens are damaged")
    return Preamble(header, tokens, adapters)
