"""A state goes to another engine as bytes: whole, of the same key, and continued in one place only."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from suite.engine.snapshots.file import InvalidSnapshotFile, Saved, from_bytes, pack, to_bytes
from suite.engine.snapshots.folder import SUPERSEDED, take_conversation
from support.snapshots import KEY, PATIENCE, files, snapshots

SAVED = Saved("a", pack([1, 2, 3]), (4,), 2, b"state of a")


def test_what_arrives_is_what_was_sent() -> None:
    data = to_bytes(KEY, SAVED)
    arrived = from_bytes(KEY, data)
    assert arrived._replace(payload=bytes(arrived.payload)) == SAVED
    assert (arrived.token_count, arrived.size) == (3, 22)
    with pytest.raises(InvalidSnapshotFile, match="of another model or of other settings"):
        from_bytes("another", data)


@given(st.data())
def test_damage_anywhere_is_noticed(data: st.DataObject) -> None:
    whole = to_bytes(KEY, SAVED)
    at = data.draw(st.integers(0, len(whole) - 1))
    flipped = bytearray(whole)
    flipped[at] ^= data.draw(st.integers(1, 255))
    for damaged in (bytes(flipped), whole[:at], whole + b"x"):
        with pytest.raises(InvalidSnapshotFile):
            from_bytes(KEY, damaged)


def test_a_file_gives_its_conversation_away_once(tmp_path: Path) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a", tail=[4])
    store.put("b", [5], b"state of b")
    store.close(PATIENCE)
    assert take_conversation(tmp_path, KEY, "c") is None
    assert take_conversation(tmp_path, "another", "a") is None
    for tail in ((4,), None):
        taken = take_conversation(tmp_path, KEY, "a")
        assert taken is not None
        assert (taken.tail, taken.tokens, bytes(taken.payload)) == (tail, SAVED.tokens, SAVED.payload)
    assert [path.suffix for path in files(tmp_path)].count(SUPERSEDED) == 1
    store = snapshots(tmp_path)
    assert store.tokens_of("a") is None and store.tokens_of("b") == [5]
    assert store.find([1, 2, 3, 9], "a") is not None
    store.close()
