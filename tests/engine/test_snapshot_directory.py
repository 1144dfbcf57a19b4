"""Snapshots on disk: they outlive the process, are private, and do no harm when they are damaged."""

from __future__ import annotations

import errno
import logging
import math
import os
import stat
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from hashlib import blake2b
from pathlib import Path

import msgspec
import pytest

from suite.engine.snapshots import file as snapshot_file
from suite.engine.snapshots.folder import remove_expired, remove_snapshots
from suite.engine.snapshots.snapshots import Snapshots
from support.snapshots import KEY, PATIENCE, Time, files, loaded, snapshots

Write = Callable[..., bool]


def flushed(directory: Path, conversation_id: str = "a", *, time: Time | None = None) -> Path:
    """The file of one snapshot of the tokens 1, 2, 3."""
    store = snapshots(directory, time=time)
    store.put(conversation_id, [1, 2, 3], b"state of a")
    store.close(PATIENCE)
    (path,) = files(directory)
    return path


def is_ignored(directory: Path) -> bool:
    """Whether nothing is found of the tokens 1, 2, 3, and whatever was there is removed."""
    store = snapshots(directory)
    try:
        none = loaded(store, [1, 2, 3], "a") is None
        assert store.flush(PATIENCE)
        return none and not files(directory) and store.disk_used == 0
    finally:
        store.close()


def test_what_was_flushed_is_found_by_another_on_the_same_directory(tmp_path: Path) -> None:
    flushed(tmp_path)
    store = snapshots(tmp_path)
    found = store.find([1, 2, 9], "b")
    assert found is not None
    assert (found.tokens, found.total, store.load(found)) == (2, 3, b"state of a")
    assert store.memory_used == 0
    assert store.tokens_of("a") == [1, 2, 3]
    store.put("a", [1, 2, 3, 4], b"later")
    store.close(PATIENCE)
    assert len(files(tmp_path)) == 1
    store = snapshots(tmp_path)
    assert loaded(store, [1, 2, 3, 4], "a") == b"later"
    store.put("a", [1, 2, 3, 4], b"whole", min_prefix=4)
    store.close(PATIENCE)
    store = snapshots(tmp_path)
    assert store.find([1, 2, 3], "a") is None
    assert loaded(store, [1, 2, 3, 4, 5], "a") == b"whole"
    store.close()


def test_what_is_put_is_on_disk_without_a_flush_at_the_end(tmp_path: Path) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a")
    assert store.flush(PATIENCE)
    # Nothing is said to it any more, as when the process dies.
    other = snapshots(tmp_path)
    assert loaded(other, [1, 2, 3]) == b"state of a"
    store.close()
    other.close()


def test_the_time_of_the_last_use_outlives_the_process(tmp_path: Path) -> None:
    time = Time()
    flushed(tmp_path, time=time)
    time.pass_by(3000)
    store = snapshots(tmp_path, time=time)
    assert loaded(store, [1, 2, 3]) is not None
    store.close(PATIENCE)
    time.pass_by(3000)
    store = snapshots(tmp_path, time=time)
    assert loaded(store, [1, 2, 3]) is not None
    store.close(PATIENCE)
    time.pass_by(3601)
    store = snapshots(tmp_path, time=time)
    assert len(store) == 0
    assert store.flush(PATIENCE)
    assert files(tmp_path) == []
    store.close()


def test_of_two_files_of_a_conversation_the_later_is_taken(tmp_path: Path) -> None:
    time = Time()
    flushed(tmp_path, time=time)
    first = files(tmp_path)[0]
    content, used = first.read_bytes(), first.stat().st_mtime
    time.pass_by(1)
    store = snapshots(tmp_path, time=time)
    store.put("a", [1, 2, 3, 4], b"later")
    store.close(PATIENCE)
    first.write_bytes(content)  # as if it had crashed before the older one was removed
    os.utime(first, (used, used))
    store = snapshots(tmp_path, time=time)
    assert len(store) == 1
    assert loaded(store, [1, 2, 3, 4]) == b"later"
    assert store.flush(PATIENCE)
    assert len(files(tmp_path)) == 1
    store.close()


