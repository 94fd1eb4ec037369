"""What intake makes of an agency's bytes: a valid event, or every reason why not. Classes are those of bad input."""

import json
from collections.abc import Callable
from copy import deepcopy
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.json import Encoder

from services.intake.agency_event import AgencyEvent, Submission
from services.intake.plain import FUTURE_TOLERANCE, NotPlain, plain_event, plain_json
from services.intake.validation import (
    MAX_PROBLEMS,
    Refused,
    check_event,
    check_event_closely,
    read_event,
    read_json,
    read_json_closely,
    write_json,
)
from shared.contract.agency import MAX_EVENT_BYTES, RequestSubmitted, StatusChanged
from shared.contract.reasons import Reason

NOW = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
JsonObject = dict[str, Any]
Found = list[tuple[Reason, str | None]]


def submitted() -> JsonObject:
    """A submission with every field there is."""
    return {
        "specversion": "1.0",
        "id": "event-1",
        "source": "/etat-civil",
        "type": RequestSubmitted.TYPE,
        "subject": "2026-1",
        "time": "2026-03-01T08:00:00Z",
        "datacontenttype": "application/json",
        "dataschema": "/schemas/1",
        "data": {
            "agency_reference": "2026-1",
            "service_code": "birth-certificate",
            "applicant": {
                "name": "Prénom Nom",
                "phone": "77 12 34 56",
                "email": "citoyen@example.org",
                "language": "fr",
                "channel": "sms",
            },
            "description": "Deux copies",
            "place": {"address": "Rue 1", "zone": "Balbala", "latitude": 11.57, "longitude": 43.12},
            "attributes": {"copies": 2, "urgent": False, "fee": 1.5, "kind": "full"},
        },
    }


def changed() -> JsonObject:
    """A change of status with every field there is."""
    return {
        "specversion": "1.0",
        "id": "event-2",
        "source": "/etat-civil",
        "type": StatusChanged.TYPE,
        "time": "2026-03-01T09:00:00Z",
        "data": {"agency_reference": "2026-1", "status": "resolved", "note": "Venez au guichet 1."},
    }


def put(event: JsonObject, path: str, value: Any) -> JsonObject:
    """The event with one field set to a value."""
    event = deepcopy(event)
    *parents, last = path.split("/")
    part = event
    for parent in parents:
        part = part[parent]
    part[last] = value
    return event


def drop(event: JsonObject, path: str) -> JsonObject:
    """The event without one field."""
    event = put(event, path, None)
    *parents, last = path.split("/")
    part = event
    for parent in parents:
        part = part[parent]
    del part[last]
    return event


def encoded(event: Any) -> bytes:
    return json.dumps(event).encode()


def read(body: bytes) -> AgencyEvent:
    """What is made of a body. Of every body in this file a closer look has to make the same, to the byte."""
    if len(body) <= MAX_EVENT_BYTES:
        assert outcome(body, read_json, check_event) == outcome(body, read_json_closely, check_event_closely)
    return read_event(body, now=NOW, phone_region="DJ")


def outcome(body: bytes, parse: Callable[[bytes], Any], check: Callable[..., AgencyEvent]) -> object:
    """The event as bytes, or all that a refusal says."""
    try:
        return Encoder().encode(check(parse(body), body, now=NOW, phone_region="DJ"))
    except Refused as refusal:
        return refusal.problems, refusal.event_id, refusal.agency_reference


def read_submitted(event: JsonObject) -> Submission:
    read_as = read(encoded(event))
    assert isinstance(read_as, Submission)
    return read_as


def found(body: bytes) -> Found:
    """What is wrong with a body, as reason and field."""
    with pytest.raises(Refused) as caught:
        read(body)
    assert all(problem.detail for problem in caught.value.problems)
    return [(problem.reason, problem.field) for problem in caught.value.problems]


def found_in(path: str, value: Any, event: Callable[[], JsonObject] = submitted) -> Found:
    return found(encoded(put(event(), path, value)))


def with_raw(path: str, raw: str) -> bytes:
    """A submission in which one value is written as given, which json.dumps would not do."""
    return encoded(put(submitted(), path, "HERE")).replace(b'"HERE"', raw.encode("utf-8", "surrogatepass"))


# What is good


@pytest.mark.parametrize("event", [submitted(), changed()], ids=["submitted", "changed"])
def test_a_complete_event_passes(event: JsonObject) -> None:
    assert read(encoded(event)).id == event["id"]


def test_an_event_with_nothing_but_what_is_required_passes() -> None:
    event = submitted()
    event["data"] = {"agency_reference": "2026-1", "service_code": "birth-certificate"}
    for optional in ("subject", "datacontenttype", "dataschema"):
        del event[optional]
    assert read_submitted(event).data.applicant.phone is None


@pytest.mark.parametrize(
    "name",
    [
        "محمد علي",
        "\u200fمحمد\u200c علي\u200e",  # right-to-left mark, zero-width non-joiner, left-to-right mark
        "می\u200cخواهم",
        "Élodie-Françoise Œuvrard d’Arçais",
        "Cabdi Ḥasan ʿAli",
        "e\u0301 as two code points",
        "é as one",
        "👩🏽‍👩‍👧 family",
        "\u2068isolated\u2069",
    ],
)
def test_names_of_every_script_pass_unchanged(name: str) -> None:
    assert read_submitted(put(submitted(), "data/applicant/name", name)).data.applicant.name == name


