"""What the events of the mesh promise of every part: how it is read, and what is said of what can't be."""

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import fields

from services.intake import domain as intake
from services.metrics import domain as metrics
from services.notify import domain as notify
from services.notify import receipts
from shared.contract import events
from shared.contract.events import (
    Applicant,
    DeadLetterData,
    Language,
    Moment,
    NotificationOutcomeData,
    NotificationStatus,
    Origin,
    Part,
    RequestAccepted,
    RequestAcceptedData,
    Timed,
    Timeline,
    Unreadable,
)
from shared.contract.reasons import Reason

GOLDEN = Path(__file__).parents[2] / "golden" / f"{RequestAccepted.TYPE}.json"
PARTS = {
    each
    for module in (events, intake, metrics, notify, receipts)
    for each in vars(module).values()
    if isinstance(each, type) and issubclass(each, Part)
}
DJIBOUTI = timezone(timedelta(hours=3))


def with_request(**changed: Any) -> bytes:
    document = json.loads(GOLDEN.read_bytes())
    document["data"]["request"] |= changed
    return json.dumps(document).encode()


def test_a_time_is_held_in_utc_whatever_zone_it_was_written_in() -> None:
    read = RequestAccepted.from_json(with_request(submitted_at="2026-11-22T11:30:00+03:00"))
    assert read == RequestAccepted.from_json(GOLDEN.read_bytes())
    assert read.data.request.submitted_at.tzinfo is UTC
    made = Timeline().at(sent=datetime(2026, 11, 22, 11, 30, tzinfo=DJIBOUTI))
    assert made.to_json() == b'{"sent":"2026-11-22T08:30:00Z"}'


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__qualname__)
def test_a_part_that_has_a_time_holds_it_in_utc(part: type[Part]) -> None:
    has_moments = any(field.type in (Moment, Moment | None) for field in fields(part))
    assert has_moments <= issubclass(part, Timed)


def test_a_time_without_a_zone_is_no_time() -> None:
    with pytest.raises(ValueError, match="no zone"):
        Timeline(sent=datetime(2026, 11, 22, 8, 30))  # noqa: DTZ001 (that is the point)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"submitted_at": "2026-11-22T08:30:00"}, "data.request.submitted_at: Expected `datetime` with a timezone"),
        ({"submitted_at": "0001-01-01T00:00:00+03:00"}, "data.request: submitted_at: it lies outside the years"),
        ({"applicant": {"phone": 1}}, "data.request.applicant.phone: Expected `str | null`, got `int`"),
        ({"applicant": {"language": "Amina, - at `$.x`"}}, "data.request.applicant.language: Invalid enum value"),
    ],
)
def test_what_can_t_be_read_is_named_by_its_path_and_no_value_is_repeated(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(Unreadable) as refusal:
        RequestAccepted.from_json(with_request(**changed))
    assert refusal.value.reason is Reason.INVALID_VALUE
    assert str(refusal.value).startswith(said)
    assert "Amina" not in str(refusal.value)
    assert refusal.value.__cause__ is None


def test_a_missing_field_is_named_by_its_own_path() -> None:
    document = json.loads(GOLDEN.read_bytes())
    del document["data"]["request"]["agency"]
    with pytest.raises(Unreadable, match=r"^data\.request\.agency: Field required$"):
        RequestAccepted.from_json(json.dumps(document))


@pytest.mark.parametrize("body", ["", "{", '{"id":', '{"new": ' + "[" * 100_000])
def test_what_is_no_json_is_told_from_what_is_no_event(body: str) -> None:
    with pytest.raises(Unreadable) as refusal:
        RequestAccepted.from_json(body)
    assert refusal.value.reason is Reason.NOT_JSON


def test_texts_are_written_as_they_are() -> None:
    name = 'عائشة "é" 😀\u2028\x7f\n\x1f'
    written = Applicant(name=name).to_json()
    assert written.decode() == '{"name":"عائشة \\"é\\" 😀\u2028\x7f\\n\\u001f"}'
    assert Applicant.from_json(written).name == name


def test_what_readers_rely_on_is_written_even_where_there_is_nothing_in_it() -> None:
    accepted = RequestAccepted.from_json(GOLDEN.read_bytes())
    empty = RequestAcceptedData(request=accepted.data.request, timeline=Timeline())
    written = json.loads(RequestAccepted(id="1", source="/test", data=empty).to_json())
    assert written.keys() == {"specversion", "id", "source", "type", "datacontenttype", "data"}
    assert (written["data"]["attributes"], written["data"]["timeline"]) == ({}, {})
    letter = DeadLetterData(
        service="routing",
        origin=Origin(topic="t", partition=0, offset=0),
        recorded_at_ms=0,
        reason=Reason.EMPTY,
        detail="",
    )
    assert json.loads(letter.to_json())["headers"] == []
    outcome = NotificationOutcomeData(
        notification_id="n",
        request_id="r",
        reference="W",
        agency="edd",
        service_code="s",
        step="accepted",
        language=Language.FRENCH,
        template="t",
        status=NotificationStatus.FAILED,
        timeline=Timeline(),
    )
    assert (json.loads(outcome.to_json())["attempts"], json.loads(outcome.to_json())["segments"]) == (0, 0)
