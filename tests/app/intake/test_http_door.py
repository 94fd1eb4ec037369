"""The HTTP door, as agencies see it: the real application over a real store, with a publisher in memory."""

import asyncio
import gzip
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote
from uuid import uuid4

import pytest

from services.intake.http import RETRY_AFTER_SECONDS, HttpDoor, build_http
from services.intake.keys import Authenticator
from services.intake.reference import reference_of
from shared.bus.gather import Gatherer
from shared.clock import SystemClock
from shared.contract.agency import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from shared.contract.topics import ACCEPTED, REJECTED, UPDATED

if TYPE_CHECKING:
    from tests.app.intake.conftest import Client

Write = Callable[..., dict[str, Any]]
OTHER = "edd.second-secret"
BINARY = {
    "specversion": "1.0",
    "id": "submit-1",
    "source": "/agency",
    "type": "guichet.request.submitted.v1",
    "time": "2026-03-01T08:00:00Z",
}


def counted(client: "Client", outcome: str) -> float | None:
    return client.sample("guichet_intake_events_total", agency="cnss", door="http", outcome=outcome)


# Taking over


async def test_an_event_is_accepted_with_its_reference(client: "Client", submit: Write) -> None:
    answer = await client.post(submit())
    assert answer.status == 202
    assert answer.headers["content-type"] == "application/json"
    (published,) = client.publisher.published
    card = json.loads(published.value)["data"]["request"]
    assert answer.json == {
        "event_id": "submit-1",
        "status": 202,
        "outcome": "accepted",
        "request_id": card["request_id"],
        "reference": card["reference"],
    }
    assert (published.topic, card["agency"]) == (ACCEPTED, "cnss")


async def test_structured_binary_and_plain_json_are_the_same_event(client: "Client", submit: Write) -> None:
    answers = [
        await client.post(submit()),
        await client.post(submit(), kind="application/json"),
        await client.post(submit(), kind='Application/CloudEvents+JSON; charset="UTF-8"'),
        await client.post_binary(submit()["data"], BINARY),
        await client.post_batch([submit()]),
    ]
    assert [answer.status for answer in answers] == [202] * 5
    first = answers[0].json
    assert [answer.json for answer in answers] == [first, first, first, first, {"results": [first]}]
    assert len({publication.value for publication in client.publisher.published}) == 1


async def test_the_content_type_and_no_header_makes_an_event_structured(client: "Client", submit: Write) -> None:
    headers = {"content-type": "application/cloudevents+json", "ce-specversion": "1.0", "ce-id": "other"}
    answer = await client.call("POST", "/v1/events", json.dumps(submit()).encode(), headers=headers)
    assert answer.json["event_id"] == "submit-1"


async def test_ten_calls_at_once_with_one_event_are_one_event(client: "Client", submit: Write) -> None:
    answers = await asyncio.gather(*(client.post(submit()) for _ in range(10)))
    assert {answer.status for answer in answers} == {202}
    assert len({answer.body for answer in answers}) == 1
    assert len({publication.value for publication in client.publisher.published}) == 1
    assert (counted(client, "accepted"), counted(client, "duplicate")) == (1, 9)


async def test_an_event_id_with_another_body_is_a_conflict(client: "Client", submit: Write) -> None:
    await client.post(submit())
    answer = await client.post(submit(source="/other"))
    assert (answer.status, answer.reason) == (409, "event_id_reused")
    assert (await client.post(submit())).status == 202
    assert counted(client, "rejected") == 1
    assert client.sample("guichet_intake_rejections_total", reason="event_id_reused") == 1


@pytest.mark.parametrize("late", [False, True])
async def test_what_contradicts_what_stands_is_a_conflict(
    client: "Client", submit: Write, change: Write, late: bool
) -> None:
    await client.post_batch([submit(), change("in_progress"), change("resolved")])
    if late:
        answer = await client.post(change("cancelled"))
        assert (answer.status, answer.reason) == (409, "request_closed")
    else:
        answer = await client.post(submit(id="again"))
        assert (answer.status, answer.reason) == (409, "duplicate_request")