@pytest.mark.parametrize(
    "text",
    [
        "{{7*7}} {% raw %} ${jndi:ldap://x} {0.__class__} %s %n %0a",
        "'; DROP TABLE requests; -- \" OR 1=1",
        "$(reboot) `id` && rm -rf / | cat; ../../etc/passwd",
        "<script>alert(1)</script> <a href='https://example.org'>x</a> &lt;b&gt;",
        '{"$where": "1", "$gt": ""}',
    ],
)
def test_what_would_be_an_injection_elsewhere_is_text_here_and_passes_unchanged(text: str) -> None:
    event = put(put(submitted(), "data/description", text), "data/applicant/name", text)
    data = read_submitted(event).data
    assert (data.description, data.applicant.name) == (text, text)


def test_operators_and_dotted_keys_are_plain_attribute_names() -> None:
    attributes = {"$where": "1", "$gt": 1, "a.b": True, "__proto__": "x", "constructor": 0.5}
    assert read_submitted(put(submitted(), "data/attributes", attributes)).data.attributes == attributes


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("77 12 34 56", "+25377123456"),
        ("77-12-34-56", "+25377123456"),
        ("(77) 12.34.56", "+25377123456"),
        ("77\u00a012\u202f34\u00a056", "+25377123456"),
        ("+253 77 12 34 56", "+25377123456"),
        ("00253 77123456", "+25377123456"),
        ("٧٧١٢٣٤٥٦", "+25377123456"),
        ("+٢٥٣ ٧٧ ١٢ ٣٤ ٥٦", "+25377123456"),
        ("۷۷۱۲۳۴۵۶", "+25377123456"),
        ("７７１２３４５６", "+25377123456"),
        ("＋２５３７７１２３４５６", "+25377123456"),
        ("21 35 12 34", "+25321351234"),
        ("+253 27 45 12 34", "+25327451234"),
        ("+33 6 12 34 56 78", "+33612345678"),
        ("+251 91 123 4567", "+251911234567"),
        ("+252 61 2345678", "+252612345678"),
        ("+971 50 123 4567", "+971501234567"),
    ],
)
def test_a_phone_number_is_written_in_e164(written: str, normal: str) -> None:
    assert read_submitted(put(submitted(), "data/applicant/phone", written)).data.applicant.phone == normal


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("citoyen+tag@example.org", "citoyen+tag@example.org"),
        ("Prenom.Nom@Example.ORG", "Prenom.Nom@example.org"),
        ("a@exämple.org", "a@xn--exmple-cua.org"),
        ("a@موقع.وزارة", "a@xn--4gbrim.xn--mgbexc3i"),
        ("a@аpple.com", "a@xn--pple-43d.com"),  # a Cyrillic а: the look-alike can be seen from here on
        ("{{7*7}}@example.org", "{{7*7}}@example.org"),
        ("x" * 64 + "@example.org", "x" * 64 + "@example.org"),
        (f"{'x' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 58}.ab", f"{'x' * 64}@{'d' * 63}.{'d' * 63}.{'d' * 58}.ab"),
    ],
)
def test_a_mail_domain_is_written_in_ascii(written: str, normal: str) -> None:
    assert read_submitted(put(submitted(), "data/applicant/email", written)).data.applicant.email == normal


