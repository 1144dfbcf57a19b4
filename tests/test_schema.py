"""What stands in schemas/ is what the types are, and is valid in its own terms."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import jsonschema
import msgspec
import pytest

from suite.bus.endpoint import Endpoint
from suite.messages import signals
from suite.messages.actions.base import ErrorReply, Request
from suite.messages.actions.generation import GenerateTextRequest
from suite.messages.actions.residency import LoadModelRequest
from suite.messages.asyncapi import SIGNALS, asyncapi
from suite.messages.jsonschema import action_types, event_types, schema_of
from suite.messages.schema import documents, drift, main, write
from suite.messages.subjects import Subjects
from suite.node.serving import ACTIONS

REPOSITORY = Path(__file__).parent.parent
SCHEMAS = REPOSITORY / "schemas"
GOLDEN = REPOSITORY / "tests" / "golden"
DOCUMENTS = documents()


def conforms(document: dict[str, Any], instance: object) -> bool:
    return bool(jsonschema.Draft202012Validator(document).is_valid(instance))


def test_the_files_are_those_of_the_types() -> None:
    assert drift(SCHEMAS) == []


def test_every_endpoint_of_the_micro_service_names_its_schemas() -> None:
    ids = {document["$id"] for path, document in DOCUMENTS.items() if path != "asyncapi.json"}
    for action in ACTIONS:
        metadata = Endpoint(action, f"suite.action.{action.name}").info()["metadata"]
        assert {metadata["request_schema"], metadata["response_schema"]} <= ids


@pytest.mark.parametrize("path", sorted(DOCUMENTS.keys() - {"asyncapi.json"}))
def test_every_document_is_valid_json_schema(path: str) -> None:
    document = DOCUMENTS[path]
    jsonschema.Draft202012Validator.check_schema(document)
    assert list(_broken_references(document)) == []


def test_every_action_of_the_issue_is_there() -> None:
    names = {action.name for action in action_types()}
    assert names >= {
        *("load_model", "unload_model", "generate_text", "cancel_generation"),
        *("list_models", "get_model_status", "health_check", "get_stats"),
    }


def test_a_request_type_without_a_reply_type_is_found() -> None:
    module = ModuleType("invented")
    vars(module)["EchoTextRequest"] = type("EchoTextRequest", (Request,), {})
    with pytest.raises(ValueError, match="EchoTextReply"):
        action_types([module])


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (LoadModelRequest, {"model_id": "a"}, {"model_id": ""}),
        (LoadModelRequest, {"model_id": "a", "later": 1}, {"model_id": "a", "wait": "yes"}),
        (GenerateTextRequest, {"model_id": "a", "stop": ["x"]}, {"model_id": "a", "stop": [""]}),
        (GenerateTextRequest, {"model_id": "a", "seed": None}, {"model_id": "a", "max_tokens": -1}),
        (ErrorReply, {"code": "timeout", "message": "m"}, {"code": "timeout"}),
        (signals.AnySignal, {"kind": "chunk", "index": 0, "text": ""}, {"kind": "later"}),
    ],
)
def test_schema_and_type_agree(kind: Any, good: dict[str, Any], bad: dict[str, Any]) -> None:
    msgspec.convert(good, kind)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(bad, kind)
    assert conforms(schema_of(kind), good)
    assert not conforms(schema_of(kind), bad)


def test_what_the_source_says_about_a_field_is_in_its_schema() -> None:
    schema = DOCUMENTS["actions/generate_text.reply.json"]
    assert "event of this generation" in schema["properties"]["seq"]["description"]
    request = DOCUMENTS["actions/load_model.request.json"]
    assert request["properties"]["model_id"]["description"] == "The model's id or one of its aliases."
    assert "\n  " not in DOCUMENTS["actions/generate_text.request.json"]["description"]


@pytest.mark.parametrize("kind", event_types(), ids=lambda kind: kind.type)
def test_the_golden_event_conforms_to_its_schema(kind: Any) -> None:
    golden = json.loads(json.loads((GOLDEN / f"{kind.type}.json").read_text(encoding="utf-8"))["body"])
    schema = DOCUMENTS[f"events/{kind.type}.json"]
    jsonschema.Draft202012Validator(schema).validate(golden)
    for field in schema["required"]:
        without = {name: value for name, value in golden.items() if name != field}
        assert not conforms(schema, without)


# --- AsyncAPI ---------------------------------------------------------------------------------------------


def test_asyncapi_refers_to_nothing_that_is_not_there() -> None:
    assert list(_broken_references(asyncapi())) == []


def test_asyncapi_has_a_channel_an_operation_and_a_reply_for_each_action() -> None:
    document = asyncapi()
    assert document["asyncapi"] == "3.0.0"
    assert {"title", "version"} <= document["info"].keys()
    for action in action_types():
        operation = document["operations"][action.name]
        assert operation["action"] == "receive"
        channel = _resolve(document, operation["channel"]["$ref"])
        assert channel["address"] == f"suite.action.{action.name}"
        answers = _resolve(document, operation["reply"]["channel"]["$ref"])
        assert answers["address"] is None
        assert {f"{action.name}.reply", "error"} <= answers["messages"].keys()


def test_asyncapi_names_the_signals_of_each_streaming_action() -> None:
    streaming = {action.name for action in action_types() if "stream" in action.request.__struct_fields__}
    assert SIGNALS.keys() == streaming
    assert asyncapi()["channels"]["generate_text.reply"]["messages"].keys() >= {"signal.chunk", "error"}


def test_asyncapi_has_every_event_under_its_aggregate() -> None:
    document = asyncapi(Subjects("mine"))
    for kind in event_types():
        channel = document["channels"][f"event.{kind.aggregate}"]
        assert kind.type in channel["messages"]
        assert kind.fact in channel["parameters"]["fact"]["enum"]
        headers = document["components"]["messages"][kind.type]["headers"]
        assert headers["properties"]["ce-type"] == {"const": kind.type}
    assert document["channels"]["event.instance"]["address"] == "mine.event.instance.{node}.{model_id}.{fact}"


def test_asyncapi_schemas_are_valid_json_schema() -> None:
    for schema in asyncapi()["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


# --- drift ------------------------------------------------------------------------------------------------


def test_check_names_what_was_changed_is_missing_or_is_left_over(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path)
    assert main(["--check", str(tmp_path)]) == 0
    (tmp_path / "error.json").write_text("{}")
    (tmp_path / "signals.json").unlink()
    (tmp_path / "events" / "suite.model.forgotten.v1.json").write_text("{}")
    assert main(["--check", str(tmp_path)]) == 1
    complaint = capsys.readouterr().err
    for name in ("error.json", "signals.json", "suite.model.forgotten.v1.json", "--write"):
        assert name in complaint
    assert main(["--write", str(tmp_path)]) == 0
    assert drift(tmp_path) == []


def _resolve(document: dict[str, Any], reference: str) -> Any:
    at: Any = document
    for part in reference.removeprefix("#/").split("/"):
        at = at[part]
    return at


def _broken_references(document: dict[str, Any]) -> Any:
    def walk(part: Any) -> Any:
        if isinstance(part, dict):
            if isinstance(part.get("$ref"), str):
                yield part["$ref"]
            for value in part.values():
                yield from walk(value)
        elif isinstance(part, list):
            for value in part:
                yield from walk(value)

    for reference in walk(document):
        try:
            _resolve(document, reference)
        except (KeyError, TypeError):
            yield reference