async def test_a_change_to_an_unknown_request_is_unprocessable(client: "Client", change: Write) -> None:
    answer = await client.post(change("resolved"))
    assert (answer.status, answer.reason, answer.json["event_id"]) == (422, "unknown_request", "resolved-1")


async def test_a_change_is_published_and_answered(client: "Client", submit: Write, change: Write) -> None:
    reference = (await client.post(submit())).json["reference"]
    answer = await client.post(change("in_progress"))
    assert (answer.status, answer.json["outcome"], answer.json["reference"]) == (202, "updated", reference)
    assert client.publisher.published[-1].topic is UPDATED


# Batches


async def test_a_batch_tells_what_became_of_each_event(client: "Client", submit: Write, change: Write) -> None:
    batch = [
        submit("1"),
        submit("2", type="x"),
        "no event",
        submit("1", id="again"),
        change("resolved", "1"),
        change("resolved", "unknown"),
        submit("3", data={"agency_reference": "3"}),
        submit("4", source="\ud800"),
        submit("5", source="x" * MAX_EVENT_BYTES),
    ]
    answer = await client.post_batch(batch)
    assert answer.status == 207
    results = answer.json["results"]
    assert [result["status"] for result in results] == [202, 422, 422, 409, 202, 422, 422, 422, 413]
    reasons = [result["problems"][0]["reason"] for result in results if "problems" in result]
    assert reasons == [
        "unknown_event_type",
        "not_a_cloudevent",
        "duplicate_request",
        "unknown_request",
        "missing_field",
        "forbidden_character",
        "too_large",
    ]
    ids = ["submit-1", "submit-2", None, "again", "resolved-1", "resolved-unknown", "submit-3", "submit-4", None]
    assert [result.get("event_id") for result in results] == ids
    assert [publication.topic for publication in client.publisher.published].count(REJECTED) == 7


async def test_a_batch_of_good_events_is_accepted_as_a_whole(client: "Client", submit: Write) -> None:
    answer = await client.post_batch([submit(str(number)) for number in range(MAX_BATCH_EVENTS)])
    assert answer.status == 202
    assert {result["status"] for result in answer.json["results"]} == {202}
    assert len({result["reference"] for result in answer.json["results"]}) == MAX_BATCH_EVENTS


async def test_a_batch_of_one_too_many_is_refused_whole(client: "Client", submit: Write) -> None:
    answer = await client.post_batch([submit(str(number)) for number in range(MAX_BATCH_EVENTS + 1)])
    assert (answer.status, answer.reason) == (422, "too_many")
    assert client.publisher.published == []


async def test_an_event_of_any_script_may_be_as_large_in_a_batch_as_alone(client: "Client", submit: Write) -> None:
    data = submit()["data"] | {
        "description": "م" * 4000,
        "attributes": {f"{n}": "م" * 500 for n in range(32)},
    }
    body = json.dumps(submit(data=data), ensure_ascii=False, separators=(",", ":")).encode()
    assert MAX_EVENT_BYTES / 3 * 2 > len(body) > MAX_EVENT_BYTES / 2
    batch = json.dumps([submit(data=data)]).encode()
    assert (await client.post_batch(batch)).status == 202
    assert (await client.post(body)).status == 202


async def test_an_empty_batch_is_no_mistake(client: "Client") -> None:
    answer = await client.post_batch([])
    assert (answer.status, answer.json) == (202, {"results": []})


# Binary mode


async def test_binary_attributes_are_percent_encoded(client: "Client", submit: Write) -> None:
    attributes = BINARY | {"source": quote("/agence/état civil 100%"), "subject": quote("طلب"), "traceparent": "00-1"}
    assert (await client.post_binary(submit()["data"], attributes)).status == 202
    structured = submit(source="/agence/état civil 100%", subject="طلب")
    assert (await client.post(structured)).status == 202  # so it was the same event


