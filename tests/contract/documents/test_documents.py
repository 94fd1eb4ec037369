"""docs/contract says what the code does, and is well-formed by the specifications it names."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from shared.contract.__main__ import main
from shared.contract.reasons import MEANINGS, Reason
from shared.contract.schemas import EVENTS, SENDS, EventType, asyncapi, documents, event_schema
from shared.contract.topics import AGENCY_TOPIC_PATTERN, MESH_TOPICS

COMMITTED = Path(__file__).parents[3] / "docs" / "contract"
SCHEMA_FILES = {event.TYPE: f"./schemas/{event.TYPE}.json" for event in EVENTS}


def files_in(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text(encoding="utf-8")
        for path in folder.rglob("*")
        if path.is_file()
    }


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key == "$ref":
                yield inner
            else:
                yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_what_is_committed_is_what_the_contract_generates() -> None:
    generated, committed = documents(), files_in(COMMITTED)
    differing = sorted(
        name for name in generated.keys() | committed.keys() if generated.get(name) != committed.get(name)
    )
    assert not differing, f"docs/contract has drifted: run `python -m shared.contract`. Differing: {differing}"


def test_writing_again_mends_what_differs_and_removes_schemas_of_events_there_are_no_more(tmp_path: Path) -> None:
    main(tmp_path)
    (tmp_path / "schemas" / "guichet.request.forgotten.v1.json").write_text("{}")
    (tmp_path / "asyncapi.yaml").write_text("edited: by hand")
    main(tmp_path)
    assert files_in(tmp_path) == documents()


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_each_schema_is_valid_json_schema_with_an_identity_and_every_reference_resolves(event: EventType) -> None:
    schema = event_schema(event)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == f"urn:guichet:schema:{event.TYPE}"
    resolver = Registry().with_resource(schema["$id"], Resource.from_contents(schema)).resolver(schema["$id"])
    for reference in references(schema):
        resolver.lookup(reference)


def test_every_reference_of_the_asyncapi_document_resolves() -> None:
    document = yaml.safe_load(documents()["asyncapi.yaml"])
    for reference in references(document):
        if reference.startswith("#/"):
            found = document
            for step in reference.removeprefix("#/").split("/"):
                found = found[step]
        else:
            assert (COMMITTED / reference).is_file(), reference


def test_the_yaml_says_what_the_document_says() -> None:
    assert yaml.safe_load(documents()["asyncapi.yaml"]) == asyncapi()


def test_every_topic_is_a_channel_with_its_event_and_its_key() -> None:
    document = asyncapi()
    channels = {channel["address"]: channel for channel in document["channels"].values()}
    assert channels.keys() == {topic.name for topic in MESH_TOPICS} | {"agency.{agency}.events"}
    for topic in MESH_TOPICS:
        assert list(channels[topic.name]["messages"]) == [topic.event.TYPE]
        message = document["components"]["messages"][topic.event.TYPE]
        assert message["payload"] == {"$ref": SCHEMA_FILES[topic.event.TYPE]}
        assert message["bindings"]["kafka"]["key"]["description"] == topic.key


def test_each_topic_has_a_service_that_writes_it_and_every_service_its_dead_letters() -> None:
    operations = asyncapi()["operations"].values()
    sent = {operation["channel"]["$ref"] for operation in operations if operation["action"] == "send"}
    assert sent == {f"#/channels/{topic.name}" for topic in MESH_TOPICS}
    for service in SENDS:
        assert f"{service}.send.mesh.dead-letters" in asyncapi()["operations"]


def test_every_reason_code_is_explained_in_the_document() -> None:
    description = asyncapi()["info"]["description"]
    assert MEANINGS.keys() == set(Reason)
    for reason in Reason:
        assert f"| `{reason.value}` | {MEANINGS[reason]} |" in description


def test_an_agencys_topic_fits_the_pattern_by_which_intake_finds_it() -> None:
    address = asyncapi()["channels"]["agency.events"]["address"]
    assert "^" + address.replace(".", r"\.").replace("{agency}", "[a-z0-9-]+") + "$" == AGENCY_TOPIC_PATTERN
