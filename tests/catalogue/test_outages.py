"""A directory that cannot be read is not an empty one: its models stay as they are until it is back."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from suite.catalogue import Catalogue, Changes, Model, folder, looks
from suite.catalogue.entry import Entry
from suite.catalogue.files import ModelFile, look
from suite.config import ModelSettings
from suite.errors import ModelFileGone, ModelNotFound
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)
NOBODY = 65534
LIMIT_SECONDS = 30
NAMED = {"named": ModelSettings(model_path="below/other.gguf")}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    put(directory / "m.gguf")
    put(directory / "below" / "other.gguf", OTHER)
    return directory


def put(path: Path, content: bytes = GOOD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


async def opened(*directories: Path, settings: Mapping[str, ModelSettings] = NAMED) -> Catalogue:
    catalogue = Catalogue.open(directories, settings, directories[0].parent)
    await catalogue.scan()
    return catalogue


def move(place: Path, to: Path) -> Path:
    return place.rename(to)


def mount(drive: Path, place: Path) -> None:
    """As good as mounted there: what the place leads to is on another device than before."""
    place.unlink(missing_ok=True)
    place.symlink_to(drive)


def may(place: Path, mode: int) -> None:
    place.chmod(mode)


def states(catalogue: Catalogue) -> dict[str, str]:
    return {model_id: model.file_state for model_id, model in catalogue.models.items()}


async def known_and_hashed(directory: Path) -> tuple[Catalogue, dict[str, Model]]:
    catalogue = await opened(directory)
    for model_id in catalogue.models:
        await catalogue.digest(model_id)
    return catalogue, dict(catalogue.models)


async def test_a_directory_that_goes_away_and_comes_back_leaves_all_as_it_was(models: Path) -> None:
    catalogue, before = await known_and_hashed(models)
    away = move(models, models.parent / "away")
    assert not await catalogue.scan()
    assert states(catalogue) == {"m": "unreachable", "named": "unreachable"}
    (problem,) = catalogue.problems
    assert problem.startswith(f"{models} cannot be read (No such file or directory): 2 of its")
    with pytest.raises(ModelFileGone, match=f"m.gguf is out of reach: {models} cannot be read"):
        catalogue.check_present(catalogue.resolve("m"))
    move(away, models)
    assert not await catalogue.scan()
    assert catalogue.models == before  # the digests, too
    assert catalogue.problems == ()


async def test_a_start_without_the_directory_knows_what_was_in_it(tmp_path: Path, models: Path) -> None:
    await opened(models)
    away = move(models, tmp_path / "away")
    more = put(tmp_path / "more" / "m.gguf", OTHER)
    catalogue = await opened(models, more.parent)
    assert list(catalogue.models) == ["more/m"]  # the id m means a file that is out of reach
    assert "2 of its models stay as they are" in catalogue.problems[0]
    for known in ("m", "named"):
        assert not catalogue.has_gone(known)
        with pytest.raises(ModelFileGone, match="bring it back"):
            catalogue.resolve(known)
    assert catalogue.has_gone("never heard of")
    with anyio.fail_after(LIMIT_SECONDS):
        async with aclosing(catalogue.watch()) as changes:
            move(away, models)
            assert await anext(changes) == Changes(added=("m", "named"))
    assert states(catalogue) == {"m": "present", "more/m": "present", "named": "present"}


async def test_an_empty_mount_point_is_no_empty_directory(tmp_path: Path) -> None:
    with (
        tempfile.TemporaryDirectory(dir=tmp_path) as empty,
        tempfile.TemporaryDirectory(dir="/dev/shm") as drive,
    ):
        place = tmp_path / "models"
        put(Path(drive) / "m.gguf")
        mount(Path(drive), place)
        catalogue = await opened(place, settings={})
        mount(Path(empty), place)
        for asked in (catalogue, await opened(place, settings={})):
            assert not await asked.scan()
            assert "is empty, and its drive is not mounted" in asked.problems[0]
        assert states(catalogue) == {"m": "unreachable"}
        put(place / "n.gguf")  # somebody uses the place for something else
        assert await catalogue.scan() == Changes(added=("n",), removed=("m",))


async def test_a_link_to_a_folder_of_a_drive_that_is_away_is_no_deleted_folder(tmp_path: Path) -> None:
    drive, models = put(tmp_path / "drive" / "m.gguf").parent, put(tmp_path / "models" / "n.gguf").parent
    mount(drive, models / "linked")
    mount(drive / "m.gguf", models / "file.gguf")
    catalogue = Catalogue.open([models], {}, tmp_path, follow_links="anywhere")
    await catalogue.scan()
    away = move(drive, tmp_path / "away")
    assert not await catalogue.scan()
    assert states(catalogue) == {"file": "unreachable", "m": "unreachable", "n": "present"}
    assert f"{models / 'linked'} cannot be read (No such file" in str(catalogue.problems)
    move(away, drive)
    await catalogue.scan()
    assert set(states(catalogue).values()) == {"present"}
    (models / "linked").unlink()
    assert await catalogue.scan() == Changes(removed=("m",))


async def test_what_a_person_deletes_is_removed(models: Path) -> None:
    catalogue = await opened(models)
    shutil.rmtree(models / "below")
    assert await catalogue.scan() == Changes(removed=("named",))
    (models / "m.gguf").unlink()
    assert await catalogue.scan() == Changes(removed=("m",))
    assert catalogue.problems == ()


async def test_a_directory_deleted_for_good_is_made_anew_or_taken_out(tmp_path: Path, models: Path) -> None:
    catalogue = await opened(models)
    shutil.rmtree(models)
    assert not await catalogue.scan()
    assert "take it out of models_directories or make it anew" in catalogue.problems[0]
    other = put(tmp_path / "more" / "n.gguf").parent
    without = await opened(other)
    assert without.has_gone("m")
    assert without.problems == ()
    put(models / "read-me.txt")
    assert await catalogue.scan() == Changes(removed=("m", "named"))
    assert catalogue.problems == ()


async def test_a_directory_that_never_was_is_no_alarm(tmp_path: Path) -> None:
    catalogue = await opened(tmp_path / "missing", settings={})
    assert catalogue.problems == ()
    assert "missing cannot be read: No such file or directory" in catalogue.warnings[0]
    with pytest.raises(ModelNotFound):
        catalogue.resolve("m")


async def test_a_folder_or_file_without_permission_is_out_of_reach() -> None:
    with tempfile.TemporaryDirectory() as name:  # the tests' own directory is root's alone
        top = Path(name)
        may(top, 0o777)
        put(top / "models" / "m.gguf")
        put(top / "models" / "below" / "n.gguf")
        with nobody():
            catalogue = await opened(top / "models", settings={})
            await catalogue.digest("m")
        may(top / "models" / "m.gguf", 0)
        may(top / "models" / "below", 0)
        with nobody():
            assert not await catalogue.scan()
        assert states(catalogue) == {"m": "unreachable", "n": "unreachable"}
        assert all("Permission denied" in problem for problem in catalogue.problems)
        may(top / "models" / "m.gguf", 0o644)
        may(top / "models" / "below", 0o755)
        with nobody():
            changes = await catalogue.scan()
        assert not (changes.removed or changes.added or changes.changed)
        assert "n" in changes.touched  # it was not read before it went
        assert states(catalogue) == {"m": "present", "n": "present"}


async def test_a_drive_that_does_not_answer_is_told_of(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock, answered, asked = Clock(), threading.Event(), threading.Event()
    catalogue = Catalogue.open([models], {}, models.parent, clock=clock)
    await catalogue.scan()

    def wait(*_: object, **__: object) -> Iterator[Entry]:
        asked.set()
        answered.wait(LIMIT_SECONDS)
        return iter(())

    with monkeypatch.context() as patched:  # a drive cannot be made to hang otherwise
        patched.setattr(folder, "entries", wait)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(catalogue.scan)
            await anyio.to_thread.run_sync(asked.wait, LIMIT_SECONDS)
            assert not str(catalogue.problems).count("has not answered")
            clock.now = 30
            assert str(models) in str(catalogue.problems)
            assert set(catalogue.models) == {"m", "other"}
            tasks.cancel_scope.cancel()  # a stop does not wait for it
        answered.set()
    assert catalogue.problems == ()


async def test_requests_for_a_drive_that_hangs_block_no_others_and_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, healthy = put(tmp_path / "hangs" / "m.gguf"), put(tmp_path / "healthy" / "n.gguf")
    catalogue = await opened(hangs.parent, healthy.parent, settings={})
    far, near = catalogue.resolve("m"), catalogue.resolve("n")
    answers, asked = threading.Event(), list[Path]()

    def hanging(entry: Entry, roots: Sequence[Path]) -> ModelFile:
        if entry.path == hangs:
            asked.append(entry.path)
            answers.wait(LIMIT_SECONDS)
        return look(entry, roots)

    async def refused() -> None:
        with pytest.raises(ModelFileGone, match="its drive does not answer"):
            await catalogue.look(far)

    monkeypatch.setattr(
        "suite.catalogue.directories.look", hanging
    )  # a drive cannot be made to hang otherwise
    monkeypatch.setattr(looks, "LOOK_SECONDS", 0.2)
    try:
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(refused)
            with anyio.fail_after(LIMIT_SECONDS):
                await anyio.wait_all_tasks_blocked()
                await catalogue.look(near)
        await refused()
        assert asked == [hangs]
    finally:
        answers.set()
    monkeypatch.setattr(looks, "LOOK_SECONDS", LIMIT_SECONDS)
    with anyio.fail_after(LIMIT_SECONDS):
        while True:
            with suppress(ModelFileGone):
                await catalogue.look(far)
                break
            await anyio.sleep(0.01)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@contextmanager
def nobody() -> Iterator[None]:
    """Nothing is without permission for root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
