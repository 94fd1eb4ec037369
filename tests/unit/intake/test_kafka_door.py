"""The Kafka door: what a record of an agency's topic is read as."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.domain import Received
from services.intake.kafka import decoder
from services.intake.validation import Refused
from shared.bus.port import Record, Undecodable
from shared.clock import ManualClock
from shared.contract.agency import RequestSubmitted
from shared.contract.events import Door, Language, Origin, RequestRejected
from shared.contract.reasons import Reason
from shared.contract.topics import REJECTED
from shared.jurisdiction import Agency, Jurisdiction

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
EVENT: dict[str, Any] = {
    "specversion": "1.0",
    "id": "event-1",
    "source": "/whoever",
    "type": RequestSubmitted.TYPE,
    "time": "2026-03-01T08:00:00Z",
    "data": {"agency_reference": "2026-1", "service_code": "birth-certificate"},
}
JURISDICTION = Jurisdiction(
    name="Test",
    timezone=ZoneInfo("Africa/Djibouti"),
    phone_region="DJ",
    default_language=Language.FRENCH,
    sms_sender="Guichet",
    mail_from="guichet@example.org",
    agencies={"cnss": Agency("cnss", "Sécurité sociale"), "edd": Agency("edd", "Électricité")},
    services={},
    offices={},
)


def record(value: bytes | None, *, topic: str = "agency.cnss.events", **other: Any) -> Record:
    fields: dict[str, Any] = {"partition": 3, "offset": 42, "timestamp_ms": 0, "recorded_at": NOW, "key": None} | other
    return Record(topic=topic, value=value, **fields)


@pytest.fixture(scope="module")
def decode() -> Callable[[Record], Received]:
    return decoder(JURISDICTION, ManualClock(NOW))


Decode = Callable[[Record], Received]
VALUE = json.dumps(EVENT).encode()


def test_the_topic_says_who_the_agency_is_whatever_the_event_says(decode: Decode) -> None:
    claiming = json.dumps(EVENT | {"source": "/cnss", "subject": "cnss", "agency": "cnss"}).encode()
    received = decode(record(claiming, topic="agency.edd.events", key=b"cnss", headers=(("agency", b"cnss"),)))
    assert (received.agency, received.door, received.event_id) == ("edd", Door.KAFKA, "event-1")
    assert received.origin == Origin(topic="agency.edd.events", partition=3, offset=42)


@pytest.mark.parametrize(
    "headers",
    [
        (("ce-id", None),),
        (("ce-id", b"1"), ("ce-id", b"2")),
        (("ce-id", b"\xff\xfe"), ("content-type", b"application/xml")),
        (("x", b"0" * 1_000_000),),
        (("", b""),),
    ],
    ids=["None", "doubled", "not UTF-8", "1 MB", "empty"],
)
def test_class_29_headers_are_not_looked_at(decode: Decode, headers: tuple[tuple[str, bytes | None], ...]) -> None:
    assert decode(record(VALUE, headers=headers)) == decode(record(VALUE))


@pytest.mark.parametrize("key", [None, b"", b"2026-1", b"another", b"\xff", b"k" * 100_000])
def test_class_31_the_key_is_not_looked_at(decode: Decode, key: bytes | None) -> None:
    assert decode(record(VALUE, key=key)) == decode(record(VALUE))


@pytest.mark.parametrize(
    ("recorded_at", "published"),
    [
        (None, NOW),  # a record time of -1, or of ten years ahead, is no sane time
        (datetime(1970, 1, 1, tzinfo=UTC), datetime(1970, 1, 1, tzinfo=UTC)),
        (NOW + timedelta(seconds=5), NOW),
        (NOW + timedelta(days=3650), NOW),
        (NOW - timedelta(seconds=5), NOW - timedelta(seconds=5)),
    ],
)
def test_class_30_a_published_time_never_lies_after_the_receipt(
    decode: Decode, recorded_at: datetime | None, published: datetime
) -> None:
    timeline = decode(record(VALUE, timestamp_ms=-1, recorded_at=recorded_at)).timeline
    assert (timeline.published, timeline.received) == (published, NOW)


@pytest.mark.parametrize("topic", ["agency.nobody.events", "agency.-.events", "agency.cnss-2.events"])
def test_a_topic_of_no_known_agency_is_set_aside(decode: Decode, topic: str) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(record(VALUE, topic=topic))
    assert caught.value.reason is Reason.UNKNOWN_AGENCY
    assert caught.value.notices == ()


UNREADABLE = [
    (None, Reason.EMPTY),
    (b"", Reason.EMPTY),
    (b"\xff", Reason.NOT_UTF8),
    (b"{", Reason.NOT_JSON),
    (b"<event/>", Reason.NOT_JSON),
    (VALUE + VALUE, Reason.NOT_JSON),
    (b"[" * 60_000, Reason.TOO_DEEP),
    (b" " * 70_000, Reason.TOO_LARGE),
    (b'{"a": 1, "a": 1}', Reason.DUPLICATE_KEY),
    (b"NaN", Reason.NUMBER_OUT_OF_RANGE),
    (b"[]", Reason.NOT_A_CLOUDEVENT),
    (b"null", Reason.NOT_A_CLOUDEVENT),
    (b"{}", Reason.NOT_A_CLOUDEVENT),
]


@pytest.mark.parametrize(
    ("value", "reason"), UNREADABLE, ids=[f"{reason} {n}" for n, (_, reason) in enumerate(UNREADABLE)]
)
def test_an_unreadable_record_is_set_aside_and_its_agency_told(
    decode: Decode, value: bytes | None, reason: Reason
) -> None:
    with pytest.raises(Undecodable) as caught:
        decode(record(value))
    (notice,) = caught.value.notices
    told = RequestRejected.from_json(notice.value)
    assert caught.value.reason is reason
    assert (notice.topic, notice.key) == (REJECTED, "cnss/agency.cnss.events/3/42")
    assert (told.data.agency, told.data.event_id, told.data.problems[0].reason) == ("cnss", None, reason)
    assert told.data.origin == Origin(topic="agency.cnss.events", partition=3, offset=42)


def test_an_unreadable_record_that_comes_again_is_told_in_the_same_bytes() -> None:
    clock = ManualClock(NOW)
    notices = []
    for _ in range(2):
        with pytest.raises(Undecodable) as caught:
            decoder(JURISDICTION, clock)(record(b"{", recorded_at=NOW + timedelta(seconds=1)))
        notices.append(caught.value.notices)
        clock.advance(timedelta(hours=1))
    assert notices[0] == notices[1]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"type": "guichet.request.submitted.v2"}, Reason.UNSUPPORTED_VERSION),
        ({"data": {"agency_reference": "1"}}, Reason.MISSING_FIELD),
        ({"source": "a\0"}, Reason.FORBIDDEN_CHARACTER),
        ({"time": "2126-01-01T00:00:00Z"}, Reason.TIME_OUT_OF_RANGE),
    ],
)
def test_a_readable_event_that_is_not_valid_is_left_to_the_handler(
    decode: Decode, change: dict[str, Any], reason: Reason
) -> None:
    received = decode(record(json.dumps(EVENT | change).encode()))
    assert isinstance(received.event, Refused)
    assert received.event.problems[0].reason is reason
    assert received.event_id == "event-1"


@given(st.none() | st.binary(max_size=100))
def test_whatever_bytes_come_they_are_decoded_or_set_aside(value: bytes | None) -> None:
    with pytest.raises(Undecodable):
        decoder(JURISDICTION, ManualClock(NOW))(record(value))
