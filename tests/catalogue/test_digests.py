"""Digests are right whatever happens to the files, are computed once, and survive restarts and garbage."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from msgspec.structs import replace

from suite.catalogue import Catalogue, Changes
from suite.catalogue.digests import DigestCache, fingerprint, sha256
from suite.engine.gguf.signature import Signature
from suite.errors import ModelFileGone, ModelFileInvalid, ModelNotFound
from support.raw_gguf import Tensor, gguf_bytes

GOOD = gguf_bytes()
LARGE = gguf_bytes(tensors=(Tensor(dimensions=(32, 8192)),), data=0) + b"w" * (1 << 20)
BLOCK = 8192
OTHER = gguf_bytes(tensors=(Tensor(dimensions=(32, 8)),), data=1024)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    directory = tmp_path / "models"
    directory.mkdir()
    (directory / "m.gguf").write_bytes(GOOD)
    return directory


async def opened(models: Path) -> Catalogue:
    catalogue = Catalogue.open([models], {}, models.parent)
    await catalogue.scan()
    return catalogue


def rewrite(path: Path, content: bytes) -> None:
    """Write other content of the same size into a file, and set its time back."""
    times = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def digest(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()


async def test_a_digest_is_computed_once(models: Path) -> None:
    catalogue = await opened(models)
    assert catalogue.resolve("m").sha256 is None
    assert await catalogue.digest("m") == digest(GOOD)
    assert catalogue.resolve("m").sha256 == digest(GOOD)
    # a digest that is not the file's: who read the file again would not come to it
    cache = models.parent / "digests.json"
    cache.write_bytes(cache.read_bytes().replace(digest(GOOD).encode(), digest(OTHER).encode()))
    assert await (await opened(models)).digest("m") == digest(OTHER)


async def test_the_digest_of_a_file_that_was_rewritten_with_its_old_time_is_not_kept(models: Path) -> None:
    catalogue = await opened(models)
    await catalogue.digest("m")
    path, other = models / "m.gguf", models.parent / "other"
    for content in (GOOD[:-1] + b"x", GOOD[:-1] + b"y"):
        rewrite(path, content)
        assert await catalogue.scan() == Changes(changed=("m",))
        assert await catalogue.digest("m") == digest(content)
        assert (await opened(models)).resolve("m").sha256 == digest(content)
    times = path.stat()
    other.write_bytes(GOOD)
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.rename(path)
    assert await (await opened(models)).digest("m") == digest(GOOD)
    assert await catalogue.scan() == Changes(changed=("m",))
    assert await catalogue.digest("m") == digest(GOOD)


async def test_a_touched_file_is_read_again_and_has_not_changed(models: Path) -> None:
    path = models / "m.gguf"
    catalogue = await opened(models)
    first = await catalogue.digest("m")
    touches: list[Callable[[], None]] = [
        path.touch,
        lambda: path.chmod(0o600),
        lambda: (models / "link").hardlink_to(path),
    ]
    for touch in touches:
        touch()
        assert await catalogue.scan() == Changes(touched=("m",))
        assert catalogue.resolve("m").sha256 is None, "it may have been written to"
    path.rename(models / "away")
    (models / "away").rename(path)
    assert await catalogue.scan() == Changes(touched=("m",))
    assert await catalogue.digest("m") == first
    assert not await catalogue.scan()


async def test_a_change_that_only_the_digest_tells_is_found_by_it(models: Path) -> None:
    """Most other content is told at once; a byte somewhere in the weights is not."""
    path = models / "m.gguf"
    path.write_bytes(LARGE)
    catalogue = await opened(models)
    await catalogue.digest("m")
    rewrite(path, LARGE[: -BLOCK - 1] + b"x" + LARGE[-BLOCK:])
    assert await catalogue.scan() == Changes(touched=("m",))
    assert await catalogue.digest("m") == digest(path.read_bytes())
    rewrite(path, LARGE[:-1] + b"x")
    assert await catalogue.scan() == Changes(changed=("m",))
    assert await catalogue.digest("m") == digest(path.read_bytes())


async def test_a_directory_that_was_renamed_is_not_read_again(models: Path) -> None:
    first = await (await opened(models)).digest("m")
    moved = await anyio.Path(models).rename(models.parent / "moved")
    assert (await opened(Path(moved))).resolve("m").sha256 == first


async def test_an_image_with_the_same_times_and_inodes_is_not_taken_for_the_one_before(models: Path) -> None:
    cache, model = DigestCache(models.parent / "digests.json"), (await opened(models)).resolve("m")
    cache.put(model.path, model.file.signature, model.fingerprint, digest(GOOD))
    mounted = Signature(tuple(replace(part, device=7) for part in model.file.signature.parts))
    assert cache.get(mounted, model.fingerprint) == digest(GOOD)
    rewrite(model.path, GOOD[:-1] + b"x")
    assert cache.get(mounted, fingerprint([model.path])) is None


async def test_a_file_that_changes_while_it_is_read_has_no_digest(models: Path) -> None:
    path = models / "m.gguf"

    def change_it() -> int:
        rewrite(path, GOOD[:-1] + b"x")
        return path.stat().st_ctime_ns

    with pytest.raises(ModelFileInvalid, match="just been changed"):
        sha256([path], threading.Event(), change_it)


async def test_the_cache_of_an_older_version_is_computed_again(models: Path) -> None:
    path, cache = models / "m.gguf", models.parent / "digests.json"
    times = path.stat()
    old = {str(path): {"size": times.st_size, "mtime_ns": times.st_mtime_ns, "sha256": digest(OTHER)}}
    cache.write_text(json.dumps(old))
    assert await (await opened(models)).digest("m") == digest(GOOD)


async def test_callers_at_once_get_the_same(models: Path) -> None:
    catalogue = await opened(models)
    found: list[str] = []

    async def ask() -> None:
        found.append(await catalogue.digest("m"))

    async with anyio.create_task_group() as tasks:
        for _ in range(5):
            tasks.start_soon(ask)
    assert found == [digest(GOOD)] * 5


async def test_other_content_has_another_digest(models: Path) -> None:
    catalogue = await opened(models)
    await catalogue.digest("m")
    (models / "m.gguf").write_bytes(OTHER)
    await catalogue.scan()
    assert catalogue.resolve("m").sha256 is None
    assert await catalogue.digest("m") == digest(OTHER)
    (models / "m.gguf").write_bytes(GOOD)
    os.utime(models / "m.gguf", ns=(1, 1))
    await catalogue.scan()
    assert await catalogue.digest("m") == digest(GOOD)


async def test_the_parts_of_a_split_model_are_digested_in_order(models: Path) -> None:
    parts = [
        gguf_bytes({"split.no": number, "split.count": 2}, tensors=(Tensor(f"blk.{number}.attn_q.weight"),))
        for number in range(2)
    ]
    for number, content in enumerate(parts):
        (models / f"big-{number + 1:05}-of-00002.gguf").write_bytes(content)
    assert await (await opened(models)).digest("big") == digest(*parts)


@pytest.mark.parametrize(
    "garbage", [b"", b"{", b"[]", b'{"/a": 1}', b'{"/a": {"size": "x"}}', b"\xff\x00" * 100]
)
async def test_a_spoilt_cache_is_computed_anew(garbage: bytes, models: Path) -> None:
    cache = models.parent / "digests.json"
    cache.write_bytes(garbage)
    assert await (await opened(models)).digest("m") == digest(GOOD)
    assert (await opened(models)).resolve("m").sha256 == digest(GOOD)


async def test_the_cache_is_the_owners_alone_and_holds_only_what_is_there(models: Path) -> None:
    cache = models.parent / "digests.json"
    cache.touch(mode=0o644)
    (models / "other.gguf").write_bytes(OTHER)
    catalogue = await opened(models)
    await catalogue.digest("m")
    assert cache.stat().st_mode & 0o777 == 0o600
    (models / "m.gguf").unlink()
    await catalogue.digest("other")
    assert b"m.gguf" not in cache.read_bytes()
    assert b"other.gguf" in cache.read_bytes()
    assert sorted(path.name for path in models.parent.iterdir()) == ["digests.json", "ids.json", "models"]


async def test_a_cache_that_cannot_be_written_costs_nothing_but_time(models: Path, tmp_path: Path) -> None:
    catalogue = Catalogue.open([models], {}, tmp_path / "missing")
    await catalogue.scan()
    assert await catalogue.digest("m") == digest(GOOD)


async def test_a_file_that_is_gone_has_no_digest(models: Path) -> None:
    catalogue = await opened(models)
    (models / "m.gguf").unlink()
    with pytest.raises(ModelFileGone):
        await catalogue.digest("m")
    with pytest.raises(ModelNotFound):
        await catalogue.digest("other")


async def test_a_digest_that_nobody_waits_for_any_more_is_given_up(models: Path) -> None:
    with (models / "m.gguf").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: reading it through takes minutes
    catalogue = await opened(models)
    with anyio.move_on_after(0.2) as limit:
        await catalogue.digest("m")
    assert limit.cancelled_caught
    assert catalogue.resolve("m").sha256 is None


async def test_a_known_digest_does_not_wait_for_the_turn_of_others(
    models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("known", "large"):
        (models / f"{name}.gguf").write_bytes(GOOD)
    catalogue = Catalogue.open([models], {}, models.parent)
    await catalogue.scan()
    expected = await catalogue.digest("known")
    reading, go_on = threading.Event(), threading.Event()

    def slow(paths: list[Path], stop: threading.Event) -> str | None:
        reading.set()
        go_on.wait(30)
        return sha256(paths, stop)

    monkeypatch.setattr("suite.catalogue.catalogue.sha256", slow)
    async with anyio.create_task_group() as tasks:
        (models / "large.gguf").write_bytes(GOOD + b"\0")
        await catalogue.scan()
        tasks.start_soon(catalogue.digest, "large")
        await anyio.to_thread.run_sync(reading.wait)
        try:
            with anyio.fail_after(10):
                assert await catalogue.digest("known") == expected
        finally:
            go_on.set()