def test_another_key_finds_nothing_of_it_and_removes_it(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    earlier = tmp_path / path.name  # where an earlier version had its files
    earlier.write_bytes(path.read_bytes())
    (tmp_path / "notes.txt").touch()
    other = snapshots(tmp_path, key="other")
    assert loaded(other, [1, 2, 3], "a") is None
    other.put("b", [1], b"b")
    other.close(PATIENCE)
    (own,) = files(tmp_path)
    assert own.parent != path.parent
    assert not path.parent.exists()
    assert earlier.exists()
    assert (tmp_path / "notes.txt").exists()


def test_what_is_not_used_for_too_long_is_removed_where_no_actor_runs(tmp_path: Path) -> None:
    time = Time()
    old = flushed(tmp_path / "models" / "one", time=time)
    torn = old.with_suffix(".tmp")
    torn.write_bytes(b"half")
    os.utime(torn, (time().timestamp(),) * 2)
    time.pass_by(10)
    new = flushed(tmp_path / "models" / "two", time=time)
    remove_expired(tmp_path, expired_before=time().timestamp())
    assert not (tmp_path / "models" / "one").exists()
    assert new.exists()
    remove_expired(tmp_path, expired_before=math.inf)
    assert [*(tmp_path / "models").iterdir()] == []  # which stays: a process may write below it only
    remove_expired(tmp_path / "not there", expired_before=math.inf)


def test_what_outlived_a_process_expires_in_the_order_of_its_use(tmp_path: Path) -> None:
    time = Time()
    store = snapshots(tmp_path, time=time)
    store.put("a", [1], b"a")
    time.pass_by(10)
    store.put("b", [2], b"b")
    store.supersede("b")
    store.close(PATIENCE)
    time.pass_by(3595)
    store = snapshots(tmp_path, time=time)
    assert len(store) == 1
    assert loaded(store, [2]) == b"b"
    store.close()


# --- what may be continued ----------------------------------------------------------------------------------


@pytest.mark.parametrize("orderly", [True, False], ids=["restart", "crash"])
@pytest.mark.parametrize("tail", [(), (4,), None])
def test_a_conversation_goes_on_after_all_that_was_said_also_in_another_process(
    tmp_path: Path, tail: tuple[int, ...] | None, orderly: bool
) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a", tail=tail)
    expected = None if tail is None else [1, 2, 3, *tail]
    assert store.tokens_of("a") == expected
    assert store.flush(PATIENCE)
    if orderly:
        store.close(PATIENCE)
    other = snapshots(tmp_path)
    assert other.tokens_of("a") == expected
    assert loaded(other, [1, 2, 3], "a") == b"state of a"
    other.close()
    store.close()


def test_once_it_goes_on_it_is_continued_from_no_older_state_whatever_happens(tmp_path: Path) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a", tail=(4,))
    store.put("b", [7], b"state of b", tail=())
    assert store.flush(PATIENCE)
    store.supersede("a")
    store.supersede("never heard of")
    # It dies here, with nothing written.
    for _ in range(2):
        other = snapshots(tmp_path)
        assert (other.tokens_of("a"), other.tokens_of("b")) == (None, [7])
        assert loaded(other, [1, 2, 3, 4, 5], "a") == b"state of a"
        other.close()
    store.put("a", [1, 2, 3, 4, 5], b"later", tail=())
    assert store.flush(PATIENCE)
    other = snapshots(tmp_path)
    assert other.tokens_of("a") == [1, 2, 3, 4, 5]
    assert len(files(tmp_path)) == 2
    other.close()
    store.close()


def test_a_put_leaves_nothing_to_continue_from_before_it_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a")
    assert store.flush(PATIENCE)
    monkeypatch.setattr(snapshot_file, "write", _refuse)
    store.put("a", [1, 2, 3, 4], b"later")
    other = snapshots(tmp_path)
    assert other.tokens_of("a") is None
    other.close()
    store.close()


def test_what_goes_on_while_it_is_written_is_on_disk_as_left_behind(
    tmp_path: Path, slow_disk: SlowDisk
) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1], b"a")
    store.put("b", [2], b"b")  # which waits
    assert slow_disk.begun.wait(PATIENCE)
    store.supersede("a")
    store.supersede("b")
    slow_disk.go_on.set()
    assert store.flush(PATIENCE)
    other = snapshots(tmp_path)
    assert (other.tokens_of("a"), other.tokens_of("b")) == (None, None)
    assert (loaded(other, [1]), loaded(other, [2])) == (b"a", b"b")
    other.close()
    store.close()


def test_what_cannot_be_marked_as_left_behind_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1, 2, 3], b"state of a")
    assert store.flush(PATIENCE)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", _refuse)
        store.supersede("a")
    assert loaded(store, [1, 2, 3]) == b"state of a"
    store.put("b", [4], b"state of b")
    assert store.flush(PATIENCE)
    other = snapshots(tmp_path)
    assert (other.tokens_of("a"), other.tokens_of("b")) == (None, [4])
    other.close()
    store.close()


