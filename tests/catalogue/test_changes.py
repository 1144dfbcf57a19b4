"""What scans and the watch tell when files come, change and go."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path

import anyio
import pytest

from suite.catalogue import Catalogue, Changes
from suite.errors import ModelFileIncomplete, ModelNotFound
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)
LIMIT_SECONDS = 30


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_catalogue(directory: Path, clock: Clock | None = None) -> Catalogue:
    return Catalogue.open([directory], {}, directory.parent, clock=clock or Clock())


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    return directory


async def test_a_scan_tells_what_came_changed_and_went(models: Path) -> None:
    catalogue = open_catalogue(models)
    assert not await catalogue.scan()
    path = models / "m.gguf"
    path.write_bytes(GOOD)
    assert await catalogue.scan() == Changes(added=("m",))
    assert not await catalogue.scan()
    path.write_bytes(OTHER)
    assert await catalogue.scan() == Changes(changed=("m",))
    info = catalogue.resolve("m").info
    assert info is not None
    assert info.parameters == 256
    path.unlink()
    assert await catalogue.scan() == Changes(removed=("m",))
    with pytest.raises(ModelNotFound):
        catalogue.resolve("m")


async def test_a_known_file_is_not_inspected_again(models: Path) -> None:
    (models / "good.gguf").write_bytes(GOOD)
    (models / "bad.gguf").write_bytes(b"text")
    catalogue = open_catalogue(models)
    await catalogue.scan()
    before = dict(catalogue.models)
    await catalogue.scan()
    assert all(catalogue.resolve(model_id) is model for model_id, model in before.items())


async def test_a_file_on_its_way_does_not_count_until_it_has_settled(models: Path) -> None:
    clock = Clock()
    catalogue = open_catalogue(models, clock)
    path = models / "m.gguf"
    path.write_bytes(GOOD[:100])
    assert not await catalogue.scan(settle_seconds=10)
    clock.now = 9
    path.write_bytes(GOOD)
    assert not await catalogue.scan(settle_seconds=10)
    clock.now = 18
    assert not await catalogue.scan(settle_seconds=10)
    clock.now = 19
    assert await catalogue.scan(settle_seconds=10) == Changes(added=("m",))
    assert catalogue.resolve("m").error is None


async def test_a_model_stays_as_it_was_while_its_file_is_replaced(models: Path) -> None:
    clock = Clock()
    catalogue = open_catalogue(models, clock)
    path = models / "m.gguf"
    path.write_bytes(GOOD)
    await catalogue.scan()
    before = catalogue.resolve("m")
    path.write_bytes(OTHER)
    assert not await catalogue.scan(settle_seconds=10)
    assert catalogue.resolve("m") is before
    clock.now = 10
    assert await catalogue.scan(settle_seconds=10) == Changes(changed=("m",))


async def test_a_file_that_is_being_overwritten_counts_as_changed_before_it_has_settled(models: Path) -> None:
    clock = Clock()
    catalogue = open_catalogue(models, clock)
    path = models / "m.gguf"
    path.write_bytes(GOOD)
    await catalogue.scan()
    with path.open("r+b") as file:  # a slow copy in place, as `cp` makes it
        for number in range(4):
            file.write(OTHER[number * 10 : number * 10 + 10])
            file.flush()
            changes = await catalogue.scan(settle_seconds=10)
            assert changes == (Changes(changed=("m",)) if number == 1 else Changes())
        assert catalogue.resolve("m").file_state == "arriving"
        with pytest.raises(ModelFileIncomplete):
            catalogue.check_present(catalogue.resolve("m"))
        file.write(OTHER[40:])
    await catalogue.scan(settle_seconds=10)
    clock.now = 10
    assert await catalogue.scan(settle_seconds=10) == Changes(added=("m",))
    assert catalogue.resolve("m").error is None


async def test_other_rights_again_and_again_are_no_change(models: Path) -> None:
    catalogue = open_catalogue(models)
    path = models / "m.gguf"
    path.write_bytes(GOOD)
    await catalogue.scan()
    for mode in (0o600, 0o640, 0o644):
        path.chmod(mode)
        assert not await catalogue.scan(settle_seconds=10)
    assert catalogue.resolve("m").file_state == "present"


async def test_a_missing_directory_is_watched_for(tmp_path: Path) -> None:
    models = tmp_path / "later"
    catalogue = Catalogue.open([models], {}, tmp_path)
    await catalogue.scan()
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as tasks, aclosing(catalogue.watch()) as changes:

            async def make() -> None:
                await anyio.sleep(0.1)
                models.mkdir()
                (models / "m.gguf").write_bytes(GOOD)

            tasks.start_soon(make)
            assert await anext(changes) == Changes(added=("m",))


async def test_the_watch_tells_of_files_that_come_change_and_go(models: Path) -> None:
    catalogue = Catalogue.open([models], {}, models.parent)
    await catalogue.scan()
    path = models / "below" / "m.gguf"
    with anyio.fail_after(LIMIT_SECONDS):
        async with aclosing(catalogue.watch()) as changes:
            path.parent.mkdir()
            path.write_bytes(GOOD)  # after the last scan, before the watch begins
            assert await anext(changes) == Changes(added=("m",))
            path.write_bytes(OTHER)
            assert await anext(changes) == Changes(changed=("m",))
            path.unlink()
            assert await anext(changes) == Changes(removed=("m",))


async def test_a_watch_can_be_left_at_any_time(models: Path) -> None:
    catalogue = open_catalogue(models)
    with anyio.fail_after(LIMIT_SECONDS):
        async with anyio.create_task_group() as tasks:

            async def follow() -> None:
                async with aclosing(catalogue.watch()) as changes:
                    async for _ in changes:
                        pass

            tasks.start_soon(follow)
            await anyio.sleep(0.2)
            tasks.cancel_scope.cancel()
