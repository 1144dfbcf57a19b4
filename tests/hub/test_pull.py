"""`suite pull` against a server that speaks the hub's API."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import sys
from collections.abc import Iterator
from io import BufferedWriter
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from huggingface_hub import constants

from suite.catalogue import Catalogue
from suite.cli import exit
from suite.errors import FileNameTaken, HubUnreachable, InvalidRequest
from suite.hub.download import download
from suite.hub.offers import HubFile
from suite.hub.reference import Reference
from suite.units import size
from support.command import Done, run_command
from support.disks import small_disk
from support.hub import REVISION, Hub, serving_hub
from support.models import tiny_model
from support.nodes import client_of_node
from support.raw_gguf import gguf_bytes
from support.stores import HuggingFaceHub, sha256
from support.terminal import CTRL_C, terminal

REPOSITORY = "org/tiny-GGUF"
CHUNK = constants.DOWNLOAD_CHUNK_SIZE
"""What the library writes at once, and what is at most downloaded again."""
LARGE = bytes(2 * CHUNK)
TOKEN = "hf_a_secret_that_nobody_may_see"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Hub]:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    with serving_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return tiny_model(tmp_path_factory.mktemp("weights") / "tiny.gguf").read_bytes()


def pull(to: Path, *arguments: str) -> Done:
    return run_command("pull", *arguments, "--to", str(to))


def pulled(to: Path, *arguments: str) -> Any:
    done = pull(to, *arguments, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def refused(to: Path, *arguments: str) -> str:
    done = pull(to, *arguments)
    assert done.returncode != 0
    assert done.stdout == ""
    return done.stderr[done.stderr.index("error ") :]  # behind what it began to download


def names(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file())


async def test_a_model_is_pulled_and_a_running_service_finds_it(
    tmp_path: Path, hub: Hub, weights: bytes
) -> None:
    hub.files(REPOSITORY, {"README.md": b"# tiny", "tiny-Q4_K_M.gguf": weights})
    models = tmp_path / "models"
    models.mkdir()
    async with client_of_node(models, tmp_path / "data") as client:
        done = await anyio.to_thread.run_sync(pulled, models, REPOSITORY)
        path = models / "org" / "tiny-GGUF" / "tiny-Q4_K_M.gguf"
        assert done == {
            "model_id": "tiny-Q4_K_M",
            "repository": REPOSITORY,
            "files": [str(path)],
            "replaced": [],
            "bytes": len(weights),
            "sha256": [sha256(weights)],
        }
        with anyio.fail_after(20):
            while [each.file_state for each in (await client.list_models()).models] != ["present"]:
                await anyio.sleep(0.05)
        assert (await client.generate_text(done["model_id"], "Once", max_tokens=3)).text
    asked = len(hub.asked)
    again = await anyio.to_thread.run_sync(pull, models, REPOSITORY)
    assert again.stdout.splitlines() == [
        f"tiny-Q4_K_M is in {path.parent} ({size(len(weights))}, SHA-256 checked)",
        "next: suite run tiny-Q4_K_M",
    ]
    assert (names(models), len(hub.asked)) == (["org/tiny-GGUF/tiny-Q4_K_M.gguf"], asked)


# --- which model


SEVERAL = {
    "tiny-Q8_0.gguf": gguf_bytes(),
    "tiny-Q4_K_M.gguf": gguf_bytes(data=600),
    "tiny-IQ4_XS.gguf": gguf_bytes(data=700),
    "mmproj-tiny-f16.gguf": gguf_bytes(data=800),
    "big/tiny-F16-00001-of-00002.gguf": gguf_bytes(data=900),
    "big/tiny-F16-00002-of-00002.gguf": gguf_bytes(data=1000),
    "tiny.imatrix.gguf": gguf_bytes(data=1100),
}


@pytest.mark.parametrize(
    ("asked", "files"),
    [
        (REPOSITORY, ["tiny-Q4_K_M.gguf"]),
        (f"{REPOSITORY}:q8_0", ["tiny-Q8_0.gguf"]),
        (f"{REPOSITORY}:tiny-IQ4_XS.gguf", ["tiny-IQ4_XS.gguf"]),
        (f"hf.co/{REPOSITORY}:IQ4_XS", ["tiny-IQ4_XS.gguf"]),
        (f"https://huggingface.co/{REPOSITORY}/blob/main/tiny-Q8_0.gguf", ["tiny-Q8_0.gguf"]),
        (f"{REPOSITORY}:F16", ["big/tiny-F16-00001-of-00002.gguf", "big/tiny-F16-00002-of-00002.gguf"]),
    ],
)
def test_a_quantization_or_a_file_says_which(tmp_path: Path, hub: Hub, asked: str, files: list[str]) -> None:
    hub.files(REPOSITORY, SEVERAL)
    pulled(tmp_path / "models", asked)
    assert names(tmp_path / "models" / REPOSITORY) == files


def test_when_the_choice_is_unclear_there_is_a_list_to_type_from(tmp_path: Path, hub: Hub) -> None:
    hub.files(REPOSITORY, {name: content for name, content in SEVERAL.items() if "Q4_K_M" not in name})
    hub.files("org/texts", {"README.md": b"nothing"})
    listed = [
        f"  {REPOSITORY}:big/tiny-F16-00001-of-00002.gguf  3.1 KiB",
        f"  {REPOSITORY}:tiny-IQ4_XS.gguf  1.3 KiB",
        f"  {REPOSITORY}:tiny-Q8_0.gguf  1.1 KiB",
    ]
    said = refused(tmp_path, REPOSITORY).splitlines()
    assert said[0].startswith("error hub_choice_unclear: ")
    assert said[1:] == listed
    said = refused(tmp_path, f"{REPOSITORY}:Q2_K").splitlines()
    assert said[0].startswith(f"error hub_model_not_found: {REPOSITORY} has no Q2_K")
    assert said[1:] == listed
    assert "org/texts has no GGUF file" in refused(tmp_path, "org/texts")
    assert "'llama3.2:1b' is no repository of the hub" in refused(tmp_path, "llama3.2:1b")
    assert names(tmp_path) == []


def test_no_progress_is_drawn_where_nothing_may_be(tmp_path: Path, hub: Hub) -> None:
    hub.files(REPOSITORY, {"large.gguf": LARGE})
    command = ["pull", REPOSITORY, "--to", str(tmp_path)]
    with terminal(command, columns=200, environ={"NO_COLOR": "1"}) as screen:
        assert screen.ended() == 0
    assert b"\x1b" not in screen.received
    assert len(screen.rows) == 3


def test_files_of_one_name_are_two_and_what_is_replaced_is_told(tmp_path: Path, hub: Hub) -> None:
    paths = ["Q4/model.gguf", "Q8/model.gguf"]
    for part, content in enumerate((gguf_bytes(), gguf_bytes(data=600))):
        hub.files(REPOSITORY, dict.fromkeys(paths, content) | {"README.md": bytes(part)})
        for path in paths:
            done = pull(tmp_path, f"{REPOSITORY}:{path}")
            here = tmp_path / REPOSITORY / path
            warning = f"warning: {here} had other content, and was replaced" if part else None
            assert done.stderr.splitlines()[1:] == ([warning] if warning else [])
            assert here.read_bytes() == content
    assert names(tmp_path / REPOSITORY) == paths


@pytest.mark.parametrize("path", ["../m.gguf", "/m.gguf", "a/../../m.gguf"])
def test_a_path_that_leads_out_of_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    folder = tmp_path / "folder"
    with pytest.raises(InvalidRequest, match="may not be written"):
        download(Nothing(), [HubFile(path=path, bytes=0, sha256=None)], folder, lambda _: None)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("text", "wanted", "revision"),
    [
        ("https://huggingface.co/org/tiny-GGUF/tree/v2", None, "v2"),
        ("https://huggingface.co/org/tiny-GGUF/tree/refs%2Fpr%2F1", None, "refs/pr/1"),
        ("hf.co/org/tiny-GGUF/tree/main/Q4", "Q4", "main"),
        ("hf.co/org/tiny-GGUF/blob/v2/Q4/m.gguf", "Q4/m.gguf", "v2"),
        ("org/tiny-GGUF:Q8_0", "Q8_0", None),
    ],
)
def test_the_address_of_a_page_says_which_revision(
    text: str, wanted: str | None, revision: str | None
) -> None:
    assert Reference.parse(text) == Reference(repository=REPOSITORY, wanted=wanted, revision=revision)


def test_an_empty_file_and_a_drive_without_locks_are_no_obstacle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    class Empty:
        def append(self, file: HubFile, part: BufferedWriter) -> None:
            pass

    monkeypatch.setattr(fcntl, "flock", no_locks)
    for digest in (None, sha256(b"")):
        file = HubFile(path=f"{digest}.gguf", bytes=0, sha256=digest)
        (path,) = download(Empty(), [file], tmp_path, lambda _: None).paths
        assert path.read_bytes() == b""


class Nothing:
    def append(self, file: HubFile, part: BufferedWriter) -> None:
        raise AssertionError(f"{file} is not to be asked for, nor written to {part}")


def test_a_file_of_other_content_stays_where_nothing_is_to_be_replaced(tmp_path: Path) -> None:
    files = [HubFile(path=f"m-0000{part}-of-00002.gguf", bytes=3, sha256=sha256(b"abc")) for part in (1, 2)]
    (tmp_path / files[1].path).write_bytes(b"other")
    with pytest.raises(FileNameTaken, match=r"m-00002-of-00002\.gguf has other content, and stays"):
        download(Nothing(), files, tmp_path, lambda _: None, replace=False)
    assert names(tmp_path) == [files[1].path]
    for file in files:
        (tmp_path / file.path).write_bytes(b"abc")
    assert len(download(Nothing(), files, tmp_path, lambda _: None, replace=False).paths) == 2


# --- interrupted


def test_a_connection_that_is_cut_is_gone_on_with(tmp_path: Path, hub: Hub) -> None:
    hub.files(REPOSITORY, {"large.gguf": LARGE})
    hub.cut_at = 3 * CHUNK // 2
    pulled(tmp_path, REPOSITORY)
    assert [each.range for each in hub.asked] == [None, f"bytes={CHUNK}-"]
    assert (tmp_path / REPOSITORY / "large.gguf").read_bytes() == LARGE


def test_after_ctrl_c_the_same_command_goes_on_from_there(tmp_path: Path, hub: Hub) -> None:
    hub.files(REPOSITORY, {"large.gguf": LARGE})
    hub.stall_at = 3 * CHUNK // 2
    with terminal(["pull", REPOSITORY, "--to", str(tmp_path)], columns=60) as screen:
        screen.until("10.0/20.0 MiB")
        screen.type(CTRL_C)
        assert screen.ended() == 130
    assert screen.rows[0] == "large.gguf, 20.0 MiB"
    assert screen.rows[-1] == "stopped: type the same again, and it goes on from here"
    assert (screen.at_line_start, screen.cursor_is_hidden) == (True, False)
    assert names(tmp_path) == [f"{REPOSITORY}/large.gguf.part"]
    hub.stall_at = None
    pulled(tmp_path, REPOSITORY)
    assert [each.range for each in hub.asked] == [None, f"bytes={CHUNK}-"]
    assert names(tmp_path) == [f"{REPOSITORY}/large.gguf"]
    assert (tmp_path / REPOSITORY / "large.gguf").read_bytes() == LARGE


@pytest.mark.parametrize("left", ["of another version", "too long", "whole"])
def test_what_was_left_is_only_used_if_it_is_of_this_file(
    tmp_path: Path, hub: Hub, weights: bytes, left: str
) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    part = tmp_path / REPOSITORY / "tiny.gguf.part"
    part.parent.mkdir(parents=True)
    size = {"of another version": 1000, "too long": len(weights) + 1}
    part.write_bytes(weights if left == "whole" else bytes(size[left]))
    pulled(tmp_path, REPOSITORY)
    assert part.with_name("tiny.gguf").read_bytes() == weights
    assert len(hub.asked) == {"of another version": 2, "too long": 1, "whole": 0}[left]


def test_a_server_that_cannot_send_a_part_sends_all(tmp_path: Path, hub: Hub, weights: bytes) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    hub.ignores_ranges = True
    part = tmp_path / REPOSITORY / "tiny.gguf.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(weights[:1000])
    pulled(tmp_path, REPOSITORY)
    assert names(tmp_path) == [f"{REPOSITORY}/tiny.gguf"]


def test_a_model_of_several_files_gets_its_names_when_all_are_here(tmp_path: Path) -> None:
    files = [HubFile(path=f"m-0000{part}-of-00002.gguf", bytes=3, sha256=sha256(b"abc")) for part in (1, 2)]

    class Origin:
        def append(self, file: HubFile, part: BufferedWriter) -> None:
            if file is files[1]:
                raise HubUnreachable
            part.write(b"abc")

    with pytest.raises(HubUnreachable):
        download(Origin(), files, tmp_path, lambda _: None)
    assert names(tmp_path) == ["m-00001-of-00002.gguf.part"]


# --- refused


def test_another_digest_is_refused_and_leaves_nothing(tmp_path: Path, hub: Hub, weights: bytes) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    hub.spoiled = True
    assert refused(tmp_path, REPOSITORY).startswith("error digest_mismatch: tiny.gguf has another SHA-256")
    assert names(tmp_path) == []


def test_what_the_hub_refuses_is_told_with_what_to_do_and_without_the_token(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (REPOSITORY, "org/gated", "org/private"):
        hub.files(name, {"tiny.gguf": weights})
    hub.gated, hub.private = {"org/gated"}, {"org/private"}
    said = [
        refused(tmp_path, "org/absent"),
        refused(tmp_path, "org/private"),
        refused(tmp_path, REPOSITORY, "--revision", "v9"),
    ]
    assert [text.partition(":")[0] for text in said] == ["error hub_repository_not_found"] * 3
    assert "or it is private: check the name, or set HF_TOKEN" in said[1]
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    said.append(refused(tmp_path, "org/gated"))
    assert said[-1].startswith("error hub_access_denied: org/gated is gated: accept its terms at http://")
    hub.status = 403
    said.append(refused(tmp_path, REPOSITORY))
    assert said[-1].startswith("error hub_access_denied: the hub refuses org/tiny-GGUF (403)")
    hub.status = 503
    done = pull(tmp_path, REPOSITORY)
    assert (done.returncode, done.stderr.partition(":")[0]) == (exit.UNREACHABLE, "error hub_unreachable")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    said.append(refused(tmp_path, REPOSITORY))
    assert said[-1].startswith("error hub_unreachable: http://127.0.0.1:1 cannot be reached (ConnectError)")
    assert TOKEN not in "".join(said) + done.stderr
    assert names(tmp_path) == []


@pytest.mark.parametrize("address", ["http://[::1", "huggingface.co", "http://", "http://127.0.0.1:99999"])
def test_what_the_environment_says_wrong_is_told_without_the_token(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    with monkeypatch.context() as patched:
        patched.setenv("HF_ENDPOINT", address)
        said = refused(tmp_path, REPOSITORY)
        assert said.startswith("error invalid_configuration: HF_ENDPOINT is not the address of a hub")
    monkeypatch.setenv("HF_TOKEN", "hf_äé")
    said = refused(tmp_path, REPOSITORY)
    assert said.startswith("error invalid_configuration: HF_TOKEN, or the token")
    assert "äé" not in said


def test_the_token_goes_to_the_hub_and_not_to_where_it_sends_us(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files("org/private", {"tiny.gguf": weights})
    hub.private, hub.elsewhere = {"org/private"}, True
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    pulled(tmp_path, "org/private")
    assert [each.authorization for each in hub.asked] == [None]


def test_a_full_disk_is_told_of_before_and_during_a_download(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    with small_disk(tmp_path / "disk", megabytes=1) as disk:
        disk.fill(leaving=len(weights) // 2)
        assert refused(disk.path, REPOSITORY).startswith("error disk_full: ")
        assert hub.asked == []
        plenty = shutil.disk_usage("/")._replace(free=1 << 40)
        with monkeypatch.context() as patch:  # as if somebody else had taken the space meanwhile
            patch.setattr(shutil, "disk_usage", lambda _: plenty)
            assert refused(disk.path, REPOSITORY).startswith("error disk_full: ")
        disk.clear()
        pulled(disk.path, REPOSITORY)
        assert hub.asked[-1].range is not None, "what was there was not downloaded again"


def test_two_downloads_of_one_repository_do_not_mix(tmp_path: Path, hub: Hub, weights: bytes) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    folder = tmp_path / REPOSITORY
    folder.mkdir(parents=True)
    held = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert refused(tmp_path, REPOSITORY).startswith("error pull_running: ")
    finally:
        os.close(held)


# --- where to


def test_without_to_it_goes_into_the_first_model_directory_that_is_no_other_programs(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    cache, own = tmp_path / "huggingface" / "hub", tmp_path / "own"
    HuggingFaceHub(cache).add("org/other", REVISION, "other.gguf", weights)
    theirs = [cache, cache.parent, tmp_path / ".lmstudio" / "models"]
    monkeypatch.setenv("SUITE_MODELS_DIRECTORIES", os.pathsep.join(map(str, theirs)))
    done = run_command("pull", REPOSITORY)
    assert done.stderr == (
        "error invalid_request: all model directories are those of other programs: say where with --to\n"
    )
    monkeypatch.setenv("SUITE_MODELS_DIRECTORIES", os.pathsep.join(map(str, [*theirs, own])))
    assert run_command("pull", REPOSITORY).returncode == 0
    assert names(own) == [f"{REPOSITORY}/tiny.gguf"]


async def test_the_id_that_it_tells_is_the_one_that_the_service_gives(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    directories = [tmp_path / "models", tmp_path / "more"]
    data = tmp_path / "data"
    monkeypatch.setenv("SUITE_MODELS_DIRECTORIES", os.pathsep.join(map(str, directories)))
    monkeypatch.setenv("SUITE_DATA_DIR", str(data))
    other = directories[1] / "tiny.gguf"
    other.parent.mkdir()
    other.write_bytes(gguf_bytes())
    data.mkdir()
    for name in ("alice/tiny-GGUF", "bob/other-GGUF"):
        hub.files(name, {"tiny.gguf": weights})

    async def told(repository: str) -> str:
        return str((await anyio.to_thread.run_sync(pulled, directories[0], repository))["model_id"])

    # Nobody has given an id yet, and the files of the first directory come first.
    assert await told("alice/tiny-GGUF") == "tiny"
    (directories[0] / "alice" / "tiny-GGUF" / "tiny.gguf").unlink()
    await Catalogue.open(directories, {}, data).scan()
    kept = (data / "ids.json").read_bytes()
    ids = {await told("alice/tiny-GGUF"), await told("bob/other-GGUF")}
    assert ids == {"tiny-GGUF/tiny", "other-GGUF/tiny"}, "tiny is the one that a service has seen"
    assert (data / "ids.json").read_bytes() == kept
    catalogue = Catalogue.open(directories, {}, data)
    await catalogue.scan()
    assert set(catalogue.models) == {"tiny", *ids}


def test_without_what_a_service_needs_it_tells_no_id(
    tmp_path: Path, hub: Hub, weights: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.files(REPOSITORY, {"tiny.gguf": weights})
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    assert pulled(tmp_path, REPOSITORY)["model_id"] is None
    assert pull(tmp_path, REPOSITORY).stdout.startswith(f"tiny.gguf is in {tmp_path / REPOSITORY} (")


def test_without_the_library_it_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    said = refused(tmp_path, REPOSITORY)
    assert said.startswith("error not_installed: suite pull needs the extra [hub]")
    assert "pip install 'model-manager-suite[hub]'" in said
