"""A backup as a file: how it gets its name, and that whatever was done to it is noticed."""

from __future__ import annotations

import errno
import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from zipfile import ZIP_BZIP2, ZIP_DEFLATED, ZIP_LZMA, ZipFile

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from suite.backup.archive import STREAM, Archive, ArchiveWriter, Manifest, publish
from suite.errors import BackupUnusable, FileNameTaken

MANIFEST = Manifest(
    taken=datetime(2026, 11, 29, tzinfo=UTC),
    version="0.1.0",
    subject_root="suite",
    messages=1,
    first_seq=1,
    last_seq=1,
    parts={},
)


async def written(path: Path) -> Path:
    """A small backup that has no name yet."""
    async with ArchiveWriter.create(path) as archive:
        await archive.add(STREAM, content())
        await archive.finish(MANIFEST)
    return archive.part


async def content() -> AsyncIterator[bytes]:
    yield b"all that happened"


def files_in(directory: Path) -> set[Path]:
    return set(directory.iterdir())


async def test_two_of_one_name_do_not_share_a_file(tmp_path: Path) -> None:
    path = tmp_path / "log.backup"
    first, second = await written(path), await written(path)
    publish(first, path)
    with pytest.raises(FileNameTaken, match=str(second)):
        publish(second, path)
    assert (await Archive.open(path)).manifest.last_seq == 1
    assert (await Archive.open(second)).manifest.last_seq == 1  # as the message says
    assert files_in(tmp_path) == {path, second}
    assert path.stat().st_mode & 0o077 == 0


async def test_a_place_that_is_none_is_named_as_it_was_given(tmp_path: Path) -> None:
    path = tmp_path / "nowhere" / "log.backup"
    with pytest.raises(FileNotFoundError) as refused:
        await written(path)
    assert refused.value.filename == str(path)


@pytest.fixture
def no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system without hard links, such as exFAT."""

    def refuse(*_: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_links")
async def test_it_gets_its_name_where_there_are_no_hard_links(tmp_path: Path) -> None:
    path = tmp_path / "log.backup"
    publish(await written(path), path)
    assert (await Archive.open(path)).manifest.last_seq == 1
    assert files_in(tmp_path) == {path}


@pytest.mark.usefixtures("no_links")
async def test_nothing_is_replaced_there_either(tmp_path: Path) -> None:
    path = tmp_path / "log.backup"
    part = await written(path)
    path.write_bytes(b"of somebody else")
    with pytest.raises(FileNameTaken, match=str(part)):
        publish(part, path)
    assert path.read_bytes() == b"of somebody else"
    assert part.exists()


@pytest.mark.usefixtures("no_links")
async def test_one_that_cannot_get_its_name_stays_and_is_named(tmp_path: Path) -> None:
    part = await written(tmp_path / "log.backup")
    with pytest.raises(OSError, match=str(part)):
        publish(part, tmp_path / "gone" / "log.backup")
    assert part.exists()


@pytest.mark.parametrize("method", [ZIP_DEFLATED, ZIP_BZIP2, ZIP_LZMA])
async def test_one_that_was_packed_anew_and_harmed_is_unusable(tmp_path: Path, method: int) -> None:
    part, packed = await written(tmp_path / "log.backup"), tmp_path / "packed.backup"
    with ZipFile(part) as archive, ZipFile(packed, "w", method) as anew:
        for name in archive.namelist():
            anew.writestr(name, archive.read(name))
    await Archive.open(packed)
    harmed = bytearray(packed.read_bytes())
    place = harmed.index(STREAM.encode()) + len(STREAM)
    harmed[place : place + 8] = b"\xff" * 8
    packed.write_bytes(harmed)
    with pytest.raises(BackupUnusable):
        await Archive.open(packed)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_was_altered_is_noticed_or_does_not_matter(tmp_path: Path, data: st.DataObject) -> None:
    async def check() -> None:
        part = await written(tmp_path / "log.backup")
        harmed = bytearray(part.read_bytes())
        for place in data.draw(st.lists(st.integers(0, len(harmed) - 1), min_size=1, max_size=4)):
            harmed[place] ^= data.draw(st.integers(1, 255))
        part.write_bytes(harmed)
        try:
            archive = await Archive.open(part)
            assert await archive.content(STREAM) == b"all that happened"
        except BackupUnusable:
            pass
        finally:
            part.unlink()

    anyio.run(check)
