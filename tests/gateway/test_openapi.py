"""The OpenAPI document says what the gateway does: requests made from it get answers that keep to it."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from jsonschema import Draft202012Validator
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from support.gateway import RunningGateway

CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]
EXAMPLES = 4
"""Of each operation."""
SHORT: dict[str, Any] = {"max_tokens": 2, "max_output_tokens": 2, "options": {"num_predict": 2}}
"""What a request that is made at random gets, where it may have such a field: without it an answer is as long
as the context, which takes longer than this client waits while the machine is busy."""
KNOWN: dict[str, Any] = {"model": "tiny", "n": 1}
"""What it gets where it has such a field."""
USER = {"role": "user", "content": "Hello"}


@pytest.fixture(scope="module")
def document(gateway: RunningGateway) -> Any:
    return gateway.get("/openapi.json").document


@pytest.mark.timeout(180)
def test_requests_at_random_get_what_the_document_says(gateway: RunningGateway, document: Any) -> None:
    api = schemathesis.openapi.from_dict(document)
    for found in api.get_all_operations():
        assert isinstance(found, Ok), found
        operation = found.ok()

        @settings(
            max_examples=EXAMPLES,
            phases=[Phase.generate],
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def ask(case: schemathesis.Case[Any]) -> None:
            if isinstance(case.body, dict):
                possible = fields_of(document, case)
                case.body |= {name: value for name, value in SHORT.items() if name in possible}
                case.body |= {name: value for name, value in KNOWN.items() if name in case.body}
            case.call_and_validate(base_url=gateway.url, checks=CHECKS)

        ask()


def fields_of(document: Any, case: schemathesis.Case[Any]) -> Collection[str]:
    """The fields that the body of a request may have."""
    body = document["paths"][case.path][case.method.lower()]["requestBody"]["content"]["application/json"]
    name = body["schema"]["$ref"].rpartition("/")[2]
    fields: Collection[str] = document["components"]["schemas"][name]["properties"]
    return fields


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": [USER], "max_tokens": 2}),
        ("/v1/responses", {"input": "Hello", "max_output_tokens": 2}),
        ("/v1/messages", {"messages": [USER], "max_tokens": 2}),
        ("/api/chat", {"messages": [USER], "options": {"num_predict": 2}}),
        ("/api/generate", {"prompt": "Hello", "options": {"num_predict": 2}}),
    ],
)
def test_answers_and_refusals_of_all_dialects_keep_to_the_document(
    gateway: RunningGateway, document: Any, path: str, body: dict[str, Any]
) -> None:
    described = document["paths"][path]["post"]["responses"]
    for model, status, name in (("tiny", 200, "200"), ("nothing", 404, "default")):
        answer = gateway.post(path, {"model": model, "stream": False, **body})
        assert answer.status == status
        schema = described[name]["content"]["application/json"]["schema"]
        Draft202012Validator({**schema, "components": document["components"]}).validate(answer.document)
