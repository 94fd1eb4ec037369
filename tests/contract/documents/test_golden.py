"""One file for each event version stands for everything that was ever written in it: later code must still read it."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from pydantic import ValidationError

from shared.contract.agency import AgencyEvent
from shared.contract.events import Event, Unreadable
from shared.contract.schemas import AGENCY_EVENTS, EVENTS, MESH_EVENTS, EventType, event_schema

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = sorted(GOLDEN.glob("*.json"))
MODELS = {event.TYPE: event for event in EVENTS}
JsonPath = tuple[str | int, ...]


def text(file: Path) -> str:
    return file.read_text(encoding="utf-8")


def golden(event: EventType) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(text(GOLDEN / f"{event.TYPE}.json"))
    return document


def read(model: EventType, body: str) -> Event | AgencyEvent:
    return model.from_json(body) if issubclass(model, Event) else model.model_validate_json(body)


def write(event: Event | AgencyEvent) -> bytes:
    return event.to_json() if isinstance(event, Event) else event.model_dump_json(exclude_none=True).encode()


def canonical(event: Event | AgencyEvent) -> str:
    """What is written of an event, indented so that people can check it."""
    return json.dumps(json.loads(write(event)), indent=2, ensure_ascii=False) + "\n"


def objects(value: Any, at: JsonPath = ()) -> Iterator[tuple[JsonPath, dict[str, Any]]]:
    """Every object in a document, save the attributes, whose keys are the agencies' own."""
    if isinstance(value, dict):
        yield at, value
        for key, inner in value.items():
            if key != "attributes":
                yield from objects(inner, (*at, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from objects(inner, (*at, index))


def inside(document: Any, at: JsonPath) -> Any:
    for step in at:
        document = document[step]
    return document


def required(event: EventType) -> Iterator[tuple[JsonPath, str]]:
    """Every field of the golden document that its schema says must be there."""
    document = golden(event)
    validator = Draft202012Validator(event_schema(event))
    for at, fields in objects(document):
        for field in fields:
            without = copy.deepcopy(document)
            del inside(without, at)[field]
            if not validator.is_valid(without):
                yield at, field


def test_every_event_of_the_contract_has_a_golden_file() -> None:
    assert {event.TYPE for event in EVENTS} <= {file.stem for file in FILES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_the_contract_still_reads_what_was_ever_written_and_means_the_same_by_it(file: Path) -> None:
    model = MODELS[file.stem]
    event = read(model, text(file))
    assert read(model, write(event).decode()) == event


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_the_present_version_writes_its_golden_file_to_the_byte(event: EventType) -> None:
    file = GOLDEN / f"{event.TYPE}.json"
    assert canonical(read(event, text(file))) == text(file)


@pytest.mark.parametrize("event", MESH_EVENTS, ids=lambda event: event.TYPE)
def test_a_mesh_event_is_written_without_absent_fields_and_equal_events_give_equal_bytes(event: type[Event]) -> None:
    first, again = (event.from_json(json.dumps(golden(event))) for _ in range(2))
    assert first.to_json() == again.to_json()
    assert json.loads(first.to_json()) == golden(event)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_a_golden_file_is_valid_by_its_schema(event: EventType) -> None:
    Draft202012Validator(event_schema(event), format_checker=Draft202012Validator.FORMAT_CHECKER).validate(
        golden(event)
    )


@pytest.mark.parametrize("event", MESH_EVENTS, ids=lambda event: event.TYPE)
def test_readers_in_the_mesh_tolerate_a_field_that_a_newer_writer_added_anywhere(event: type[Event]) -> None:
    expected = event.from_json(json.dumps(golden(event)))
    validator = Draft202012Validator(event_schema(event))
    for at, _ in objects(golden(event)):
        newer = golden(event)
        inside(newer, at)["added_later"] = {"of": ["any", "shape"]}
        assert event.from_json(json.dumps(newer)) == expected
        assert validator.is_valid(newer)


@pytest.mark.parametrize("event", AGENCY_EVENTS, ids=lambda event: event.TYPE)
def test_an_unknown_field_in_an_agencys_data_is_refused_with_its_path(event: type[AgencyEvent]) -> None:
    validator = Draft202012Validator(event_schema(event))
    for at, _ in objects(golden(event)["data"], ("data",)):
        unknown = golden(event)
        inside(unknown, at)["unexpected"] = "value"
        with pytest.raises(ValidationError) as refusal:
            event.model_validate_json(json.dumps(unknown))
        assert [problem["loc"] for problem in refusal.value.errors()] == [(*at, "unexpected")]
        assert not validator.is_valid(unknown)


@pytest.mark.parametrize("event", AGENCY_EVENTS, ids=lambda event: event.TYPE)
def test_an_agency_may_send_cloudevents_extensions_but_no_objects_in_them(event: type[AgencyEvent]) -> None:
    validator = Draft202012Validator(event_schema(event))
    extended = {**golden(event), "partitionkey": "a", "sequence": 1}
    nested = {**golden(event), "partitionkey": {"a": 1}}
    event.model_validate_json(json.dumps(extended))
    with pytest.raises(ValidationError, match="partitionkey"):
        event.model_validate_json(json.dumps(nested))
    assert validator.is_valid(extended)
    assert not validator.is_valid(nested)


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_an_event_without_a_required_field_is_refused(event: EventType) -> None:
    missing = list(required(event))
    assert {((), "id"), ((), "data")} <= set(missing)
    for at, field in missing:
        # What stands on a topic has both; a reader that knows its topic has no need of them.
        if event in MESH_EVENTS and (at, field) in {((), "specversion"), ((), "type")}:
            continue
        without = golden(event)
        del inside(without, at)[field]
        with pytest.raises((ValidationError, Unreadable), match="Field required"):
            read(event, json.dumps(without))


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.TYPE)
def test_an_event_of_another_type_or_version_is_refused(event: EventType) -> None:
    for wrong in (event.TYPE.replace(".v1", ".v2"), "guichet.request.unknown.v1", ""):
        with pytest.raises((ValidationError, Unreadable), match="type"):
            read(event, json.dumps({**golden(event), "type": wrong}))