@pytest.mark.parametrize(
    ("written", "utc"),
    [
        ("2026-03-01T08:00:00Z", datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("2026-03-01t08:00:00z", datetime(2026, 3, 1, 8, tzinfo=UTC)),
        ("2026-03-01T11:00:00.5+03:00", datetime(2026, 3, 1, 8, 0, 0, 500_000, tzinfo=UTC)),
        ("2026-03-01T08:00:00.123456789Z", datetime(2026, 3, 1, 8, 0, 0, 123_456, tzinfo=UTC)),
        ("2024-02-29T23:59:59-11:30", datetime(2024, 3, 1, 11, 29, 59, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_a_time_is_held_in_utc(written: str, utc: datetime) -> None:
    assert read(encoded(put(submitted(), "time", written))).time == utc


def test_a_clock_that_is_a_little_ahead_is_borne() -> None:
    latest = NOW + FUTURE_TOLERANCE
    assert read(encoded(put(submitted(), "time", latest.isoformat()))).time == latest
    beyond = (latest + timedelta(seconds=1)).isoformat()
    assert found_in("time", beyond) == [(Reason.TIME_OUT_OF_RANGE, "time")]


def test_extension_attributes_are_allowed_and_do_not_matter() -> None:
    event = submitted() | {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "sampled": True}
    assert read_submitted(event).data == read_submitted(submitted()).data


@pytest.mark.parametrize("path", ["data/description", "data/applicant/name", "data/place/address"])
def test_texts_at_their_limit_pass_and_one_more_is_too_long(path: str) -> None:
    limit = {"data/description": 4000, "data/applicant/name": 200, "data/place/address": 300}[path]
    read(encoded(put(submitted(), path, "é" * limit)))
    assert found_in(path, "é" * (limit + 1)) == [(Reason.TOO_LONG, path.replace("/", "."))]


def test_an_event_at_the_byte_limit_passes_and_one_byte_more_is_too_large() -> None:
    body = encoded(submitted())
    assert read(body.ljust(MAX_EVENT_BYTES)).id == "event-1"
    assert found(body.ljust(MAX_EVENT_BYTES + 1)) == [(Reason.TOO_LARGE, None)]


@pytest.mark.parametrize("number", [2**53, -(2**53), 0, 1e308, -0.5])
def test_numbers_that_can_be_held_exactly_pass(number: float) -> None:
    assert read_submitted(put(submitted(), "data/attributes/n", number)).data.attributes["n"] == number


# What can't be read at all


@pytest.mark.parametrize("body", [b"", b" ", b"\n\t\r\n"])
def test_class_1_nothing_is_empty(body: bytes) -> None:
    assert found(body) == [(Reason.EMPTY, None)]


@pytest.mark.parametrize("body", [b"null", b"[]", b'""', b"0", b"false", b'"text"', b"[{}]"])
def test_class_1_a_value_that_is_no_object_is_no_cloudevent(body: bytes) -> None:
    assert found(body) == [(Reason.NOT_A_CLOUDEVENT, None)]


def test_class_1_an_empty_object_is_no_cloudevent() -> None:
    assert found(b"{}") == [(Reason.NOT_A_CLOUDEVENT, "specversion")]


@pytest.mark.parametrize("path", ["id", "source", "data/agency_reference", "data/applicant/name", "data/description"])
def test_class_1_an_empty_text_is_refused(path: str) -> None:
    assert found_in(path, "") == [(Reason.INVALID_VALUE, path.replace("/", "."))]


@pytest.mark.parametrize("path", ["id", "source", "data/agency_reference", "data/service_code", "data"])
def test_class_1_null_is_refused_where_a_value_is_due(path: str) -> None:
    assert found_in(path, None) == [(Reason.WRONG_TYPE, path.replace("/", "."))]


@pytest.mark.parametrize(
    "body",
    [
        encoded(submitted()).replace(b"Deux", b"D\xe9ux"),  # Latin-1
        encoded(submitted()).replace(b"Deux", b"\xc0\xaf"),  # overlong
        encoded(submitted()).replace(b"Deux", b"\xed\xa0\x80"),  # a surrogate as UTF-8
        encoded(submitted()).replace(b"Deux", b"\xf4\x90\x80\x80"),  # beyond U+10FFFF
        b"\xef\xbb\xbf" + encoded(submitted()),
        json.dumps(submitted()).encode("utf-16"),
        json.dumps(submitted()).encode("utf-32"),
        b"\xff\xfe\x00",
    ],
)
def test_class_2_what_is_not_plain_utf8_is_refused(body: bytes) -> None:
    assert found(body) == [(Reason.NOT_UTF8, None)]


def test_class_2_utf16_without_a_mark_is_no_json() -> None:
    assert found(json.dumps(submitted()).encode("utf-16-le")) == [(Reason.NOT_JSON, None)]


@pytest.mark.parametrize("path", ["id", "data/agency_reference", "data/description", "data/applicant/name", "ext"])
@pytest.mark.parametrize("surrogate", ["\\ud800", "\\udfff x", "x\\ude00\\ud83d"])
def test_class_3_a_lone_surrogate_is_refused_by_its_path(path: str, surrogate: str) -> None:
    assert found(with_raw(path, f'"{surrogate}"')) == [(Reason.FORBIDDEN_CHARACTER, path.replace("/", "."))]


def test_class_3_a_key_with_a_lone_surrogate_is_refused() -> None:
    body = encoded(put(submitted(), "data/KEY", 1)).replace(b"KEY", b"\\ud800")
    assert found(body) == [(Reason.FORBIDDEN_CHARACTER, "data.\ufffd")]


@pytest.mark.parametrize(
    "character", ["\0", "\x07", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ufeff", "\uffff"]
)
@pytest.mark.parametrize("path", ["data/description", "data/applicant/name", "source", "data/attributes/kind", "ext"])
def test_class_4_control_characters_are_refused(path: str, character: str) -> None:
    assert found_in(path, f"a{character}b") == [(Reason.FORBIDDEN_CHARACTER, path.replace("/", "."))]
    raw = json.dumps(put(submitted(), path, f"a{character}b"), ensure_ascii=False).encode()
    assert found(raw)[0][0] in (Reason.FORBIDDEN_CHARACTER, Reason.NOT_JSON)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\t"])
def test_class_4_only_running_texts_have_several_lines(end: str) -> None:
    read(encoded(put(submitted(), "data/description", f"a{end}b")))
    read(encoded(put(changed(), "data/note", f"a{end}b")))
    for path in ("data/applicant/name", "data/place/address", "data/attributes/kind", "subject"):
        assert found_in(path, f"a{end}b") == [(Reason.FORBIDDEN_CHARACTER, path.replace("/", "."))]


@pytest.mark.parametrize("event", [submitted(), changed()], ids=["submitted", "changed"])
def test_class_5_an_event_cut_at_any_byte_is_refused(event: JsonObject) -> None:
    body = json.dumps(put(event, "source", "/é🙂"), ensure_ascii=False).encode()
    for length in range(len(body)):
        assert found(body[:length])[0][0] in (Reason.EMPTY, Reason.NOT_UTF8, Reason.NOT_JSON)


@pytest.mark.parametrize("key", ['"id": "other"', '"\\u0069d": "other"', '"data": {}', '"ext": 1, "ext": 1'])
def test_class_6_a_key_given_twice_is_refused(key: str) -> None:
    assert found(encoded(submitted())[:-1] + f", {key}}}".encode()) == [(Reason.DUPLICATE_KEY, None)]


def test_class_6_a_key_given_twice_is_refused_at_any_depth() -> None:
    assert found(with_raw("data/applicant", '{"name": "a", "name": "a"}')) == [(Reason.DUPLICATE_KEY, None)]


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 10_000])
@pytest.mark.parametrize("path", ["data/attributes/copies", "data/place/latitude", "ext"])
def test_classes_7_and_8_a_number_out_of_all_range_is_refused(path: str, number: str) -> None:
    assert found(with_raw(path, number)) == [(Reason.NUMBER_OUT_OF_RANGE, None)]


@pytest.mark.parametrize("number", [2**53 + 1, -(2**53) - 1, 10**300, 10**4000])
def test_class_8_an_integer_that_would_lose_digits_is_refused(number: int) -> None:
    body = with_raw("data/attributes/copies", str(number))
    assert found(body) == [(Reason.INVALID_VALUE, "data.attributes.copies")]


@pytest.mark.parametrize("depth", [250, 990, 1000, 5000, 30_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")], ids=["arrays", "objects"])
def test_class_9_deep_nesting_is_refused(depth: int, opening: str, closing: str) -> None:
    depth = min(depth, (MAX_EVENT_BYTES - 1000) // len(opening + closing))
    body = with_raw("data/attributes/copies", opening * depth + "1" + closing * depth)
    assert found(body) == [(Reason.TOO_DEEP, None)]


def test_class_9_nesting_of_a_hundred_thousand_is_too_large() -> None:
    assert found(b"[" * 100_000) == [(Reason.TOO_LARGE, None)]


def test_class_9_a_value_is_too_deep_to_write_before_it_breaks_the_writer() -> None:
    value: Any = 1
    for _ in range(100_000):
        value = [value]
    with pytest.raises(Refused) as caught:
        write_json(value)
    assert caught.value.problems[0].reason is Reason.TOO_DEEP


@pytest.mark.parametrize("body", [b"[" + b"0," * 1_000_000 + b"0]", b'{"' + b"k" * 1_000_000 + b'": 1}'])
def test_class_10_a_million_of_anything_is_too_large(body: bytes) -> None:
    assert found(body) == [(Reason.TOO_LARGE, None)]


def test_class_10_a_long_key_is_told_of_in_short() -> None:
    ((reason, field),) = found_in("data/" + "k" * 50_000, 1)
    assert reason is Reason.UNKNOWN_FIELD
    assert field is not None
    assert len(field) == 200


@pytest.mark.parametrize("rest", [b"{}", b",", b"x", b"\0", encoded(submitted()), b"\n" + encoded(submitted())])
def test_class_11_anything_after_the_event_is_refused(rest: bytes) -> None:
    assert found(encoded(submitted()) + rest) == [(Reason.NOT_JSON, None)]


# What is no valid event


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("id", 1),
        ("source", True),
        ("subject", 5),
        ("data/agency_reference", 2026),
        ("data/applicant", "Prénom Nom"),
        ("data/applicant", []),
        ("data/applicant/name", False),
        ("data/applicant/phone", 77123456),
        ("data/description", ["x"]),
        ("data/place", "Balbala"),
        ("data/place/latitude", "11.57"),
        ("data/place/longitude", True),
        ("data/attributes", []),
        ("data/attributes/kind", None),
        ("data/attributes/kind", [1]),
        ("data/attributes/kind", {"$gt": ""}),
        ("data", "text"),
        ("data", [1]),
        ("type", 1),
        ("ext", {"a": 1}),
        ("ext", [1]),
        ("ext", None),
    ],
)
def test_class_12_a_value_of_another_type_is_never_coerced(path: str, value: Any) -> None:
    assert found_in(path, value) == [(Reason.WRONG_TYPE, path.replace("/", "."))]


def test_class_12_true_one_and_a_text_stay_what_they_are() -> None:
    attributes = {"a": "true", "b": 1, "c": "1", "d": True, "e": 1.0, "f": "null"}
    read_back = read_submitted(put(submitted(), "data/attributes", attributes)).data.attributes
    assert {name: (type(value), value) for name, value in read_back.items()} == {
        name: (type(value), value) for name, value in attributes.items()
    }


@pytest.mark.parametrize("path", ["id", "source", "time", "type", "data", "data/agency_reference", "data/service_code"])
def test_class_13_a_missing_field_is_named(path: str) -> None:
    assert found(encoded(drop(submitted(), path))) == [(Reason.MISSING_FIELD, path.replace("/", "."))]


@pytest.mark.parametrize("path", ["data/extra", "data/applicant/mobile", "data/place/lat"])
def test_class_13_an_unknown_field_is_named(path: str) -> None:
    assert found_in(path, "x") == [(Reason.UNKNOWN_FIELD, path.replace("/", "."))]


def test_class_13_a_renamed_field_is_told_of_twice() -> None:
    event = drop(put(submitted(), "data/serviceCode", "x"), "data/service_code")
    expected = {(Reason.MISSING_FIELD, "data.service_code"), (Reason.UNKNOWN_FIELD, "data.serviceCode")}
    assert set(found(encoded(event))) == expected


@pytest.mark.parametrize(
    ("event", "path", "value"),
    [
        (submitted, "data/applicant/language", "de"),
        (submitted, "data/applicant/language", "FR"),
        (submitted, "data/applicant/channel", "fax"),
        (submitted, "datacontenttype", "text/plain"),
        (changed, "data/status", "received"),
        (changed, "data/status", "RESOLVED"),
        (changed, "data/status", "done"),
    ],
)
def test_class_13_an_unknown_choice_is_refused(event: Callable[[], JsonObject], path: str, value: str) -> None:
    assert found_in(path, value, event) == [(Reason.INVALID_VALUE, path.replace("/", "."))]


@pytest.mark.parametrize("version", ["0", "-1", "2", "99999"])
@pytest.mark.parametrize("name", ["guichet.request.submitted", "guichet.request.status_changed"])
def test_class_14_another_version_of_an_event_is_told_apart(name: str, version: str) -> None:
    assert found_in("type", f"{name}.v{version}") == [(Reason.UNSUPPORTED_VERSION, "type")]


@pytest.mark.parametrize("version", ["0.3", "1", "1.1", "", None, 1.0])
def test_class_14_another_version_of_cloudevents_is_refused(version: Any) -> None:
    assert found_in("specversion", version) == [(Reason.UNSUPPORTED_VERSION, "specversion")]


@pytest.mark.parametrize("name", ["", "x", "guichet.request.accepted.v1", "GUICHET.REQUEST.SUBMITTED.V1"])
def test_class_13_another_type_of_event_is_refused(name: str) -> None:
    assert found_in("type", name) == [(Reason.UNKNOWN_EVENT_TYPE, "type")]


@pytest.mark.parametrize("key", ["$where", "$gt", "a.b", "__proto__", "", "Id", "é"])
@pytest.mark.parametrize("place", ["", "data/", "data/applicant/", "data/place/"])
def test_class_15_a_key_that_means_something_elsewhere_is_an_unknown_field(place: str, key: str) -> None:
    field = (place + key).replace("/", ".")
    assert found_in(place + key, 1) == [(Reason.UNKNOWN_FIELD, field or None)]


@pytest.mark.parametrize("path", ["id", "data/agency_reference", "data/service_code"])
@pytest.mark.parametrize("value", ["a b", "é", "a\u00a0b", "１"])
def test_class_16_an_identifier_is_made_of_printable_ascii(path: str, value: str) -> None:
    assert found_in(path, value) == [(Reason.INVALID_VALUE, path.replace("/", "."))]


@pytest.mark.parametrize("path", ["id", "data/agency_reference"])
def test_class_16_an_identifier_ends_where_it_ends(path: str) -> None:
    assert found_in(path, "a\n")[0][1] == path.replace("/", ".")


@pytest.mark.parametrize(
    "value",
    ["00000000-0000-0000-0000-000000000000", "{6F1F7E0B-9D7A-5C55-8A0E-2F9D1F0C6D01}", "ABC", "abc", "a/b:c#d?e", "1"],
)
def test_class_16_an_identifier_is_kept_to_the_letter(value: str) -> None:
    assert read(encoded(put(submitted(), "id", value))).id == value


@pytest.mark.parametrize(("path", "limit"), [("id", 128), ("data/agency_reference", 64), ("data/service_code", 64)])
def test_class_16_an_identifier_has_a_limit(path: str, limit: int) -> None:
    read(encoded(put(submitted(), path, "x" * limit)))
    assert found_in(path, "x" * (limit + 1)) == [(Reason.TOO_LONG, path.replace("/", "."))]


@pytest.mark.parametrize(
    "written",
    [
        "0000-01-01T00:00:00Z",
        "2026-02-30T00:00:00Z",
        "2025-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2016-12-31T23:59:60Z",
        "2026-03-01T24:00:00Z",
        "2026-03-01T08:00:00",
        "2026-03-01T08:00:00+25:00",
        "2026-03-01 08:00:00Z",
        "2026-03-01_08:00:00Z",
        "2026-03-01T08:00Z",
        "2026-03-01",
        "1772352000",
        "1772352000000",
        "1772352000.5",
        "-1",
        "٢٠٢٦-٠٣-٠١T٠٨:٠٠:٠٠Z",
        "yesterday",
        "",
        1772352000,
        1772352000.5,
        True,
    ],
)
def test_class_18_what_is_no_rfc_3339_time_is_refused(written: Any) -> None:
    assert found_in("time", written) == [(Reason.INVALID_TIME, "time")]


@pytest.mark.parametrize(
    "written",
    [
        "0001-01-01T00:00:00Z",
        "0001-01-01T00:00:00+14:00",  # in UTC before the year 1
        "1969-12-31T23:59:59Z",
        "1970-01-01T00:00:00+01:00",
        "2126-03-01T08:00:00Z",
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-01:00",  # in UTC after the year 9999
    ],
)
def test_class_18_a_time_that_cannot_be_meant_is_refused(written: str) -> None:
    assert found_in("time", written) == [(Reason.TIME_OUT_OF_RANGE, "time")]


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("data/place/latitude", 90.0001, Reason.INVALID_VALUE),
        ("data/place/latitude", -91, Reason.INVALID_VALUE),
        ("data/place/longitude", 180.0001, Reason.INVALID_VALUE),
        ("data/attributes/kind", "x" * 501, Reason.TOO_LONG),
        ("data/attributes", {f"n{n}": n for n in range(33)}, Reason.TOO_MANY),
        ("data/applicant/phone", "7" * 33, Reason.TOO_LONG),
        ("data/applicant/email", "a@" + "b" * 249 + ".org", Reason.TOO_LONG),
        ("source", "x" * 257, Reason.TOO_LONG),
    ],
)
def test_class_19_one_beyond_a_limit_is_refused(path: str, value: Any, reason: Reason) -> None:
    assert found_in(path, value) == [(reason, path.replace("/", "."))]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("data/place/latitude", 90),
        ("data/place/longitude", -180),
        ("data/attributes/kind", "x" * 500),
        ("data/attributes/kind", ""),
        ("data/attributes", {f"n{n}": n for n in range(32)}),
        ("source", "x" * 256),
    ],
)
def test_class_19_a_value_at_its_limit_passes(path: str, value: Any) -> None:
    read(encoded(put(submitted(), path, value)))


def test_class_19_an_attribute_name_is_named_when_it_is_wrong() -> None:
    assert found_in("data/attributes/", 1) == [(Reason.INVALID_VALUE, "data.attributes.")]
    assert found_in("data/attributes/é", 1) == [(Reason.INVALID_VALUE, "data.attributes.é")]


@pytest.mark.parametrize(
    "written",
    [
        "17",  # short codes
        "112",
        "+33 899 12 34 56",  # premium
        "+33 800 12 34 56",  # free of charge, for companies
        "77123456 ext 5",
        "77123456;ext=5",
        "77123456x5",
        "tel:+25377123456",
        "7712345",
        "771234567",
        "1234567890123456",
        "+2537712345678901",
        "+999 123456",
        "77123456/77654321",
        "77O23456",
        "++25377123456",
        "+",
        "()",
        " ",
        "77123456; DROP TABLE",
        "77{{1}}23456",
    ],
)
def test_class_20_what_reaches_no_ordinary_subscriber_is_no_phone_number(written: str) -> None:
    assert found_in("data/applicant/phone", written) == [(Reason.INVALID_PHONE, "data.applicant.phone")]


@pytest.mark.parametrize(
    "written",
    [
        '"a b"@example.org',
        '"a"@example.org',
        "é@example.org",
        "example.org",
        "ab@",
        "@example.org",
        "a@b@example.org",
        "a@example",
        "a@localhost",
        "a@[127.0.0.1]",
        "a@127.0.0.1",
        "a..b@example.org",
        ".a@example.org",
        "a(comment)@example.org",
        "Name <a@example.org>",
        "@relay.example,@other.example:a@example.org",
        "a@example.org, b@example.org",
        " a@example.org",
        "a@-example.org",
        "a@exa_mple.org",
        "a@" + "b" * 64 + ".org",
        "x" * 65 + "@example.org",
    ],
)
def test_class_21_what_cannot_be_relied_on_in_transit_is_no_mail_address(written: str) -> None:
    assert found_in("data/applicant/email", written) == [(Reason.INVALID_EMAIL, "data.applicant.email")]


def test_class_21_an_address_too_long_in_ascii_is_refused_though_it_was_short_enough() -> None:
    address = f"a@{'é' * 50}.{'é' * 50}.{'é' * 50}.{'é' * 50}.org"
    assert len(address) <= 254
    assert found_in("data/applicant/email", address) == [(Reason.INVALID_EMAIL, "data.applicant.email")]


@pytest.mark.parametrize("path", ["data/applicant/phone", "data/applicant/email"])
def test_classes_20_and_21_a_line_end_does_not_pass_unseen(path: str) -> None:
    value = "77123456\r\n" if path.endswith("phone") else "a@example.org\r\nBcc: b@example.org"
    assert (Reason.FORBIDDEN_CHARACTER, path.replace("/", ".")) in found_in(path, value)


@pytest.mark.parametrize("override", ["\u202a", "\u202b", "\u202c", "\u202d", "\u202e"])
def test_class_25_directional_overrides_are_refused(override: str) -> None:
    assert found_in("data/description", f"a{override}b") == [(Reason.FORBIDDEN_CHARACTER, "data.description")]


def test_class_25_a_pile_of_combining_marks_is_refused_and_a_few_are_not() -> None:
    read(encoded(put(submitted(), "data/applicant/name", "e" + "\u0301" * 8)))
    piled = found_in("data/applicant/name", "e" + "\u0301" * 9)
    assert piled == [(Reason.FORBIDDEN_CHARACTER, "data.applicant.name")]


@pytest.mark.parametrize("text", ["\x1b[2J", "a\r\nlevel=error msg=forged", "a\u202egnp.exe"])
def test_class_26_log_and_terminal_injection_is_refused(text: str) -> None:
    assert found_in("data/applicant/name", text) == [(Reason.FORBIDDEN_CHARACTER, "data.applicant.name")]


def test_class_26_a_key_is_told_of_without_what_a_terminal_would_obey() -> None:
    assert found_in("data/\x1b[2J\r\n", 1) == [(Reason.UNKNOWN_FIELD, "data.\ufffd[2J\ufffd\ufffd")]


@pytest.mark.parametrize("body", [b"<?xml version='1.0'?><event/>", b"<html>", b"id=1&type=x", b"a: 1\nb: 2"])
def test_class_37_what_is_no_json_is_refused(body: bytes) -> None:
    assert found(body) == [(Reason.NOT_JSON, None)]


# How it is told


def test_every_problem_of_an_event_is_told_at_once() -> None:
    event = put(submitted(), "data/applicant/phone", "17")
    event = put(event, "data/applicant/email", "a@localhost")
    event = put(event, "data/description", "a\0")
    event = put(event, "time", "2126-03-01T08:00:00Z")
    assert set(found(encoded(event))) == {
        (Reason.INVALID_PHONE, "data.applicant.phone"),
        (Reason.INVALID_EMAIL, "data.applicant.email"),
        (Reason.FORBIDDEN_CHARACTER, "data.description"),
        (Reason.TIME_OUT_OF_RANGE, "time"),
    }


def test_problems_are_told_up_to_a_limit() -> None:
    event = submitted()
    event["data"] |= {f"extra{n}": n for n in range(1000)}
    assert len(found(encoded(event))) == MAX_PROBLEMS


def test_a_refusal_names_the_event_and_the_request_where_they_can_be_read() -> None:
    with pytest.raises(Refused) as caught:
        read(encoded(put(submitted(), "data/applicant/phone", "17")))
    assert (caught.value.event_id, caught.value.agency_reference) == ("event-1", "2026-1")


@pytest.mark.parametrize("unsafe", ["a b", "a\n", "é", "x" * 129, "", 1, None, ["a"], "\ud800"])
def test_a_refusal_names_nothing_that_is_no_identifier(unsafe: Any) -> None:
    with pytest.raises(Refused) as caught:
        read(encoded(put(put(submitted(), "id", unsafe), "data/agency_reference", unsafe)))
    assert (caught.value.event_id, caught.value.agency_reference) == (None, None)


# Whatever comes, it is an event or a refusal


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
PATHS = sorted(
    {f"data/applicant/{name}" for name in submitted()["data"]["applicant"]}
    | {f"data/place/{name}" for name in submitted()["data"]["place"]}
    | {f"data/{name}" for name in submitted()["data"]}
    | {"data/attributes/kind", "ext"}
    | set(submitted())
)


def read_or_refused(body: bytes) -> None:
    try:
        problems = 0 if read(body).id else -1
    except Refused as refusal:
        problems = len(refusal.problems) or -1
    assert 0 <= problems <= MAX_PROBLEMS


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_never_anything_but_refused(body: bytes) -> None:
    with pytest.raises(Refused):
        read(body)


@given(JSON_VALUES)
def test_arbitrary_json_is_never_anything_but_refused(value: Any) -> None:
    with pytest.raises(Refused):
        read(encoded(value))


@settings(max_examples=400)
@given(st.sampled_from(PATHS), JSON_VALUES)
def test_an_event_with_anything_in_any_field_is_read_or_refused(path: str, value: Any) -> None:
    read_or_refused(encoded(put(submitted(), path, value)))


@settings(max_examples=200)
@given(st.data())
def test_an_event_with_any_bytes_changed_is_read_or_refused(data: st.DataObject) -> None:
    body = bytearray(json.dumps(submitted(), ensure_ascii=False).encode())
    for _ in range(data.draw(st.integers(1, 4))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    read_or_refused(bytes(body))


@given(JSON_VALUES)
def test_what_is_written_again_for_a_part_of_a_batch_says_the_same(value: Any) -> None:
    try:
        first = read_json(encoded(value))
    except Refused:
        return
    assert read_json(write_json(first)) == first


LINES = 'She said: "all of C:\\temp",\r\n\tand left — déjà vu 😀'
TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "Zs")) | st.sampled_from('"\\/'), min_size=1, max_size=60
)
TOKEN = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=64)
VALID = st.builds(
    lambda event_id, time, data: submitted() | {"id": event_id, "time": time.isoformat(), "data": data},
    TOKEN,
    st.datetimes(
        datetime(1970, 1, 2),  # noqa: DTZ001
        datetime(2026, 3, 1),  # noqa: DTZ001
        timezones=st.integers(-12 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
    ),
    st.fixed_dictionaries(
        {"agency_reference": TOKEN, "service_code": TOKEN},
        optional={
            "applicant": st.fixed_dictionaries(
                {},
                optional={
                    "name": TEXT,
                    "phone": st.integers(0, 999_999).map(lambda n: f"77{n:06}"),
                    "email": st.from_regex(r"[a-z]{1,20}@[a-z]{1,20}\.(org|dj)", fullmatch=True),
                    "language": st.sampled_from(["fr", "ar", "so", "aa", "en"]),
                    "channel": st.sampled_from(["sms", "email"]),
                },
            ),
            "description": TEXT,
            "place": st.fixed_dictionaries({}, optional={"zone": TEXT, "latitude": st.floats(-90, 90)}),
            "attributes": st.dictionaries(
                TOKEN, TEXT | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e300, 1e300), max_size=5
            ),
        },
    ),
)