@pytest.mark.parametrize(
    ("attributes", "field"),
    [
        ({key: value for key, value in BINARY.items() if key != "type"}, "type"),
        ({key: value for key, value in BINARY.items() if key != "id"}, "id"),
    ],
)
async def test_a_missing_binary_attribute_is_named(
    client: "Client", submit: Write, attributes: dict[str, str], field: str
) -> None:
    answer = await client.post_binary(submit()["data"], attributes)
    assert (answer.status, answer.reason) == (422, "missing_field")
    assert answer.json["problems"][0]["field"] == field


async def test_binary_mode_without_a_specversion_is_no_cloudevent(client: "Client", submit: Write) -> None:
    answer = await client.post_binary(submit()["data"], {"id": "1", "type": BINARY["type"]})
    assert (answer.status, answer.reason) == (422, "not_a_cloudevent")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("source", "%ff"),
        ("source", "%c0%af"),
        ("source", "%ed%a0%80"),
        ("source", "\xe9"),
        ("data", "{}"),
        ("datacontenttype", "text/xml"),
    ],
)
async def test_a_binary_header_that_cannot_be_read_is_named(
    client: "Client", submit: Write, name: str, value: str
) -> None:
    answer = await client.post_binary(submit()["data"], BINARY | {name: value})
    assert (answer.status, answer.reason) == (400, "invalid_header")
    assert answer.json["problems"][0]["field"] == f"ce-{name}"


async def test_of_a_header_given_twice_the_first_counts(client: "Client", submit: Write) -> None:
    body = json.dumps(submit()).encode()
    keys = [("authorization", f"Bearer {key}") for key in (OTHER, "cnss.wrong")]
    kinds = [("content-type", kind) for kind in ("application/cloudevents+json", "text/plain")]
    assert (await client.call("POST", "/v1/events", body, key=None, headers=[*keys, *kinds])).status == 202
    assert (await client.call("POST", "/v1/events", body, key=None, headers=[*keys[::-1], *kinds])).status == 401
    assert (await client.call("POST", "/v1/events", body, key=None, headers=[*keys, *kinds[::-1]])).status == 415


async def test_a_binary_header_given_twice_is_refused(client: "Client", submit: Write) -> None:
    answer = await client.post_binary(submit()["data"], [*BINARY.items(), ("id", "another")])
    assert (answer.status, answer.reason) == (400, "invalid_header")


@pytest.mark.parametrize(
    ("data", "status", "reason"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "not_json"),
        (b'{"a": 1, "a": 2}', 400, "duplicate_key"),
        (b"[" * 990 + b"]" * 990, 400, "too_deep"),
        (b"null", 422, "wrong_type"),
        (b'{"agency_reference": "1", "service_code": "\\ud800"}', 422, "forbidden_character"),
        (b'{"agency_reference": "1", "service_code": "a\\r\\nX-Evil: 1"}', 422, "invalid_value"),
    ],
)
async def test_bad_data_in_binary_mode_is_told_like_any_other(
    client: "Client", data: bytes, status: int, reason: str
) -> None:
    answer = await client.post_binary(data, BINARY)
    assert (answer.status, answer.reason) == (status, reason)


# Who asks


@pytest.mark.parametrize("key", [None, "", "cnss", "cnss.", "cnss.wrong", "cnss.second-secret", "nobody.first-secret"])
async def test_without_its_key_an_agency_is_nobody_and_its_body_is_not_read(
    client: "Client", submit: Write, key: str | None
) -> None:
    answer = await client.post(submit(), key=key)
    assert (answer.status, answer.reason) == (401, "unauthenticated")
    assert answer.headers["www-authenticate"] == "Bearer"
    assert not answer.body_read
    viewed = await client.get("/v1/requests/whatever", key=key)
    assert (viewed.status, viewed.reason) == (401, "unauthenticated")


async def test_the_key_says_who_the_agency_is_whatever_the_event_says(client: "Client", submit: Write) -> None:
    await client.post(submit(source="/cnss", subject="cnss", agency="cnss"), key=OTHER)
    assert json.loads(client.publisher.published[0].value)["data"]["request"]["agency"] == "edd"


