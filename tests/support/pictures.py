"""Files of pictures: real ones, and what somebody might send instead of one."""

from __future__ import annotations

import base64
import io
import random
import struct
import zlib

from PIL import Image


def picture(color: tuple[int, int, int], size: tuple[int, int] = (40, 30), format: str = "PNG") -> bytes:
    """The file of a picture of one color."""
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, format)
    return file.getvalue()


def noisy_picture(seed: int, side: int = 900) -> bytes:
    """The file of a picture that cannot be compressed: with that side it has over 2 MB."""
    file = io.BytesIO()
    pixels = random.Random(seed).randbytes(3 * side * side)
    Image.frombytes("RGB", (side, side), pixels).save(file, "PNG", compress_level=0)
    return file.getvalue()


def png(width: int, height: int, pixels: bytes, *, color_type: int = 2) -> bytes:
    """A PNG that says it has this size, whatever pixels it has. Its `color_type`: 2 is RGB, 6 is RGBA."""
    header = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels, 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_part(name, data) for name, data in parts)


def _part(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def in_base64(data: bytes) -> str:
    """As requests have it."""
    return base64.b64encode(data).decode()
