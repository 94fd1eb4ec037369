"""The OpenAPI document says what the door does."""

import json
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

if TYPE_CHECKING:
    from tests.app.intake.conftest import Answer, Client

STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PLAIN = "application/json"


@pytest.fixture
async def document(client: "Client") -> Any:
    return (await client.get("/openapi.json", key=None)).json


def validator(document: Any, schema: Any) -> Draft202012Validator:
    return Draft202012Validator({**schema, "components": document["components"]})


def content(document: Any) -> Any:
    return document["paths"]["/v1/events"]["post"]["requestBody"]["content"]


def references(part: Any) -> set[str]:
    """Everything that a part of the document points to."""
    if isinstance(part, dict):
        own = {part["$ref"]} if isinstance(part.get("$ref"), str) else set()
        mapped = set(part["mapping"].values()) if isinstance(part.get("mapping"), dict) else set()
        return own | mapped | {ref for member in part.values() for ref in references(member)}
    return {ref for member in part for ref in references(member)} if isinstance(part, list) else set()


def test_every_reference_of_the_document_is_answered_and_every_component_used(document: Any) -> None:
    components = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) == components
    assert {"RequestSubmitted", "StatusChanged", "ProblemDetails"} <= document["components"]["schemas"].keys()


def test_every_media_type_of_the_door_is_described_by_the_contract(document: Any) -> None:
    assert content(document).keys() == {STRUCTURED, BATCH, PLAIN}
    for described in content(document).values():
        assert "#/components/schemas/RequestSubmitted" in references(described)
        assert "#/components/schemas/StatusChanged" in references(described)
        assert described["examples"]


def test_errors_are_problem_details_and_every_call_needs_a_key(document: Any) -> None:
    for path in ("/v1/events", "/v1/requests", "/v1/requests/{reference}"):
        for operation in document["paths"][path].values():
            assert operation["security"] == [{"key": []}]
            for status, response in operation["responses"].items():
                expected = {"application/json"} if status.startswith("2") else {"application/problem+json"}
                assert response["content"].keys() == expected
    assert document["paths"]["/v1/events"]["post"]["responses"]["503"]["headers"].keys() == {"Retry-After"}


def test_binary_attributes_are_described_as_headers(document: Any) -> None:
    names = {parameter["name"] for parameter in document["paths"]["/v1/events"]["post"]["parameters"]}
    assert {"ce-specversion", "ce-id", "ce-source", "ce-type", "ce-time"} <= names


async def test_every_example_is_valid_and_accepted(document: Any, client: "Client") -> None:
    for described in content(document).values():
        for example in described["examples"].values():
            validator(document, described["schema"]).validate(example["value"])
    for example in content(document)[STRUCTURED]["examples"].values():
        answer = await client.post(example["value"])
        assert answer.status == 202, answer.body
        attributes = {name: value for name, value in example["value"].items() if name != "data"}
        assert (await client.post_binary(example["value"]["data"], attributes)).status == 202
    for example in content(document)[BATCH]["examples"].values():
        assert (await client.post_batch(example["value"])).status == 202


async def test_answers_are_as_described(document: Any, client: "Client") -> None:
    event = content(document)[STRUCTURED]["examples"]["RequestSubmitted"]["value"]
    accepted = await client.post(event)
    answers: list[tuple[str, str, Answer]] = [
        ("/v1/events", "post", accepted),
        ("/v1/events", "post", await client.post_batch([event])),
        ("/v1/events", "post", await client.post_batch([event, 1, {"id": "x"}])),
        ("/v1/events", "post", await client.post(b"{")),
        ("/v1/events", "post", await client.post(event | {"data": {}})),
        ("/v1/events", "post", await client.post(event, key=None)),
        ("/v1/events", "post", await client.post(event, kind="text/xml")),
        ("/v1/requests/{reference}", "get", await client.get(f"/v1/requests/{accepted.json['reference']}")),
        ("/v1/requests/{reference}", "get", await client.get("/v1/requests/1")),
        ("/v1/requests", "get", await client.get("/v1/requests?agency_reference=2026-000123")),
        ("/v1/requests", "get", await client.get("/v1/requests?agency_reference=1")),
        ("/v1/requests", "get", await client.get("/v1/requests")),
    ]
    for path, method, answer in answers:
        responses = document["paths"][path][method]["responses"]
        ((kind, described),) = responses[str(answer.status)]["content"].items()
        assert answer.headers["content-type"] == kind
        validator(document, described["schema"]).validate(json.loads(answer.body))
    assert len({answer.status for _, _, answer in answers}) == 8
