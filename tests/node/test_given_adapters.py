"""Adapters as models' processes get them: a digest names one content, whatever becomes of the file."""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import pytest

from suite.errors import ModelFileGone, ModelFileInvalid
from suite.node.adapters import _give


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def test_a_file_that_is_overwritten_or_replaced_is_never_given_as_what_it_was(tmp_path: Path) -> None:
    file, folder = tmp_path / "poet.gguf", tmp_path / "given"
    file.write_bytes(b"first")
    given = _give(file, folder, digest(b"first"), "1")
    file.write_bytes(b"other")  # in place: the inode stays
    assert _give(file, folder, digest(b"first"), "2") == given and given.read_bytes() == b"first"
    assert _give(file, folder, digest(b"other"), "3").read_bytes() == b"other"
    with pytest.raises(ModelFileInvalid, match="just been changed"):
        _give(file, folder, digest(b"third"), "4")
    file.unlink()
    with pytest.raises(ModelFileGone, match="no longer there"):
        _give(file, folder, digest(b"third"), "5")
    assert {each.name for each in folder.iterdir()} == {
        f"{digest(b'first')}.gguf",
        f"{digest(b'other')}.gguf",
    }
