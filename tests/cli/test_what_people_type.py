"""Whatever a person types, pipes or presses: one line says what is wrong, and the exit code its kind."""

from __future__ import annotations

import errno
import os
import shlex
import sys
from pathlib import Path
from subprocess import CompletedProcess, run

import msgspec
import pytest

from suite.cli import options
from suite.cli.main import COMMANDS, main
from suite.cli.output import printable
from suite.cli.streams import harmless
from suite.config import ConnectionFile

SUITE = shlex.join([sys.executable, "-m", "suite"])

NOT_UTF8 = "\udcff"
"""The byte 0xff, as it comes in an argument."""


def shell(script: str, **environ: str) -> CompletedProcess[bytes]:
    """Run a script of bash, in which $suite is the command and no service is found."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SUITE_")}
    return run(
        ["bash", "-c", f"suite=({SUITE}); {script}"],
        env={**clean, "SUITE_DATA_DIR": "/nowhere", **environ},
        capture_output=True,
        timeout=30,
        check=False,
    )


# --- the standard streams ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "code", "complaint"),
    [
        (
            r"printf 'a\xff' | ${suite[@]} generate m",
            2,
            "standard input is not UTF-8 text (byte 0xff at position 1)",
        ),
        (
            "${suite[@]} --help >/dev/full",
            1,
            "error system: the output cannot be written: No space left",
        ),
        ("${suite[@]} config --json >/dev/full", 1, "the output cannot be written: No space left"),
        ("${suite[@]} config >&-", 1, "the output cannot be written: Bad file descriptor"),
        ("${suite[@]} bogus 2>/dev/full", 2, ""),
        ("${suite[@]} models <&- 2>&-", 3, ""),
        ("set -o pipefail; ${suite[@]} config | head -n 1 >/dev/null", 0, ""),
        ("set -o pipefail; ${suite[@]} --help | true", 0, ""),
    ],
)
def test_streams_that_are_closed_full_or_no_text(script: str, code: int, complaint: str) -> None:
    done = shell(script)
    assert (done.returncode, done.stdout) == (code, b"")
    assert complaint.encode() in done.stderr
    assert len(done.stderr.splitlines()) <= 2  # at most the usage and the error


@pytest.mark.parametrize(
    "locale",
    [
        {"LC_ALL": "C"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        {"PYTHONIOENCODING": "ascii"},
    ],
)
def test_a_locale_without_umlauts(locale: dict[str, str], tmp_path: Path) -> None:
    done = shell(
        f"${{suite[@]}} config --models-dir {tmp_path}/Bücher; ${{suite[@]}} status Bücher", **locale
    )
    assert done.returncode == 3
    assert b"models_directories" in done.stdout
    assert done.stderr.startswith(b"error unavailable: ")


def test_a_user_without_a_home_directory(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("HOME", "XDG_DATA_HOME", "SUITE_DATA_DIR", "SUITE_NATS_URL"):
        monkeypatch.delenv(name, raising=False)

    def nobody(_: int) -> None:
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", nobody)
    assert main(["models"]) == 2
    complaint = capsys.readouterr().err
    assert complaint.startswith("error invalid_configuration: this user has no home directory")
    assert "--data-dir" in complaint


# --- arguments ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["status", NOT_UTF8], "'[MODEL]': '\\udcff' is not UTF-8 text"),
        (["generate", "m", "hi", "--stop", f"a{NOT_UTF8}"], "'--stop': 'a\\udcff' is not UTF-8 text"),
        (["models", "--nats-user", NOT_UTF8], "'--nats-user': '\\udcff' is not UTF-8 text"),
        (["load", ""], "'MODEL': it is empty"),
        (["trace", ""], "'[ID]': it is empty"),
        (["drain", ""], "'NODE': it is empty"),
        (["trace", "--nats-url", "nats://nowhere"], "name it with --data-dir"),
        (["log-metric", "a", "m", "nan"], "'VALUE': nan is not a finite number"),
        (["unload", "m", "--drain", "nan"], "'--drain': nan is not a finite number"),
        (["generate", "m", "--temperature", "inf"], "'--temperature': inf is not a finite number"),
        (["status", "-foo"], "(a value that begins with '-' needs '--' before it)"),
        (["events", "--since", "9" * 4301], "'--since': a sequence is at most 9223372036854775807"),
        (["events", "--follow", "--since", str(2**63)], "'--since': a sequence is at most"),
        (["events", "--follw"], "Did you mean '--follow'?"),
        (["modles"], "there is no command 'modles': did you mean models?"),
        (["ls"], "there is no command 'ls': did you mean models?"),
        (["usage", "--by", "\x1b[31m"], "'--by': '\\x1b[31m' is not one of"),
        (["xyzzy"], "there is no command 'xyzzy': `suite --help` lists the commands"),
        ([NOT_UTF8], "there is no command '\\udcff'"),
        (["help", "rn"], "there is no command 'rn': did you mean run?"),
        (["credentials", "add", "bob"], "Missing option '--role'. Choose from: "),
        (["rebuild", "everything"], "is not one of 'catalogue', 'usage', 'evaluation', 'errors'"),
        (["models", "--data-dir", "/etc/passwd"], "Directory '/etc/passwd' is a file"),
    ],
)
def test_arguments_that_are_wrong(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    usage, error = capsys.readouterr().err.splitlines()
    assert usage.startswith("Usage: suite ")
    assert error.startswith("error usage: ")
    assert complaint in error


@pytest.mark.parametrize("url", ["nats://127.0.0.1:99999999", "http://127.0.0.1", "nats://", ""])
def test_an_address_that_is_none(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "--nats-url", url]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith("error invalid_configuration: this is no address of NATS")


def test_the_program_alone_shows_its_help_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    shown = capsys.readouterr().out
    assert shown.count("Usage:") == 1
    assert all(name in shown for name in COMMANDS)


def test_help_and_version_are_what_other_programs_call_them(capsys: pytest.CaptureFixture[str]) -> None:
    def told(*arguments: str) -> str:
        assert main(arguments) == 0
        return capsys.readouterr().out

    assert told("help") == told("--help")
    assert told("help", "run") == told("run", "--help")
    assert told("version") == told("-V") == told("--version")


def test_a_dash_is_only_explained_where_a_value_may_begin_with_one(
    capsys: pytest.CaptureFixture[str],
) -> None:
    for arguments in (["models", "-foo"], ["load", "m", "--no-wiat"]):
        assert main(arguments) == 2
        assert "begins with '-'" not in capsys.readouterr().err


def test_a_configuration_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = tmp_path / "nosuch.toml"
    assert main(["config", "--config", str(missing)]) == 2
    assert capsys.readouterr().err == f"error invalid_configuration: there is no file {missing}\n"


def test_the_help_fits_into_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    main(["--help"])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 80] == []


# --- a service that is not there ---------------------------------------------------------------------------


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SUITE_DATA_DIR", str(tmp_path))
    monkeypatch.delenv("SUITE_NATS_URL", raising=False)
    return tmp_path


def test_a_service_that_has_ended_is_said_to_have(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, check=True)
    pid = int(gone.stdout)
    ConnectionFile(url="nats://127.0.0.1:1", node="box1", pid=pid).write(data_dir)
    assert main(["models"]) == 3
    (complaint,) = capsys.readouterr().err.splitlines()
    assert complaint.startswith(f"error unavailable: the service is not running: process {pid}")
    assert complaint.endswith("start it with `suite serve`")


def test_a_service_that_runs_and_does_not_answer(data_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ConnectionFile(url="nats://127.0.0.1:1", node="box1", pid=os.getpid()).write(data_dir)
    assert main(["models"]) == 3
    assert f"the address is from {data_dir / 'connection.json'}" in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"\xff", b'{"url', msgspec.json.encode({"url": 7})])
def test_a_connection_file_that_is_damaged(
    content: bytes, data_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (data_dir / "connection.json").write_bytes(content)
    assert main(["models"]) == 2
    (complaint,) = capsys.readouterr().err.splitlines()
    assert "is damaged" in complaint


# --- what is our fault -------------------------------------------------------------------------------------


def test_a_bug_is_one_line_and_its_traceback_is_there_for_who_asks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("two\nlines")

    monkeypatch.setattr(options.Target, "run", broken)
    assert main(["models"]) == 70
    assert capsys.readouterr().err == (
        "error internal: RuntimeError: two lines (a bug of suite; set SUITE_DEBUG=1 for the traceback)\n"
    )
    monkeypatch.setenv("SUITE_DEBUG", "1")
    assert main(["models"]) == 70
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            OSError(errno.ENOSPC, "No space left on device"),
            "the output cannot be written: No space left on device",
        ),
        (OSError(errno.EMFILE, "Too many open files"), "Too many open files"),
        (TimeoutError("timed out"), "timed out"),
    ],
)
def test_only_an_error_of_writing_is_told_as_one(
    error: OSError, told: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def failing(*_: object) -> None:
        raise error

    monkeypatch.setattr(options.Target, "run", failing)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == f"error system: {told}\n"


@pytest.mark.parametrize("letter", ["\u00a0", "\u202f", "\u3000", "\u200c", "\u200d", "\ue000", "日"])
def test_spaces_and_joiners_are_text(letter: str) -> None:
    assert printable(letter) == letter
    assert harmless(letter) == letter


@pytest.mark.parametrize("letter", ["\x1b", "\x9b", "\r", "\ud800", "\u202e", "\u2066", "\u2028", "\u2029"])
def test_what_acts_on_the_terminal_is_no_text(letter: str) -> None:
    assert printable(letter).isascii()
    assert harmless(f"a{letter}\n\t") == "a\ufffd\n\t"


def test_of_several_errors_the_one_that_counts_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from suite.errors import ModelNotFound

    def several(*_: object) -> None:
        raise BaseExceptionGroup("", [ValueError(), ExceptionGroup("", [ModelNotFound("no \x1bmodel")])])

    def interrupted(*_: object) -> None:
        raise BaseExceptionGroup("", [ModelNotFound(), KeyboardInterrupt()])

    monkeypatch.setattr(options.Target, "run", several)
    assert main(["models"]) == 1
    assert capsys.readouterr().err == "error model_not_found: no \ufffdmodel\n"
    monkeypatch.setattr(options.Target, "run", interrupted)
    assert main(["models"]) == 130
    assert capsys.readouterr().err == ""