# What can't be read


async def test_a_body_announced_as_too_large_is_not_read(client: "Client") -> None:
    for size in (str(MAX_EVENT_BYTES + 1), "9" * 30, "9" * 5000):
        headers = {"content-type": "application/json", "content-length": size}
        answer = await client.call("POST", "/v1/events", b"{}", headers=headers, announce=False)
        assert (answer.status, answer.reason, answer.body_read) == (413, "too_large", False)


async def test_a_body_that_grows_too_large_is_not_read_to_its_end(client: "Client") -> None:
    for kind, limit in (("application/json", MAX_EVENT_BYTES), ("application/cloudevents-batch+json", MAX_BATCH_BYTES)):
        chunks = [b" " * (limit // 4)] * 4 + [b" "]
        asked = await client.call("POST", "/v1/events", chunks, headers={"content-type": kind})
        assert (asked.status, asked.reason) == (413, "too_large")


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "application/xml"},
        {"content-type": "text/plain"},
        {"content-type": "application/json; charset=iso-8859-1"},
        {"content-type": "application/cloudevents+xml"},
        {"content-type": ""},
        {},
        {"content-type": "application/json", "content-encoding": "gzip"},
        {"content-type": "application/json", "content-encoding": "zstd"},
        {"content-type": "application/json", "content-encoding": "identity, gzip"},
    ],
)
async def test_what_is_not_json_in_utf8_is_not_taken(client: "Client", submit: Write, headers: dict[str, str]) -> None:
    body = gzip.compress(json.dumps(submit()).encode())
    answer = await client.call("POST", "/v1/events", body, headers=headers)
    assert (answer.status, answer.reason, answer.body_read) == (415, "unsupported_media_type", False)


async def test_a_body_in_many_chunks_is_one_body(client: "Client", submit: Write) -> None:
    chunks = [bytes([byte]) for byte in json.dumps(submit()).encode()]
    answer = await client.call("POST", "/v1/events", chunks, headers={"content-type": "application/json"})
    assert answer.status == 202


async def test_every_wrong_field_is_named_in_one_answer(client: "Client", submit: Write) -> None:
    data = {"agency_reference": "", "extra": 1, "applicant": {"phone": 5}}
    answer = await client.post(submit(data=data, time="yesterday"))
    assert answer.status == 422
    assert {(problem["field"], problem["reason"]) for problem in answer.json["problems"]} == {
        ("time", "invalid_time"),
        ("data.agency_reference", "invalid_value"),
        ("data.service_code", "missing_field"),
        ("data.applicant.phone", "wrong_type"),
        ("data.extra", "unknown_field"),
    }
    assert answer.json["type"] == f"urn:guichet:problem:{answer.reason}"
    assert {"title", "detail", "status", "event_id"} <= answer.json.keys()


def corpus(event: dict[str, Any]) -> list[tuple[bytes, int]]:
    """Bad input by the classes of its list, each with the status that it gets."""
    body = json.dumps(event).encode()

    def data(**fields: Any) -> bytes:
        return json.dumps(event | {"data": event["data"] | fields}).encode()

    def top(**fields: Any) -> bytes:
        return json.dumps(event | fields).encode()

    return [
        *((body[:length], 400) for length in range(len(body))),
        (b"null", 422),
        (b"{}", 422),
        (b"[]", 422),
        (b"\xff", 400),
        (b"\xef\xbb\xbf" + body, 400),
        (body.decode().encode("utf-16"), 400),
        (body.replace(b"/agency", b"\\ud800"), 422),
        (body.replace(b"/agency", b"\\u0000"), 422),
        (body[:-1] + b', "id": "x"}', 400),
        (body[:-1] + b', "ext": NaN}', 400),
        (body[:-1] + b', "ext": 1e999}', 400),
        (body[:-1] + b', "ext": ' + b"9" * 10_000 + b"}", 400),
        (body[:-1] + b', "ext": ' + b"[" * 250 + b"]" * 250 + b"}", 400),
        (b"[" * 30_000, 400),
        (b"[" * 100_000, 413),
        (b'{"' + b"k" * 1_000_000 + b'": 1}', 413),
        (body + b"{}", 400),
        (top(time=1), 422),
        (top(time="9999-12-31T23:59:59-01:00"), 422),
        (top(time="0001-01-01T00:00:00+14:00"), 422),
        (top(id=["$gt"]), 422),
        (top(id="x" * 129), 422),
        (top(type="guichet.request.submitted.v2"), 422),
        (top(specversion="0.3"), 422),
        (top(**{"$where": "1"}), 422),
        (top(**{"": 1, "\0": 2, "__proto__": {}}), 422),
        (data(attributes={"n": 10**400}), 422),
        (data(attributes={"n": {"$gt": 1}}), 422),
        (data(applicant={"phone": "17"}), 422),
        (data(applicant={"email": '"a"@example.org'}), 422),
        (data(applicant={"name": "a\u202eb"}), 422),
        (data(applicant={"name": "\x1b[2J"}), 422),
        (data(description="x" * 4001), 422),
        (b"<?xml version='1.0'?><event/>", 400),
    ]


