"""A snapshot as a file: what a sequence held, for whom, and checksums by which damage is told.

A fixed beginning (magic, version, length and checksum of the header), the header in msgpack, the token ids as
little-endian 32-bit integers, then llama.cpp's bytes. llama.cpp takes a state with flipped bits for a good
one, so every byte is under a checksum here: llama.cpp's own under a CRC, which takes a quarter of the time of
a cryptographic hash while an answer waits for it, the rest under BLAKE2b. Nothing is synced to the disk: what
a power failure tears shows in the checksums as well.
"""

from __future__ import annotations

import os
import stat
import struct
import sys
from array import array
from collections.abc import Callable, Sequence
from hashlib import blake2b
from io import BufferedReader
from pathlib import Path
from typing import Annotated, NamedTuple, TypeAlias
from zlib import crc32

import msgspec

VERSION = 2
"""Of this format: files of another are not read."""

TOKEN_BYTES = 4

Payload: TypeAlias = bytes | memoryview
"""A state as llama.cpp gives it."""

_MAGIC = b"suite-kv"
_DIGEST_BYTES = 16
_BEGINNING = struct.Struct(f"<8sHI{_DIGEST_BYTES}s")
_PIECE = 1 << 20
"""Bytes that are written between two looks at whether to go on."""


TokenId: TypeAlias = Annotated[int, msgspec.Meta(ge=-(2**31), lt=2**31)]


class Unusable(Exception):
    """The file is not a whole snapshot of this version and key; the message says why, and nothing of it."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a file says of itself."""

    key: str
    """The model and the settings that llama.cpp's bytes are of."""
    conversation_id: str
    shortest: Annotated[int, msgspec.Meta(ge=0)]
    """To how few tokens the state can be cut back."""
    tail: tuple[TokenId, ...] | None
    """What was said after the tokens; None: the conversation cannot go on from here."""
    tokens: int
    tokens_digest: bytes
    payload_bytes: int
    payload_checksum: int


class Beginning(NamedTuple):
    """All of a file but llama.cpp's bytes."""

    header: Header
    tokens: bytes
    """As `pack` gives them."""


def pack(tokens: Sequence[int]) -> bytes:
    """Token ids as they are kept and compared: four bytes each, little-endian."""
    packed = array("i", tokens)
    if sys.byteorder == "big":
        packed.byteswap()
    return packed.tobytes()


def unpack(packed: bytes) -> list[int]:
    """The token ids that were packed."""
    tokens = array("i", packed)
    if sys.byteorder == "big":
        tokens.byteswap()
    return tokens.tolist()


def digest(data: bytes) -> bytes:
    """The checksum of a header or of tokens."""
    return blake2b(data, digest_size=_DIGEST_BYTES).digest()


def uninitialised(size: int) -> memoryview:
    """Memory for a payload. To fill tens of megabytes with zeros first takes longer than to save a state."""
    import numpy as np  # not needed by those who only look at headers

    return np.empty(size, np.uint8).data


def encode(
    key: str,
    conversation_id: str,
    tokens: bytes,
    payload: Payload,
    *,
    shortest: int,
    tail: tuple[int, ...] | None,
) -> bytes:
    """What comes before the payload in a file."""
    header = msgspec.msgpack.encode(
        Header(
            key=key,
            conversation_id=conversation_id,
            shortest=shortest,
            tail=tail,
            tokens=len(tokens) // TOKEN_BYTES,
            tokens_digest=digest(tokens),
            payload_bytes=len(payload),
            payload_checksum=crc32(payload),
        )
    )
    return _BEGINNING.pack(_MAGIC, VERSION, len(header), digest(header)) + header + tokens


def write(path: Path, pieces: Sequence[Payload], *, used: float, go_on: Callable[[], bool]) -> bool:
    """Write a new private file (0600) of these pieces, its time of change set to `used` (epoch seconds).

    False: `go_on` said no between two pieces, and the file is not whole. Raises OSError.
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


def read_header(path: Path) -> Header:
    """What a file says of itself, whole or not. Raises Unusable, FileNotFoundError, OSError."""
    with _opened(path) as file:
        return _read_header(file)


def read_beginning(path: Path, key: str) -> Beginning:
    """Header and tokens of a file of this key. Raises Unusable, FileNotFoundError, OSError."""
    with _opened(path) as file:
        return _read_beginning(file, key)


def read_payload(path: Path, key: str, tokens: bytes) -> Payload:
    """llama.cpp's bytes of these tokens. Raises Unusable, FileNotFoundError, OSError."""
    with _opened(path) as file:
        beginning = _read_beginning(file, key)
        if beginning.tokens != tokens:
            raise Unusable("it holds other tokens than it did")
        payload = uninitialised(beginning.header.payload_bytes)
        whole = file.readinto(payload) == len(payload)
    if not whole or crc32(payload) != beginning.header.payload_checksum:
        raise Unusable("its state is damaged")
    return payload


def _opened(path: Path) -> BufferedReader:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Unusable("it is not a regular file")
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _read_header(file: BufferedReader) -> Header:
    fixed = file.read(_BEGINNING.size)
    if len(fixed) < _BEGINNING.size:
        raise Unusable("it is truncated")
    magic, version, length, checksum = _BEGINNING.unpack(fixed)
    if magic != _MAGIC:
        raise Unusable("it is not a snapshot")
    if version != VERSION:
        raise Unusable(f"it is of version {version}, not {VERSION}")
    if length > os.fstat(file.fileno()).st_size:
        raise Unusable("its header is damaged")
    raw = file.read(length)
    if digest(raw) != checksum:
        raise Unusable("its header is damaged")
    try:
        return msgspec.msgpack.decode(raw, type=Header)
    except msgspec.DecodeError:
        raise Unusable("its header has other fields") from None


def _read_beginning(file: BufferedReader, key: str) -> Beginning:
    header = _read_header(file)
    if header.key != key:
        raise Unusable("it is of another model or of other settings")
    token_bytes = header.tokens * TOKEN_BYTES
    if os.fstat(file.fileno()).st_size != file.tell() + token_bytes + header.payload_bytes:
        raise Unusable("it is truncated, or has grown")
    tokens = file.read(token_bytes)
    if digest(tokens) != header.tokens_digest:
        raise Unusable("its tokens are damaged")
    return Beginning(header, tokens)