@given(VALID)
def test_a_valid_event_always_passes_the_same_in_any_writing(event: JsonObject) -> None:
    plain = read(json.dumps(event, ensure_ascii=False).encode())
    assert read(encoded(event)) == plain
    assert check_event(event, write_json(event), now=NOW, phone_region="DJ") == plain


@given(VALID, st.booleans())
def test_a_valid_event_needs_no_closer_look_with_or_without_escapes(event: JsonObject, escaped: bool) -> None:
    body = json.dumps(event, ensure_ascii=escaped).encode()
    assert plain_event(plain_json(body), body, now=NOW, phone_region="DJ") == read(body)


def test_a_text_of_several_lines_needs_no_closer_look() -> None:
    for event in (put(submitted(), "data/description", LINES), put(changed(), "data/note", LINES)):
        assert plain_event(plain_json(body := encoded(event)), body, now=NOW, phone_region="DJ") == read(body)


@pytest.mark.parametrize(("path", "text"), [("data/applicant/name", "a\nb"), ("data/description", "a\u0000")])
def test_what_an_escape_hides_is_looked_at_closer(path: str, text: str) -> None:
    body = encoded(put(put(submitted(), "data/description", LINES), path, text))
    with pytest.raises(NotPlain):
        plain_event(plain_json(body), body, now=NOW, phone_region="DJ")
    with pytest.raises(Refused):
        read(body)


