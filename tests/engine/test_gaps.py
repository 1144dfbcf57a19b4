"""A file of the right size whose content has not all come is told from a whole one, however it was made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from suite.engine.gguf.file import inspect
from suite.errors import ModelFileIncomplete
from support.models import smollm2
from support.raw_gguf import Tensor, gguf_bytes

MIB = 1 << 20
ROWS = 1024
"""Of 1,024 F32 values each: 4 MiB a tensor."""
NAMES = ("token_embd.weight", "blk.0.attn_q.weight", "blk.0.attn_q.bias", "blk.0.ffn_up.weight")
TENSORS = tuple(
    Tensor(name=name, dimensions=(1024, ROWS), offset=4 * MIB * number) for number, name in enumerate(NAMES)
)
HEADER = gguf_bytes(tensors=TENSORS, data=0)
END = len(HEADER) + 4 * MIB * len(TENSORS)
CONTENT = HEADER + bytes(range(1, 256)) * ((END - len(HEADER)) // 255 + 1)


def sparse(path: Path, *written: range) -> Path:
    """A file of the final size of which only these ranges were written."""
    with path.open("wb") as file:
        file.truncate(END)
        for part in (range(len(HEADER)), *written):
            file.seek(part.start)
            file.write(CONTENT[part.start : part.stop])
    return path


def zeroed(path: Path, *zeros: range) -> Path:
    """A whole file with zeros in these ranges of the data, and no holes."""
    content = bytearray(CONTENT[:END])
    for part in zeros:
        content[len(HEADER) + part.start : len(HEADER) + part.stop] = bytes(len(part))
    path.write_bytes(content)
    return path


def allocated(file: BinaryIO) -> None:
    os.posix_fallocate(file.fileno(), 0, END)


def truncated(file: BinaryIO) -> None:
    file.truncate(END)


@pytest.mark.parametrize("prepare", [allocated, truncated])
def test_a_download_into_a_file_of_the_final_size_is_not_whole_until_its_end(
    prepare: Callable[[BinaryIO], None], tmp_path: Path
) -> None:
    path = tmp_path / "m.gguf"
    with path.open("wb", buffering=0) as file:
        prepare(file)
        for start in range(0, END, 6 * MIB):
            with pytest.raises(ModelFileIncomplete, match="was not written yet"):
                inspect(path)
            file.write(CONTENT[start : min(END, start + 6 * MIB)])
    assert inspect(path).parameters == 1024 * ROWS * len(TENSORS)


@pytest.mark.parametrize("first", [MIB, 5 * MIB, 13 * MIB])
def test_a_piece_that_is_missing_in_the_middle_is_found(first: int, tmp_path: Path) -> None:
    start = len(HEADER) + first
    pieces = range(len(HEADER), start), range(start + 5 * MIB // 2, END)
    with pytest.raises(ModelFileIncomplete, match=r"of tensor '.*' was not written yet; if it is whole"):
        inspect(sparse(tmp_path / "m.gguf", *pieces))


def test_an_end_of_written_zeros_is_found(tmp_path: Path) -> None:
    with pytest.raises(ModelFileIncomplete, match="its end was not written yet"):
        inspect(zeroed(tmp_path / "m.gguf", range(12 * MIB, 16 * MIB)))


@pytest.mark.parametrize(
    "zeros",
    [
        range(3 * MIB, 4 * MIB),  # tokens that do not exist
        range(8 * MIB, 12 * MIB),  # a bias of zeros
        range(5 * MIB, 6 * MIB - 4096),  # pruned heads
        range(15 * MIB, 16 * MIB - 4096),
    ],
)
def test_zeros_that_models_have_are_no_gaps_though_copied_as_holes(zeros: range, tmp_path: Path) -> None:
    path = zeroed(tmp_path / "m.gguf", zeros)
    assert inspect(path)
    copy = tmp_path / "copy" / path.name
    copy.parent.mkdir()
    subprocess.run(["cp", "--sparse=always", path, copy], check=True)
    with copy.open("rb") as file:
        assert os.lseek(file.fileno(), len(HEADER), os.SEEK_HOLE) < END, "there is no hole to be looked at"
    assert inspect(copy) == inspect(path)


def test_a_real_model_copied_with_holes_is_whole(tmp_path: Path) -> None:
    copy = tmp_path / smollm2().name
    subprocess.run(["cp", "--sparse=always", smollm2(), copy], check=True)
    assert inspect(copy) == inspect(smollm2())