async def test_bad_input_gets_a_reason_and_never_a_500(client: "Client", submit: Write) -> None:
    for body, status in corpus(submit()):
        answer = await client.post(body)
        assert answer.status == status, body[:100]
        assert answer.reason
        assert answer.json["problems"]
    assert all(publication.topic is REJECTED for publication in client.publisher.published)


async def test_bad_input_in_a_batch_never_takes_its_neighbours_with_it(client: "Client", submit: Write) -> None:
    for number, (body, status) in enumerate(corpus(submit("bad"))):
        if status == 422:
            good = json.dumps(submit(str(number))).encode()
            answer = await client.post_batch(b"[" + good + b"," + body + b"]")
            assert answer.status == 207
            assert [result["status"] for result in answer.json["results"]] == [202, 422]


# When it can't be done


async def test_without_kafka_nothing_is_accepted_and_all_of_it_later(
    client: "Client", submit: Write, change: Write
) -> None:
    client.publisher.away = True
    for answer in (await client.post(submit()), await client.post_batch([submit(), change("resolved")])):
        assert (answer.status, answer.reason) == (503, "unavailable")
        assert answer.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
    assert counted(client, "accepted") is None
    client.publisher.away = False
    assert (await client.post(submit())).status == 202
    assert (await client.post_batch([submit(), change("resolved")])).status == 202
    assert [publication.topic for publication in client.publisher.published] == [ACCEPTED, ACCEPTED, UPDATED]


async def test_without_its_store_nothing_is_accepted_or_seen(client: "Client", submit: Write) -> None:
    reference = (await client.post(submit())).json["reference"]
    client.publisher.published.clear()
    await client.store.close()
    for answer in (await client.post(submit("2")), await client.get(f"/v1/requests/{reference}")):
        assert (answer.status, answer.reason) == (503, "unavailable")
        assert answer.headers["retry-after"] == str(RETRY_AFTER_SECONDS)
    assert client.publisher.published == []
    await client.store.open()
    assert (await client.post(submit("2"))).status == 202


async def test_while_kafka_is_waited_for_the_next_calls_are_decided_and_published(
    client: "Client", submit: Write
) -> None:
    client.publisher.acknowledges.clear()
    async with asyncio.timeout(10):
        calls = []
        for number in range(1, 3):
            calls.append(asyncio.create_task(client.post_batch(among_many(submit(str(number)), submit))))
            await publications(client, number)
        assert client.publisher.published == []
        client.publisher.acknowledges.set()
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [202, 202]


async def test_a_change_is_published_behind_what_it_changes_though_it_was_decided_before_that_was_acknowledged(
    client: "Client", submit: Write, change: Write
) -> None:
    client.publisher.acknowledges.clear()
    async with asyncio.timeout(10):
        calls = [asyncio.create_task(client.post(submit()))]
        await publications(client, 1)
        calls.append(asyncio.create_task(client.post_batch(among_many(change("in_progress"), submit))))
        while "cnss/in_progress-1" not in {row.key async for row in client.store.collection("claims").scan()}:
            pass
        assert client.publisher.asked == 1
        client.publisher.acknowledges.set()
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [202, 202]
    assert [publication.topic for publication in client.publisher.published[:2]] == [ACCEPTED, UPDATED]