def test_a_file_that_the_node_removed_is_not_continued(tmp_path: Path) -> None:
    flushed(tmp_path)
    store = snapshots(tmp_path)
    assert store.tokens_of("a") == [1, 2, 3]
    assert remove_snapshots(tmp_path) == (1, 3)
    assert store.tokens_of("a") is None
    assert loaded(store, [1, 2, 3], "a") is None
    assert store.flush(PATIENCE)
    assert store.disk_used == 0
    store.close()


def test_what_belongs_to_nobody_never_comes_to_disk(tmp_path: Path) -> None:
    store = snapshots(tmp_path, memory_bytes=100)
    store.put(None, [1, 2, 3], b"nobody's")
    store.put(None, [4], bytes(100))  # for which memory has no room
    assert loaded(store, [1, 2, 3]) == b"nobody's"
    assert store.find([4], None) is None
    store.close(PATIENCE)
    assert [*next(tmp_path.iterdir()).iterdir()] == []


def test_files_are_private_and_tell_nothing_by_their_names(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        path = flushed(tmp_path / "snapshots", "a name/../of someone")
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(path.parent.parent.stat().st_mode) == 0o700
    assert "someone" not in str(path)
    assert KEY not in str(path)


def test_a_folder_that_others_can_look_into_is_closed(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    path.parent.chmod(0o755)
    snapshots(tmp_path).close()
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


# --- damage -------------------------------------------------------------------------------------------------


def test_a_flipped_bit_anywhere_is_noticed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = flushed(tmp_path)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 1 << position % 8
        path.write_bytes(damaged)
        caplog.clear()
        assert is_ignored(tmp_path), f"byte {position}"
        assert "removed" in caplog.text
    path.write_bytes(content)
    assert not is_ignored(tmp_path)


def test_a_truncated_file_is_noticed_wherever_it_ends(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    content = path.read_bytes()
    for end in range(len(content)):
        path.write_bytes(content[:end])
        assert is_ignored(tmp_path), f"after {end} bytes"
    path.write_bytes(content + b"x")
    assert is_ignored(tmp_path)
    path.write_bytes(bytes(len(content)))
    assert is_ignored(tmp_path)


def sealed(content: bytes, change: Callable[[dict[str, object]], None], version: int | None = None) -> bytes:
    """The same file with another header, its checksum right."""
    fixed = struct.Struct("<8sHI16s")
    magic, old_version, length, _ = fixed.unpack_from(content)
    fields = msgspec.msgpack.decode(content[fixed.size : fixed.size + length], type=dict[str, object])
    change(fields)
    header = msgspec.msgpack.encode(fields)
    checksum = blake2b(header, digest_size=16).digest()
    beginning = fixed.pack(magic, version or old_version, len(header), checksum)
    return beginning + header + content[fixed.size + length :]


def _nothing(_fields: dict[str, object]) -> None:
    pass


@pytest.mark.parametrize(
    "field",
    [
        *("key", "conversation_id", "shortest", "tail", "tokens", "tokens_digest"),
        *("payload_bytes", "payload_checksum"),
    ],
)
@pytest.mark.parametrize("value", [7, 1 << 60, -1, "text", b"bytes", [], "gone"])
def test_a_field_that_is_not_what_it_should_be_is_noticed(tmp_path: Path, field: str, value: object) -> None:
    path = flushed(tmp_path)

    def change(fields: dict[str, object]) -> None:
        if value == "gone":
            del fields[field]
        else:
            fields[field] = value

    path.write_bytes(sealed(path.read_bytes(), change))
    possible = {"conversation_id": ("text",), "shortest": (7, 1 << 60), "tail": ([],)}
    if value in possible.get(field, ()):
        # It could be, and whoever can write a right checksum may: it is found for no shorter prompt.
        store = snapshots(tmp_path)
        assert len(store) == 1
        assert (store.find([1, 2], None) is None) == (field == "shortest")
        store.close()
    else:
        assert is_ignored(tmp_path)


def test_a_file_of_another_version_is_not_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = flushed(tmp_path)
    content = path.read_bytes()
    path.write_bytes(sealed(content, _nothing))
    assert not is_ignored(tmp_path)
    path.write_bytes(sealed(content, _nothing, version=snapshot_file.VERSION + 1))
    assert is_ignored(tmp_path)
    assert f"version {snapshot_file.VERSION + 1}" in caplog.text


def test_a_file_that_another_key_left_in_the_folder_is_not_read(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    content = path.read_bytes()
    snapshots(tmp_path, key="other").close()
    (other,) = tmp_path.iterdir()
    (other / path.name).write_bytes(content)
    store = snapshots(tmp_path, key="other")
    assert store.find([1, 2, 3], "a") is None
    assert files(tmp_path) == []
    store.close()


def test_whatever_else_lies_there_does_no_harm(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    folder = path.parent
    (folder / "torn.tmp").write_bytes(b"half")
    (folder / "README").write_text("not ours")
    (folder / "folder.kv").mkdir()
    (folder / "link.kv").symlink_to("/etc/hostname")
    (folder / "empty.kv").touch()
    os.mkfifo(folder / "pipe.kv")
    store = snapshots(tmp_path)
    assert loaded(store, [1, 2, 3]) == b"state of a"
    assert len(store) == 1
    assert {entry.name for entry in folder.iterdir()} == {path.name, "README", "folder.kv"}
    store.close()


def test_a_file_that_is_taken_away_or_exchanged_while_it_is_known_is_not_loaded(tmp_path: Path) -> None:
    path = flushed(tmp_path)
    store = snapshots(tmp_path)
    store.put("b", [4, 5, 6], b"state of b")
    store.flush(PATIENCE)
    (other,) = (file for file in files(tmp_path) if file != path)
    other.replace(path)
    assert loaded(store, [1, 2, 3]) is None
    store.close()
    store = snapshots(tmp_path)
    assert len(store) == 0
    store.close()


def test_nothing_of_tokens_or_of_whose_they_are_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    store = snapshots(tmp_path)
    store.put("somebody", [918273, 645546], b"state")
    store.close(PATIENCE)
    (path,) = files(tmp_path)
    path.write_bytes(path.read_bytes()[:-1])
    snapshots(tmp_path).close()
    assert caplog.records
    for secret in ("somebody", "918273", "645546"):
        assert secret not in caplog.text


# --- a disk that does not do what it should -----------------------------------------------------------------


def test_a_directory_that_cannot_be_used_leaves_memory(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").touch()
    store = snapshots(tmp_path / "file" / "snapshots")
    store.put("a", [1], b"a")
    assert loaded(store, [1]) == b"a"
    assert store.flush(PATIENCE)
    assert "stay in memory" in caplog.text
    store.close()


def test_a_full_disk_leaves_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def write(path: Path, pieces: Sequence[bytes], **_: object) -> bool:
        path.write_bytes(pieces[0][:10])
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    store = snapshots(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(snapshot_file, "write", write)
        store.put("a", [1], b"a")
        assert store.flush(PATIENCE)
    assert os.strerror(errno.ENOSPC) in caplog.text
    assert loaded(store, [1]) == b"a"
    assert store.disk_used == 0
    assert [*next(tmp_path.iterdir()).iterdir()] == []
    store.flush(PATIENCE)
    assert len(files(tmp_path)) == 1
    store.close()


class SlowDisk:
    """Writes nothing until it is let go on."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self.begun = threading.Event()
        self.go_on = threading.Event()

    def __call__(
        self, path: Path, pieces: Sequence[bytes], *, used: float, go_on: Callable[[], bool]
    ) -> bool:
        path.touch()
        self.begun.set()
        while not self.go_on.wait(0.01):
            if not go_on():
                return False
        path.unlink()
        return self._write(path, pieces, used=used, go_on=go_on)


@pytest.fixture
def slow_disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowDisk]:
    disk = SlowDisk(snapshot_file.write)
    monkeypatch.setattr(snapshot_file, "write", disk)
    yield disk
    disk.go_on.set()


def test_what_is_forgotten_while_it_is_written_is_not_there_afterwards(
    tmp_path: Path, slow_disk: SlowDisk
) -> None:
    store = snapshots(tmp_path)
    store.put("a", [1], b"a")
    assert slow_disk.begun.wait(PATIENCE)
    assert len(store.forget("a")) == 1
    assert store.find([1], "a") is None
    slow_disk.go_on.set()
    assert store.flush(PATIENCE)
    assert (files(tmp_path), store.disk_used) == ([], 0)
    store.close()
    assert [*next(tmp_path.iterdir()).iterdir()] == []


def test_what_the_queue_does_not_take_stays_in_memory_until_there_is_time(
    tmp_path: Path, slow_disk: SlowDisk
) -> None:
    store = snapshots(tmp_path)
    for number in range(40):
        store.put(str(number), [number], b"state")
    assert not store.flush(0.01)
    assert all(loaded(store, [number]) == b"state" for number in range(40))
    slow_disk.go_on.set()
    assert store.flush(PATIENCE)
    assert len(files(tmp_path)) == 40
    store.close()


def test_what_is_larger_than_memory_goes_to_disk_one_at_a_time(tmp_path: Path, slow_disk: SlowDisk) -> None:
    store = snapshots(tmp_path, memory_bytes=0)
    store.put("a", [1], b"a")
    store.put("b", [2], b"b")  # for which there is no place while the other is written
    assert store.memory_used == 0
    assert loaded(store, [1]) == b"a"
    assert store.find([2], "b") is None
    slow_disk.go_on.set()
    assert store.flush(PATIENCE)
    store.put("b", [2], b"b")
    assert store.flush(PATIENCE)
    assert loaded(store, [1]) == b"a"
    assert loaded(store, [2]) == b"b"
    store.close()


def test_a_close_does_not_wait_for_a_disk_that_does_not_go_on(tmp_path: Path, slow_disk: SlowDisk) -> None:
    others = threading.enumerate()
    store = snapshots(tmp_path)
    store.put("a", [1], b"a")
    assert slow_disk.begun.wait(PATIENCE)
    store.close(0.01)
    assert [*next(tmp_path.iterdir()).iterdir()] == []
    assert set(threading.enumerate()) <= set(others)


def test_memory_is_taken_first_from_what_is_on_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    time = Time()
    store = snapshots(tmp_path, time=time, memory_bytes=210)
    store.put("disk", [1], bytes(96))
    assert store.flush(PATIENCE)
    monkeypatch.setattr(snapshot_file, "write", _refuse)
    for name, token in (("memory", 2), ("new", 3)):
        time.pass_by(1)
        assert loaded(store, [1]) is not None  # it is the one that was used last
        store.put(name, [token], bytes(96))
        assert store.flush(PATIENCE)
    assert [loaded(store, [token]) is not None for token in (1, 2, 3)] == [True, True, True]
    assert store.memory_used == 200
    store.close()


def _refuse(*_: object, **__: object) -> bool:
    raise OSError(errno.ENOSPC, "full")


def test_the_least_valuable_file_makes_room(tmp_path: Path) -> None:
    time = Time()
    probe = flushed(tmp_path / "probe").stat().st_size
    store = snapshots(tmp_path / "own", time=time, memory_bytes=0, disk_bytes=2 * probe)
    for number in range(3):
        time.pass_by(1)
        store.put(str(number), [number, 2, 3], b"state of a")
        assert store.flush(PATIENCE)
        assert store.disk_used <= 2 * probe
    assert [store.tokens_of(str(number)) is not None for number in range(3)] == [False, True, True]
    store.close()
    store = snapshots(tmp_path / "own", time=time, disk_bytes=probe)
    assert store.disk_used == probe
    assert loaded(store, [2, 2, 3], "2") is not None
    assert len(store) == 1
    store.close()


def test_the_thread_that_writes_and_the_one_that_uses_it_do_not_get_into_each_others_way(
    tmp_path: Path,
) -> None:
    time = Time()
    store: Snapshots = snapshots(tmp_path, time=time, memory_bytes=40_000, disk_bytes=60_000)
    latest: dict[str, bytes] = {}
    for number in range(1500):
        time.pass_by(1)
        name = str(number % 13)
        if number % 5 < 3:
            latest[name] = number.to_bytes(2, "big") * (500 + number % 3000)
            store.put(name, [number % 13, *range(number % 50)], latest[name])
        elif number % 97 == 0:
            store.forget(name)
            latest.pop(name, None)
        elif (state := loaded(store, [number % 13], name)) is not None:
            assert state == latest[name]
        assert store.memory_used <= 40_000
        assert store.disk_used <= 60_000
        assert sum(size_of(path) for path in next(tmp_path.iterdir()).iterdir()) <= 60_000
    store.close(PATIENCE)
    assert sum(path.stat().st_size for path in files(tmp_path)) <= 60_000


def size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def test_files_are_forgotten_where_no_actor_runs(tmp_path: Path) -> None:
    content = flushed(tmp_path / "model").read_bytes()
    for key in ("one", "two"):
        store = snapshots(tmp_path / "model" / key, key=key)
        store.put("a", [1, 2, 3], b"a")
        store.put("b", [4, 5], b"b")
        store.close(PATIENCE)
    folder = files(tmp_path / "model" / "one")[0].parent
    (folder / "damaged.kv").touch()
    (folder / "begun.tmp").touch()
    (folder / "torn.tmp").write_bytes(content[:-1])  # by a process that died
    (folder / "left behind.old").write_bytes(content)
    assert remove_snapshots(tmp_path, "a") == (4, 12)
    assert not (folder / "torn.tmp").exists()
    assert remove_snapshots(tmp_path, "a") == (0, 0)
    assert remove_snapshots(tmp_path / "model", None) == (2, 4)
    assert [*folder.iterdir()] == []
    assert remove_snapshots(tmp_path / "not there") == (0, 0)
