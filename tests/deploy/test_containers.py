"""The Dockerfile, by a linter, and compose, by a reader of its specification and by what it has to mean."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from suite.config import Settings
from suite.config.variables import unknown
from suite.node.ending import END_SECONDS

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
EXAMPLE = DEPLOY / "compose" / "env.example"
COMPOSE = (DEPLOY / "compose.yaml", DEPLOY / "compose" / "gpu.yaml")

_variable = re.compile(r"\$\{(\w+)(?::([-?])([^}]*))?\}")


def dockerfile() -> list[str]:
    return (DEPLOY / "Dockerfile").read_text().splitlines()


def variables() -> dict[str, str]:
    """What the example of an environment sets; what it leaves to the reader is set to something."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    return {name: value or "something" for name, _, value in (line.partition("=") for line in lines)}


def composed(path: Path) -> dict[str, Any]:
    """The file with its variables in place."""

    def value(match: re.Match[str]) -> str:
        name, kind, default = match.groups()
        return variables().get(name) or (default if kind == "-" else "")

    document: dict[str, Any] = yaml.safe_load(_variable.sub(value, path.read_text()))
    return document


def test_the_linter_finds_nothing() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    done = subprocess.run([hadolint, DEPLOY / "Dockerfile"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


def test_no_image_runs_as_root_and_all_start_a_node() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM|\Z)", text, re.MULTILINE | re.DOTALL))
    assert list(stages)[-1] == "cpu"  # what is built if nobody says
    for name in ("cpu", "cuda"):
        assert "\nUSER 10001:10001\n" in stages[name]
        assert 'ENTRYPOINT ["suite"]\nCMD ["serve", "--json"]\n' in stages[name]


def test_a_container_is_well_as_long_as_the_node_answers() -> None:
    checks = re.findall(r'^HEALTHCHECK .* CMD \["suite", "(\w+)"\]$', "\n".join(dockerfile()), re.MULTILINE)
    # `suite health` fails while the gateway waits for its first key, which is made in the running container.
    assert checks == ["status"] * 2


def test_all_that_is_copied_is_there_and_goes_to_the_builder() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for line in dockerfile():
        if line.startswith("COPY ") and "--from" not in line:
            for name in line.split()[1:-1]:
                assert (ROOT / name).exists()
                assert f"!{name}" in ignored


@pytest.mark.parametrize("path", COMPOSE, ids=lambda path: path.name)
def test_compose_is_what_its_specification_says(path: Path) -> None:
    assert PyCompose.from_yaml(yaml.safe_dump(composed(path))).service_names()


def test_the_reader_of_the_specification_refuses_what_is_not_in_it() -> None:
    document = composed(COMPOSE[0])
    document["services"]["suite"]["stop_grace"] = "30s"
    with pytest.raises(ValueError, match="stop_grace"):
        PyCompose.from_yaml(yaml.safe_dump(document))


def test_every_variable_is_in_the_example() -> None:
    used = {name for path in COMPOSE for name, _, _ in _variable.findall(path.read_text())}
    assert used == set(variables())


def test_every_file_that_is_mounted_is_there() -> None:
    for service in composed(COMPOSE[0])["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            if source.startswith("."):
                assert (DEPLOY / source).exists(), source


def test_all_volumes_and_services_are_declared() -> None:
    document = composed(COMPOSE[0])
    for service in document["services"].values():
        named = {volume.partition(":")[0] for volume in service.get("volumes", ())}
        assert {name for name in named if name[0] not in "./" and name != "something"} <= set(
            document["volumes"]
        )
        assert set(service.get("depends_on", ())) <= set(document["services"])


def test_nothing_is_reached_from_other_machines_and_nothing_may_more_than_it_needs() -> None:
    for name, service in composed(COMPOSE[0])["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))
        if name not in ("owner", "mirror"):  # these end
            assert service["cap_drop"] == ["ALL"]
            assert service["security_opt"] == ["no-new-privileges:true"]
            assert service["read_only"] is True


def test_the_node_is_given_settings_and_time_to_stop() -> None:
    node = composed(COMPOSE[0])["services"]["suite"]
    names = {name: "" for name in node["environment"] if name.startswith("SUITE_")}
    assert list(unknown(names)) == []
    assert int(node["stop_grace_period"].removesuffix("s")) > Settings().drain_seconds + 2 * END_SECONDS


@pytest.mark.parametrize("path", sorted((DEPLOY / "compose").glob("*.y*ml")), ids=lambda path: path.name)
def test_other_files_are_yaml(path: Path) -> None:
    assert isinstance(yaml.safe_load(path.read_text()), dict)