async def test_two_calls_with_changes_at_the_same_time_do_not_wait_for_each_other(
    client: "Client", submit: Write, change: Write, tmp_path: Path
) -> None:
    await client.post_batch([submit("1"), submit("2")])
    # While the store is held both are under way, each in a batch of its own.
    holder = sqlite3.connect(tmp_path / "intake.db", isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    calls = []
    async with asyncio.timeout(10):
        for number in ("1", "2"):
            calls.append(asyncio.create_task(client.post_batch(among_many(change("in_progress", number), submit))))
            await asyncio.sleep(0)
            while client.gatherer.waiting:
                await asyncio.sleep(0)
        holder.execute("ROLLBACK")
        answers = await asyncio.gather(*calls)
    assert [answer.status for answer in answers] == [202, 202]
    holder.close()


def among_many(event: dict[str, Any], submit: Write) -> list[dict[str, Any]]:
    """The first of so many events that they are not left waiting for others while a batch is under way."""
    return [event, *(submit(f"other-{uuid4()}") for _ in range(MAX_BATCH_EVENTS // 2))]


async def publications(client: "Client", number: int) -> None:
    """Return once so many were asked for."""
    while client.publisher.asked < number:
        await asyncio.sleep(0)


async def test_a_call_before_the_service_runs_is_told_to_come_again_and_does_not_hang(
    client: "Client", submit: Write
) -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    door = HttpDoor(
        authenticator=Authenticator(client.jurisdiction),
        gatherer=Gatherer(never, patience_seconds=0.01),
        requests=client.store.collection("requests"),
        find=never,
        clock=SystemClock(),
        phone_region="DJ",
        metrics=client.metrics,
    )
    client.app = build_http(door, client.metrics)
    client.whole = dict.fromkeys(client.whole, door.take)
    answer = await client.post(submit())
    assert (answer.status, answer.reason) == (503, "unavailable")


# Seeing


async def test_the_owner_sees_a_request_by_its_reference_in_any_writing(
    client: "Client", submit: Write, change: Write
) -> None:
    accepted = (await client.post(submit())).json
    await client.post_batch(
        [change("in_progress"), change("resolved", data=change("resolved")["data"] | {"note": "n"})]
    )
    reference = accepted["reference"]
    for written in (reference, reference.lower(), reference.replace("-", ""), reference.replace("-", " ")):
        answer = await client.get(f"/v1/requests/{written}")
        assert answer.status == 200
        assert answer.json == {
            "reference": reference,
            "request_id": accepted["request_id"],
            "agency_reference": "1",
            "service_code": "birth-certificate",
            "status": "resolved",
            "submitted_at": "2026-03-01T08:00:00Z",
            "accepted_at": "2026-03-01T12:00:00Z",
            "history": [
                {"status": "in_progress", "at": "2026-03-01T09:00:00Z"},
                {"status": "resolved", "at": "2026-03-01T09:00:00Z", "note": "n"},
            ],
        }


async def test_the_owner_finds_a_request_by_its_own_number_whichever_door_it_came_in_at(
    client: "Client", submit: Write, change: Write
) -> None:
    await client.post(submit("A/7+8"))
    await client.post(change("in_progress", "A/7+8"))
    found = await client.get("/v1/requests?agency_reference=A%2F7%2B8")
    assert (found.status, found.json["agency_reference"], found.json["status"]) == (200, "A/7+8", "in_progress")
    by_reference = await client.get(f"/v1/requests/{found.json['reference']}")
    assert found.json == by_reference.json


async def test_under_a_number_that_only_another_agency_submitted_nothing_is_found(
    client: "Client", submit: Write
) -> None:
    await client.post(submit("7"))
    for answer in (
        await client.get("/v1/requests?agency_reference=7", key=OTHER),
        await client.get("/v1/requests?agency_reference=8"),
        await client.get(f"/v1/requests?agency_reference={'9' * 5000}"),
    ):
        assert (answer.status, answer.reason) == (404, "not_found")


@pytest.mark.parametrize("query", ["", "?", "?agency_reference=", "?reference=1"])
async def test_a_search_that_does_not_say_for_what_is_told_so(client: "Client", query: str) -> None:
    answer = await client.get(f"/v1/requests{query}")
    assert (answer.status, answer.reason) == (422, "missing_field")
    assert answer.json["problems"][0]["field"] == "agency_reference"


async def test_to_another_agency_a_request_does_not_exist(client: "Client", submit: Write) -> None:
    reference = (await client.post(submit())).json["reference"]
    others = await client.get(f"/v1/requests/{reference}", key=OTHER)
    nobodys = await client.get(f"/v1/requests/{_another(reference)}", key=OTHER)
    assert (others.status, others.reason) == (404, "not_found")
    assert others.json == nobodys.json


@pytest.mark.parametrize("reference", ["x", "0" * 13, "é" * 12, "\0" * 12, "$where", "9" * 5000, "7K3M-9XQ2-HTB?"])
async def test_what_is_no_reference_is_not_found(client: "Client", reference: str) -> None:
    answer = await client.get(f"/v1/requests/{reference}")
    assert (answer.status, answer.reason) == (404, "not_found")


async def test_a_wrong_check_character_is_not_found(client: "Client", submit: Write) -> None:
    reference = (await client.post(submit())).json["reference"]
    wrong = reference[:-1] + ("0" if reference[-1] != "0" else "1")
    answer = await client.get(f"/v1/requests/{wrong}")
    assert (answer.status, answer.reason) == (404, "not_found")
    assert "check character" in answer.json["detail"]


# The rest


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/event", "/v1/events/", "/v1/events/1", "/v1/requests/", "/v1/requests/a/b"]
)
async def test_an_unknown_path_is_not_found(client: "Client", path: str) -> None:
    for method in ("GET", "POST", "PUT"):
        answer = await client.call(method, path, headers={"content-type": "application/json"})
        assert (answer.status, answer.reason) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("GET", "/v1/events", "POST"),
        ("PUT", "/v1/events", "POST"),
        ("DELETE", "/v1/events", "POST"),
        ("POST", "/v1/requests", "GET"),
        ("POST", "/v1/requests/1", "GET"),
        ("BREW", "/v1/requests/1", "GET"),
    ],
)
async def test_another_method_is_not_allowed(client: "Client", method: str, path: str, allowed: str) -> None:
    answer = await client.call(method, path)
    assert (answer.status, answer.reason) == (405, "method_not_allowed")
    assert answer.headers["allow"] == allowed


async def test_calls_are_measured_under_a_closed_list_of_routes(client: "Client", submit: Write) -> None:
    await client.post(submit())
    await client.post(b"{")
    await client.get("/v1/requests/1")
    await client.get("/v1/requests/2")
    await client.get("/v1/requests?agency_reference=1")
    for path in ("/v1/requests/a/b", "/secret/1", "/docs", "/openapi.json"):
        await client.get(path)
    seen = {
        (sample.labels["route"], sample.labels["status"]): sample.value
        for metric in client.registry.collect()
        for sample in metric.samples
        if sample.name == "guichet_http_request_seconds_count"
    }
    assert seen == {
        ("/v1/events", "2xx"): 1,
        ("/v1/events", "4xx"): 1,
        ("/v1/requests/{reference}", "4xx"): 2,
        ("/v1/requests", "2xx"): 1,
        ("unmatched", "4xx"): 2,
        ("unmatched", "2xx"): 2,
    }


def _another(reference: str) -> str:
    """A well-formed reference that nobody was given."""
    return next(other for other in (reference_of(str(n), b"another") for n in range(2)) if other != reference)