@pytest.mark.parametrize(
    "body",
    [
        *(b'{"a":1,"a":1}', b'[{"a":{"b":"x","b":"y"}}]', b'{"a":1,"\\u0061":1}', b'{"a":"\\u0022","b":1,"b":2}'),
        *(b'"\\ud800"', b'"\\udfffx"', b'"\\x"', b"1e400", b"[1,]", b"\xff"),
    ],
)
def test_what_is_not_plain_json_is_left_to_the_closer_look(body: bytes) -> None:
    with pytest.raises(NotPlain):
        plain_json(body)


RAW_NUMBERS = (
    "-0",
    "-0.0",
    "0.1e1",
    "1E2",
    "1e-400",
    "1e400",
    "9007199254740992.0",
    "9007199254740993",
    "1" * 30,
    "0" * 2,
)
RAW_TIMES = (
    *("2026-03-01T08:00:00.1234567Z", "2026-03-01t08:00:00z", "2026-03-01 08:00:00Z", "2026-03-01T24:00:00Z"),
    *("2026-03-01T08:00:60Z", "2026-03-01T08:00:00-00:00", "2026-03-01T08:00:00+05:75", "2026-03-01T08:00:00+24:00"),
    *(
        "2026-03-01T08:00:00,5Z",
        "2026-03-01T08:00:00.Z",
        "2026-03-01T08:00Z",
        "2026-02-29T08:00:00Z",
        "2026-03-01T08:00:00",
    ),
    *(
        "1970-01-01T01:00:00+03:00",
        "1969-12-31T23:00:00-03:00",
        "0001-01-01T00:00:00+01:00",
        "9999-12-31T23:59:59-01:00",
    ),
    *("1772352000", "２026-03-01T08:00:00Z", "2026-03-01T08:00:00.5+0300", "2026-03-01T08:00:00.000001+14:00"),
)
RAW_TEXTS = (
    "a\tb",
    "a\u0301" * 9,
    "é\u0301",
    "\u200f\u0639",
    "\u2067x\u2069",
    "\U0001f600" * 64,
    "x" * 64,
    "é" * 200,
    "’—",
    "\x7f",
    "\\u00e9\\u0301",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\u202e",
    "\\u0000",
    "\\\\u0000",
    "a\\n\\tb",
    "a\\\\n\\r",
    '\\"\\\\\\/',
    "\\u0022",
    "\\u007f",
    "\\b",
)


