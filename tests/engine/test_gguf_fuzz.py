"""No bytes make inspection do anything but describe or refuse, with little reading and little memory."""

from __future__ import annotations

import contextlib
import io
import tracemalloc
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.engine.gguf.file import GgufInfo, inspect
from suite.engine.gguf.header import Malformed, read_header
from suite.errors import ModelFileInvalid
from support.models import tiny_model
from support.raw_gguf import gguf_bytes

VALID = gguf_bytes({"x.array": [1, 2, 3], "x.texts": ["one", "two"], "x.float": 1.5, "x.flag": True})
BOUNDARIES = [0, 1, 2, 0x7F, 0x80, 0xFF]


class CountingFile(io.BytesIO):
    """Counts what is read from it."""

    bytes_read = 0

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read(size)
        self.bytes_read += len(data)
        return data


@st.composite
def mutations(draw: st.DrawFn) -> bytes:
    content = bytearray(VALID)
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(content) - 1))
        match draw(st.sampled_from(["byte", "word", "cut", "double"])):
            case "byte":
                content[at] = draw(st.sampled_from(BOUNDARIES) | st.integers(0, 255))
            case "word":
                word = draw(st.integers(0, 2**64 - 1) | st.sampled_from([2**63, 2**64 - 1, 2**32, 2**31 - 1]))
                content[at : at + 8] = word.to_bytes(8, "little")
            case "cut":
                del content[at + 1 :]
            case "double":
                content[at:at] = content[at : at + draw(st.integers(1, 64))]
    return bytes(content)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=mutations() | st.binary(max_size=200).map(lambda rest: VALID[:24] + rest))
def test_inspection_describes_or_refuses(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "mutated.gguf"
    path.write_bytes(content)
    try:
        assert isinstance(inspect(path), GgufInfo)
    except ModelFileInvalid as refused:
        refused.message.encode()  # goes into a reply


@settings(max_examples=200, deadline=None)
@given(content=mutations())
def test_no_byte_is_read_twice(content: bytes) -> None:
    file = CountingFile(content)
    with contextlib.suppress(Malformed):
        read_header(file, len(content))
    # an array of texts is read through a window, which may have been read beyond its end
    assert file.bytes_read <= 3 * len(content)


def test_memory_does_not_grow_with_the_vocabulary(tmp_path: Path) -> None:
    small = gguf_bytes({"x.texts": ["token"] * 10})
    large = gguf_bytes({"x.texts": ["token"] * 100_000})
    assert _peak(tmp_path, large) < _peak(tmp_path, small) + (1 << 20)


def _peak(directory: Path, content: bytes) -> int:
    path = directory / "measured.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    try:
        inspect(path)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_a_header_is_read_and_not_the_tensors(tmp_path: Path) -> None:
    content = tiny_model(tmp_path / "tiny.gguf", embedding=256, feed_forward=1024).read_bytes()
    file = CountingFile(content)
    header = read_header(file, len(content))
    assert file.bytes_read < header.data_offset + (1 << 19)
    assert len(content) > 2 << 20
