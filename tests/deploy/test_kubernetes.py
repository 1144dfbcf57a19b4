"""The manifests for Kubernetes, by its own schemas, and by what they have to mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from suite.cli.main import COMMANDS
from suite.config import Settings
from suite.config.variables import unknown
from suite.gateway import health
from suite.node.ending import END_SECONDS

MANIFESTS = Path(__file__).parents[2] / "deploy" / "kubernetes"
VERSION = "1.37"
KUSTOMIZATIONS = sorted(MANIFESTS.glob("*/kustomization.yaml"))


def documents() -> list[dict[str, Any]]:
    manifests = [path for path in sorted(MANIFESTS.glob("*/*.yaml")) if path.name != "kustomization.yaml"]
    return [each for path in manifests for each in yaml.safe_load_all(path.read_text())]


def node() -> dict[str, Any]:
    (found,) = [each for each in documents() if each["kind"] == "StatefulSet"]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


@pytest.mark.parametrize(
    "document", documents(), ids=lambda each: f"{each['kind']}-{each['metadata']['name']}"
)
def test_a_manifest_is_what_the_schemas_say(document: dict[str, Any]) -> None:
    kubernetes_validate.validate(document, VERSION, strict=True)


def test_the_schemas_refuse_what_is_not_in_them() -> None:
    (document,) = [each for each in documents() if each["kind"] == "StatefulSet"]
    document["spec"]["template"]["spec"]["containers"][0]["livenessProb"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(document, VERSION, strict=True)


@pytest.mark.parametrize("path", KUSTOMIZATIONS, ids=lambda path: path.parent.name)
def test_a_kustomization_names_what_is_there(path: Path) -> None:
    kustomization = yaml.safe_load(path.read_text())
    for resource in kustomization["resources"]:
        assert (path.parent / resource).exists()
    for patch in kustomization.get("patches", ()):
        changed = yaml.safe_load(patch["patch"])
        assert (changed["kind"], changed["metadata"]["name"]) == ("StatefulSet", "suite")
        (container,) = changed["spec"]["template"]["spec"]["containers"]
        assert container["name"] == node()["containers"][0]["name"]
    for generated in kustomization.get("configMapGenerator", ()):
        names = {literal.partition("=")[0]: "" for literal in generated["literals"]}
        assert list(unknown(names)) == []


def test_probes_ask_what_answers() -> None:
    (container,) = node()["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    ready = container["readinessProbe"]["httpGet"]
    assert ready["port"] in ports
    assert f'path="{ready["path"]}"' in Path(health.__file__).read_text()
    for name in ("startupProbe", "livenessProbe"):
        program, command = container[name]["exec"]["command"]
        assert program == "suite"
        assert command in COMMANDS


def test_the_node_is_given_settings_and_time_to_stop() -> None:
    (container,) = node()["containers"]
    assert list(unknown({each["name"]: "" for each in container["env"]})) == []
    assert node()["terminationGracePeriodSeconds"] > Settings().drain_seconds + 2 * END_SECONDS
    assert node()["enableServiceLinks"] is False  # or SUITE_PORT would be an unknown setting


def test_the_node_may_no_more_than_it_needs() -> None:
    (container,) = node()["containers"]
    security = node()["securityContext"] | container["securityContext"]
    assert security["runAsNonRoot"]
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert security["capabilities"] == {"drop": ["ALL"]}
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    assert node()["automountServiceAccountToken"] is False
