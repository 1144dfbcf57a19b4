"""A directory that cannot be read is not an empty one: its models stay as they are until it is back."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from suite.catalogue import Catalogue, Changes, Model, looks
from suite.config import ModelSettings
from suite.errors import ModelFileGone, ModelNotFound
from support.raw_gguf import Tensor, gguf_bytes
from support.stores import HuggingFaceHub, Ollama

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)
NOBODY = 65534
REVISION = "0123456789abcdef" * 2 + "01234567"
LIBRARY = "registry.ollama.ai/library"
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


async def test_what_cannot_be_read_within_a_store_is_not_deleted() -> None:
    with tempfile.TemporaryDirectory() as name:  # the tests' own directory is root's alone
        top = Path(name)
        hub, ollama = HuggingFaceHub(top / "models" / "hub"), Ollama(top / "models" / "ollama")
        revision = hub.add("org/tiny", REVISION, "below/hugging.gguf", GOOD).parent.parent
        manifest = ollama.add(f"{LIBRARY}/tiny/1b", OTHER, parameters={"temperature": 1})
        parameters = ollama.blob(json.dumps({"temperature": 1}).encode())
        may(top, 0o777)
        with nobody():
            catalogue = await opened(top / "models", settings={})
        places = [revision.parent, revision, revision / "below", manifest.parent, manifest, parameters]
        for place in (*places, hub.repository("org/tiny") / "refs" / "main"):
            mode = place.stat().st_mode
            may(place, 0)
            with nobody():
                assert not await catalogue.scan()
            assert sorted(states(catalogue).values()) == ["present", "unreachable"]
            (problem,) = catalogue.problems
            assert str(place) in problem
            assert problem.endswith("give the service's user the right to read it")
            may(place, mode)
            with nobody():
                await catalogue.scan()
            assert states(catalogue) == {"hugging": "present", "tiny:1b": "present"}


@pytest.mark.parametrize("left", ["an empty folder", "a link to nothing", "nothing"])
async def test_blobs_that_are_away_change_no_model(tmp_path: Path, left: str) -> None:
    hub, ollama = HuggingFaceHub(tmp_path / "models" / "hub"), Ollama(tmp_path / "models" / "ollama")
    hub.add("org/tiny", REVISION, "hugging.gguf", GOOD)
    ollama.add(f"{LIBRARY}/tiny/1b", OTHER, system="Be brief.")
    catalogue = await opened(tmp_path / "models", settings={})
    both = hub.repository("org/tiny") / "blobs", ollama.directory / "blobs"
    for blobs in both:
        move(blobs, blobs.with_name("away"))
        if left == "an empty folder":
            blobs.mkdir()
        elif left == "a link to nothing":
            blobs.symlink_to(tmp_path / "drive" / "blobs")
    for asked in (catalogue, catalogue, await opened(tmp_path / "models", settings={})):
        changes = await asked.scan()
        assert not (changes.changed or changes.removed)
        assert len(asked.problems) == 2
        assert all("cannot be read" in problem for problem in asked.problems)
        assert "it is there again" not in str(asked.problems)
    assert states(catalogue) == {"hugging": "unreachable", "tiny:1b": "unreachable"}
    for blobs in both:
        if left != "nothing":
            (Path.unlink if blobs.is_symlink() else Path.rmdir)(blobs)
        move(blobs.with_name("away"), blobs)
    changes = await catalogue.scan()
    assert not (changes.changed or changes.removed)
    assert states(catalogue) == {"hugging": "present", "tiny:1b": "present"}
    assert catalogue.problems == ()


async def test_many_files_of_one_drive_are_one_problem_and_many_drives_some(tmp_path: Path) -> None:
    models = put(tmp_path / "models" / "here.gguf").parent
    for number in range(30):
        drive = put(tmp_path / f"drive{number}" / "below" / "a.gguf").parent
        put(drive / "b.gguf")
        for name in ("a", "b"):
            (models / f"{name}{number}.gguf").symlink_to(drive / f"{name}.gguf")
    catalogue = Catalogue.open([models], {}, tmp_path, follow_links="anywhere")
    await catalogue.scan()
    move(tmp_path / "drive0", tmp_path / "away")
    await catalogue.scan()
    (problem,) = catalogue.problems
    assert problem.startswith(f"{tmp_path / 'drive0'} cannot be read (No such file or directory): 2 of its")
    for number in range(1, 30):
        shutil.rmtree(tmp_path / f"drive{number}")
    await catalogue.scan()
    assert len(catalogue.problems) == 21
    assert catalogue.problems[-1] == "10 more cannot be read"


async def test_what_is_listed_but_no_model_any_more_is_removed(tmp_path: Path) -> None:
    models, other = tmp_path / "models", put(tmp_path / "other" / "m.gguf").parent
    models.mkdir()
    (models / "linked").symlink_to(other)
    await Catalogue.open([models], {}, tmp_path, follow_links="anywhere").scan()
    catalogue = await opened(models, settings={})
    assert "it is there again" in str(catalogue.problems)
    assert await catalogue.scan() == Changes(removed=("m",))
    assert catalogue.problems == ()


async def test_a_drive_that_does_not_answer_is_told_of(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    catalogue = Catalogue.open([models], {}, models.parent, clock=clock)
    await catalogue.scan()
    with hanging(models, monkeypatch) as asked:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anext, catalogue.watch())
            await anyio.to_thread.run_sync(asked.wait, LIMIT_SECONDS)
            assert catalogue.problems == ()
            clock.now = 30
            assert f"has not answered for 30 s or more: see whether the drives of {models}" in str(
                catalogue.problems
            )
            assert set(catalogue.models) == {"m", "other"}
            tasks.cancel_scope.cancel()  # a stop does not wait for it
    assert catalogue.problems == ()


async def test_requests_for_a_drive_that_hangs_block_no_others_and_one_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs, healthy = put(tmp_path / "hangs" / "m.gguf"), put(tmp_path / "healthy" / "n.gguf")
    catalogue = await opened(hangs.parent, healthy.parent, settings={})
    far, near = catalogue.resolve("m"), catalogue.resolve("n")

    async def refused() -> None:
        with pytest.raises(ModelFileGone, match="its drive does not answer"):
            await catalogue.look(far)

    monkeypatch.setattr(looks, "LOOK_SECONDS", 0.2)
    with hanging(hangs.parent, monkeypatch):
        threads = threading.active_count()
        async with anyio.create_task_group() as tasks:
            for _ in range(100):
                tasks.start_soon(refused)
            with anyio.fail_after(LIMIT_SECONDS):
                await anyio.wait_all_tasks_blocked()
                await catalogue.look(near)
        await refused()
        assert threading.active_count() <= threads + 2  # one that hangs, one for the others
    monkeypatch.setattr(looks, "LOOK_SECONDS", LIMIT_SECONDS)
    with anyio.fail_after(LIMIT_SECONDS):
        while True:
            with suppress(ModelFileGone):
                await catalogue.look(far)
                break
            await anyio.sleep(0.01)


async def test_a_start_does_not_wait_for_ever_for_a_drive(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await opened(models, settings={})
    catalogue = Catalogue.open([models], {}, models.parent)
    with anyio.fail_after(LIMIT_SECONDS), hanging(models, monkeypatch):
        await catalogue.scan_first(patience_seconds=0.1)
        assert "has not answered" in str(catalogue.problems)
        assert not catalogue.has_gone("m")
        assert not catalogue.has_gone("what ids.json does not know, and the log does")
        with pytest.raises(ModelFileGone, match=r"m is out of reach: .* has not been listed yet"):
            catalogue.resolve("m")
    (models / "below" / "other.gguf").unlink()
    with anyio.fail_after(LIMIT_SECONDS):
        async with aclosing(catalogue.watch()) as changes:
            assert await anext(changes) == Changes(removed=("other",))
            assert await anext(changes) == Changes(added=("m",))
    assert catalogue.problems == ()


@contextmanager
def hanging(drive: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """A drive that does not answer as long as this is entered, which cannot be made otherwise."""
    stat, asked, answers = Path.stat, threading.Event(), threading.Event()

    def wait(path: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if path.is_relative_to(drive):
            asked.set()
            answers.wait(LIMIT_SECONDS)
        return stat(path, follow_symlinks=follow_symlinks)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "stat", wait)
        try:
            yield asked
        finally:
            answers.set()


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
