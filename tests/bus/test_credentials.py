"""The file of users: who is in it, who may read it, and what is done about one that is damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from suite.bus import credentials
from suite.bus.credentials import ESSENTIAL, OFFERED, Credentials, change, new_password, read
from suite.errors import DataDirUnusable, InvalidRequest


def test_it_is_made_once_and_for_its_owner_alone(tmp_path: Path) -> None:
    file = credentials.path(tmp_path)
    with pytest.raises(FileNotFoundError):
        read(file)
    made = change(file)
    assert list(made.users) == list(OFFERED)
    assert len({each.password for each in made.users.values()}) == len(OFFERED)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert (change(file), read(file)) == (made, made)


def test_a_user_who_was_revoked_stays_away_and_who_is_needed_comes_back(tmp_path: Path) -> None:
    file = credentials.path(tmp_path)
    made = change(file, lambda known: known.revoke("client"))
    assert change(file) == made
    file.write_text('{"users": {"mine": {"role": "client", "password": "chosen"}}}')
    assert set(change(file).users) == {"mine", *ESSENTIAL}


async def test_changes_of_many_processes_are_all_there(tmp_path: Path) -> None:
    file = credentials.path(tmp_path)

    def add(name: str) -> None:
        change(file, lambda known: known.add(name, "client", new_password()))

    names = [f"user{number}" for number in range(12)]
    async with anyio.create_task_group() as tasks:
        for name in names:
            tasks.start_soon(anyio.to_thread.run_sync, add, name)
    assert set(read(file).users) == {*OFFERED, *names}


def test_what_others_could_read_is_closed_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = credentials.path(tmp_path)
    change(file)
    file.chmod(0o644)
    read(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "rotate" in caplog.text


def test_what_belongs_to_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = credentials.path(tmp_path)
    change(file)
    monkeypatch.setattr("os.geteuid", lambda: 4321)
    with pytest.raises(DataDirUnusable, match="belongs to another user"):
        read(file)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\x00",
        b'{"users": {"client": {"role": "client", "password": "s3cret"}',
        b'{"users": {"client": {"role": "suite", "password": "s3cret"}}}',
        b'{"users": {"client": {"role": "operator", "password": "s3cret"}}}',
        b'{"users": {"suite": {"role": "operator", "password": "s3cret"}}}',
        b'{"users": {"a.b": {"role": "client", "password": "s3cret"}}}',
        b'{"users": {"client": {"role": "client", "password": ""}}}',
        b'{"users": {}, "more": 1}',
    ],
)
def test_a_damaged_file_is_an_error_and_is_left_as_it_is(tmp_path: Path, content: bytes) -> None:
    file = credentials.path(tmp_path)
    file.write_bytes(content)
    with pytest.raises(DataDirUnusable, match="restore it, or delete it") as damaged:
        change(file)
    assert "s3cret" not in damaged.value.message
    assert file.read_bytes() == content


def test_a_directory_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(DataDirUnusable, match="cannot be written"):
        change(tmp_path / "nowhere" / "credentials.json")


def test_the_passwords_are_not_in_what_is_printed_by_mistake() -> None:
    made = Credentials.new()
    printed = f"{made} {made!r} {made.listed()}"
    assert not [each.password for each in made.users.values() if each.password in printed]


def test_users_of_a_cluster_come_from_its_file_and_are_changed_there() -> None:
    own = Credentials.new().add("laptop", "client", "mine")
    shared = Credentials.new().users
    joined = own.sharing(shared)
    assert {name: each.password for name, each in joined.users.items()} == {
        "laptop": "mine",
        **{name: each.password for name, each in shared.items()},
    }
    with pytest.raises(InvalidRequest, match="cluster file of each machine"):
        joined.rotate("client", "x")
    with pytest.raises(InvalidRequest, match="cluster file of each machine"):
        joined.revoke("client")
    assert joined.rotate("laptop", "x").get("laptop").password == "x"
    without = {name: each for name, each in shared.items() if name != "client"}
    assert set(joined.sharing(without).users) == {"laptop", *without}