@pytest.mark.parametrize("number", RAW_NUMBERS)
@pytest.mark.parametrize("path", ["data/attributes/fee", "data/place/latitude", "data/applicant/name", "id", "ext"])
def test_a_number_in_any_writing_is_read_or_refused(path: str, number: str) -> None:
    read_or_refused(with_raw(path, number))


@pytest.mark.parametrize("time", RAW_TIMES)
def test_a_time_in_any_writing_is_read_or_refused(time: str) -> None:
    read_or_refused(with_raw("time", f'"{time}"'))


@pytest.mark.parametrize("text", RAW_TEXTS)
@pytest.mark.parametrize("path", PATHS)
def test_a_text_without_escapes_is_read_or_refused_in_any_field(path: str, text: str) -> None:
    read_or_refused(with_raw(path, f'"{text}"'))


@pytest.mark.parametrize(
    ("event", "path", "value", "said"),
    [
        (submitted, "id", "event 1", "it is made of visible ASCII characters, without spaces"),
        (submitted, "time", "2026-03-01 08:00", "write it as RFC 3339: 2026-01-31T08:30:00Z"),
        (submitted, "time", "yesterday", "write it as RFC 3339: 2026-01-31T08:30:00Z"),
        (submitted, "data/urgent", True, "the contract has no such field"),
        (
            changed,
            "data/status",
            "done",
            "Input should be 'in_progress', 'waiting_for_citizen', 'resolved' or 'cancelled'",
        ),
    ],
)
def test_what_is_wrong_is_said_in_words_of_the_contract(
    event: Callable[[], JsonObject], path: str, value: Any, said: str
) -> None:
    with pytest.raises(Refused) as refusal:
        read(encoded(put(event(), path, value)))
    assert [problem.detail for problem in refusal.value.problems] == [said]
