import csv
import gzip
import io
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from deploy.replay.importers import read_source
from deploy.replay.naming import slug
from deploy.replay.open_data import NO_OFFICE, read_open_data, utc_moment
from deploy.replay.steps import Catalogue, Kind, Promise, Replay, SourceError, Step
from services.intake.validation import check_event
from shared.contract.events import Door

Row = Mapping[str, str]
AsCsv = Callable[..., str]

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CHICAGO = ZoneInfo("America/Chicago")
REAL_FILES = sorted((Path(__file__).parents[4] / "shared" / "data").glob("*.csv.gz"))


def imported(text: str) -> Replay:
    return read_open_data(text, "a-file.csv", now=NOW)


def catalogue_of(replay: Replay) -> Catalogue:
    assert isinstance(replay.jurisdiction, Catalogue)
    return replay.jurisdiction


def told(steps: list[Step]) -> list[str]:
    """Each step as one word: what it says of the request."""
    return [step.event["data"].get("status", "submitted") for step in steps]


def test_an_office_sends_its_own_requests_and_what_became_of_them(as_csv: AsCsv, lamp: Row) -> None:
    steps = list(imported(as_csv([lamp])).steps)

    assert told(steps) == ["submitted", "in_progress", "resolved"]
    assert {step.agency for step in steps} == {"lamps-poles"}
    assert [step.at for step in steps] == [
        datetime(2019, 5, 6, 14, 30, tzinfo=UTC),
        datetime(2019, 5, 7, 5, 0, tzinfo=UTC),
        datetime(2019, 5, 9, 21, 45, 10, 500_000, tzinfo=UTC),
    ]
    data = steps[0].event["data"]
    assert data["agency_reference"] == "700001"
    assert data["service_code"] == "lamp-out"
    assert data["description"] == "Lamp does not burn"
    assert data["place"] == {"address": "1 SAMPLE ST", "zone": "99"}
    assert data["attributes"] == {
        "group": "Lights", "neighborhood": "98", "postal_code": "00000", "caller_type": "WEB",
    }  # fmt: skip


def test_new_york_s_columns_tell_the_same(as_csv: AsCsv, noise: Row) -> None:
    submitted, resolved = imported(as_csv([noise])).steps

    assert submitted.at == datetime(2019, 7, 5, 3, 5, tzinfo=UTC)
    assert submitted.event["data"]["place"] == {
        "address": "2 SAMPLE AVENUE", "zone": "SAMPLE ISLAND", "latitude": 40.5, "longitude": -74.25,
    }  # fmt: skip
    assert resolved.at == datetime(2019, 7, 5, 4, 15, tzinfo=UTC)
    assert resolved.event["data"]["status"] == "resolved"
    assert resolved.event["data"]["note"] == "The drums were asked to stop."


@pytest.mark.parametrize("spelling", [str.lower, str.upper, str.title, lambda name: name.replace(" ", "_").lower()])
def test_columns_are_found_however_they_are_spelled_and_ordered(
    as_csv: AsCsv, noise: Row, spelling: Callable[[str], str]
) -> None:
    respelled = {spelling(column): value for column, value in reversed(list(noise.items()))}

    assert [step.body for step in imported(as_csv([respelled])).steps] == [
        step.body for step in imported(as_csv([noise])).steps
    ]


def test_new_york_s_columns_are_known_by_their_newer_names(as_csv: AsCsv, noise: Row) -> None:
    renamed = {column: value for column, value in noise.items() if column not in ("Complaint Type", "Descriptor")}
    renamed["Problem (formerly Complaint Type)"] = noise["Complaint Type"]
    renamed["Problem Detail (formerly Descriptor)"] = noise["Descriptor"]
    renamed["Created Date"] = "2019-07-04T23:05:00.000"

    assert imported(as_csv([renamed])).steps[0].body == imported(as_csv([noise])).steps[0].body


def test_optional_columns_may_be_missing(as_csv: AsCsv, lamp: Row) -> None:
    essential = ("REQUESTID", "DATETIMEINIT", "PROBLEMCODE", "SUBMITTO")

    (step,) = imported(as_csv([{column: lamp[column] for column in essential}])).steps

    assert "place" not in step.event["data"]
    assert "attributes" not in step.event["data"]


def test_a_missing_essential_column_is_named(as_csv: AsCsv, lamp: Row) -> None:
    lacking = {column: value for column, value in lamp.items() if column not in ("SUBMITTO", "PROBLEMCODE")}

    with pytest.raises(SourceError, match=r"St\. Louis's requests, but lacks the columns PROBLEMCODE, SUBMITTO"):
        imported(as_csv([lacking]))


def test_a_file_of_something_else_says_which_columns_it_should_have() -> None:
    with pytest.raises(SourceError, match=r"a-file\.csv has no column .* REQUESTID, .* Unique Key"):
        imported("name,age\nsomebody,41\n")


def test_an_identical_row_sends_the_same_event_again_to_the_byte(as_csv: AsCsv, lamp: Row) -> None:
    steps = [step for step in imported(as_csv([lamp, lamp])).steps if step.kind is Kind.SUBMITTED]

    assert [step.duplicate for step in steps] == [False, True]
    assert steps[0].body == steps[1].body
    assert steps[0].door is steps[1].door


def test_a_further_row_of_a_request_repeats_what_the_first_said(as_csv: AsCsv, lamp: Row) -> None:
    steps = imported(as_csv([lamp, {**lamp, "CALLERTYPE": "PHONE"}])).steps

    submissions = [step for step in steps if step.kind is Kind.SUBMITTED]
    assert [step.duplicate for step in submissions] == [False, True]
    assert len({step.body for step in submissions}) == 1
    assert told(list(steps)) == ["submitted", "submitted", "in_progress", "resolved"]


def test_what_a_further_row_adds_to_the_progress_counts(as_csv: AsCsv, lamp: Row) -> None:
    open_row = {**lamp, "DATETIMECLOSED": "", "DATEINVTDONE": ""}

    assert told(list(imported(as_csv([open_row, lamp])).steps)) == [
        "submitted", "submitted", "in_progress", "resolved",
    ]  # fmt: skip


def test_the_same_number_at_another_office_is_another_request(as_csv: AsCsv, lamp: Row) -> None:
    steps = imported(as_csv([lamp, {**lamp, "SUBMITTO": "STREETS,"}])).steps
    submissions = [step for step in steps if step.kind is Kind.SUBMITTED]

    assert [step.agency for step in submissions] == ["lamps-poles", "streets"]
    assert not any(step.duplicate for step in submissions)
    assert submissions[0].event_id != submissions[1].event_id


def test_nothing_happens_before_the_submission_or_after_the_end(as_csv: AsCsv, lamp: Row) -> None:
    early = {
        **lamp,
        "DATEINVTDONE": "2019-05-20 00:00:00.0",
        "DATECANCELLED": "2019-05-06 00:00:00.0",
        "DATETIMECLOSED": "2019-05-21 00:00:00.0",
    }

    steps = list(imported(as_csv([early])).steps)

    assert told(steps) == ["submitted", "cancelled"]
    assert steps[1].at == steps[0].at


def test_steps_of_all_requests_stand_in_the_order_in_which_they_happened(as_csv: AsCsv, lamp: Row) -> None:
    earlier = {**lamp, "REQUESTID": "7", "DATETIMEINIT": "2019-01-01 08:00:00.0"}

    moments = [step.at for step in imported(as_csv([lamp, earlier])).steps]

    assert moments == sorted(moments)


def test_bad_rows_are_told_with_their_line_and_the_others_go_on(as_csv: AsCsv, lamp: Row) -> None:
    rows = [
        {**lamp, "DESCRIPTION": "three\r\nlines\r\nlong"},  # lines 2 to 4
        {**lamp, "REQUESTID": ""},
        {**lamp, "REQUESTID": "2", "DATETIMEINIT": ""},
        {**lamp, "REQUESTID": "3", "DATETIMEINIT": "yesterday"},
        {**lamp, "REQUESTID": "4", "DATETIMECLOSED": "31/31/2019"},
        {**lamp, "REQUESTID": "5", "DATETIMEINIT": "2999-01-01"},
    ]
    text = as_csv(rows) + "only,two\r\n" + ",".join(["x"] * 30) + "\r\n"

    replay = imported(text)

    assert {step.agency_reference for step in replay.steps} == {"700001", "4"}
    assert [(problem.line, problem.dropped) for problem in replay.problems] == [
        (5, True), (6, True), (7, True), (8, False), (9, True), (10, True), (11, True),
    ]  # fmt: skip
    assert replay.problems[0].what == "has no REQUESTID"
    assert "DATETIMEINIT 'yesterday' is no date" in replay.problems[2].what
    assert replay.steps[0].event["data"]["description"] == "three lines long"


def test_a_file_without_one_usable_row_is_refused_with_the_first_reason(as_csv: AsCsv, lamp: Row) -> None:
    with pytest.raises(SourceError, match="line 2 has no REQUESTID"):
        imported(as_csv([{**lamp, "REQUESTID": ""}]))


def test_what_lies_in_the_future_has_not_happened(as_csv: AsCsv, lamp: Row) -> None:
    replay = imported(as_csv([{**lamp, "DATETIMECLOSED": "2027-01-01 00:00:00.0"}]))

    assert told(list(replay.steps)) == ["submitted", "in_progress"]
    assert "lies in the future" in replay.problems[0].what


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2019-07-01 12:00:00.0", "2019-07-01T17:00:00+00:00"),
        ("2019-01-01 12:00:00", "2019-01-01T18:00:00+00:00"),
        ("2019-07-01", "2019-07-01T05:00:00+00:00"),
        ("2019-07-01T12:00:00Z", "2019-07-01T12:00:00+00:00"),
        ("07/01/2019 12:00:00 AM", "2019-07-01T05:00:00+00:00"),
        ("7/1/2019 12:05 pm", "2019-07-01T17:05:00+00:00"),
        ("07/01/2019 17:30", "2019-07-01T22:30:00+00:00"),
        ("07/01/2019", "2019-07-01T05:00:00+00:00"),
        # The clock was put on at 2 on 10 March and back at 2 on 3 November 2019.
        ("2019-03-10 02:30:00", "2019-03-10T08:30:00+00:00"),
        ("2019-11-03 01:30:00", "2019-11-03T06:30:00+00:00"),
    ],
)
def test_local_times_become_moments(written: str, moment: str) -> None:
    assert utc_moment(written, CHICAGO).isoformat() == moment


@pytest.mark.parametrize("written", ["", "soon", "13/13/2019", "01/01/2019 13:00:00 PM", "1900-01-01", "9999-12-31"])
def test_what_is_no_date_of_ours_is_refused(written: str) -> None:
    with pytest.raises(ValueError):
        utc_moment(written, CHICAGO)


def test_an_office_promises_what_it_usually_promised_in_working_days(as_csv: AsCsv, lamp: Row) -> None:
    promised = {
        "1": "2019-05-13",  # Monday to Monday: five working days
        "2": "2019-05-14",
        "3": "2019-05-28",  # Memorial Day lies between
    }
    rows = [{**lamp, "REQUESTID": key, "PRJCOMPLETEDATE": f"{day} 00:00:00.0"} for key, day in promised.items()]
    unpromised = {**lamp, "PROBLEMCODE": "Pole Down", "REQUESTID": "4", "PRJCOMPLETEDATE": ""}

    promises = catalogue_of(imported(as_csv([*rows[2:], unpromised]))).promises
    assert promises == [
        Promise("lamps-poles", "lamp-out", 15, "lamps-poles"),
        Promise("lamps-poles", "pole-down", 15, "lamps-poles"),
    ]
    assert catalogue_of(imported(as_csv(rows))).promises[0].days == 6


def test_requests_without_an_office_go_where_their_service_usually_goes(as_csv: AsCsv, lamp: Row) -> None:
    replay = imported(as_csv([lamp, {**lamp, "REQUESTID": "2", "SUBMITTO": ""}]))

    assert {step.agency for step in replay.steps} == {"lamps-poles", slug(NO_OFFICE)}
    assert Promise("lamps-poles", "lamp-out", 5) in catalogue_of(replay).promises


def test_every_request_uses_one_door_and_half_of_them_each(as_csv: AsCsv, lamp: Row) -> None:
    replay = imported(as_csv([{**lamp, "REQUESTID": str(number)} for number in range(400)]))
    doors: dict[tuple[str, str], set[Door]] = {}
    for step in replay.steps:
        doors.setdefault(step.request, set()).add(step.door)

    assert all(len(used) == 1 for used in doors.values())
    assert 160 < sum(used == {Door.KAFKA} for used in doors.values()) < 240


def test_texts_are_cut_and_cleaned_to_what_the_mesh_takes(as_csv: AsCsv, lamp: Row) -> None:
    hostile = {
        **lamp,
        "DESCRIPTION": "a\x00b\u202ec\u2028" + "e" + "\u0301" * 40 + "d" * 5000,
        "WARD": "w" * 100,
        "PROBADDRESS": "\tp\n",
        "REQUESTID": "number with spaces and ünicode " + "9" * 80,
        "PROBLEMCODE": "تصريح",
        "SUBMITTO": "Bureau de l'état civil, quatrième arrondissement, porte de droite",
    }

    for step in imported(as_csv([hostile])).steps:
        check_event(dict(step.event), step.body, now=NOW, phone_region="US")


@pytest.mark.parametrize(
    "encoded",
    [
        lambda text: text.encode(),
        lambda text: b"\xef\xbb\xbf" + text.encode(),
        lambda text: text.encode("latin-1"),
        lambda text: text.encode("utf-16"),
        lambda text: gzip.compress(text.encode("latin-1")),
        lambda text: text.replace("\r\n", "\n").encode(),
        lambda text: b"\r\n" + text.encode(),
    ],
    ids=["utf-8", "mark", "latin-1", "utf-16", "gzip", "unix", "blank-line-first"],
)
def test_files_are_read_in_any_usual_encoding(
    as_csv: AsCsv, lamp: Row, tmp_path: Path, encoded: Callable[[str], bytes]
) -> None:
    file = tmp_path / "requests"
    file.write_bytes(encoded(as_csv([{**lamp, "DESCRIPTION": "Café, éteint"}])))

    assert read_source(file, now=NOW).steps[0].event["data"]["description"] == "Café, éteint"


@pytest.mark.parametrize("delimiter", [";", "\t"])
def test_other_delimiters_are_seen(as_csv: AsCsv, lamp: Row, delimiter: str) -> None:
    assert len(imported(as_csv([lamp], delimiter)).steps) == 3


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b" \r\n", "is empty"),
        (b'[{"id": 1}]', "JSON array"),
        (b"PK\x03\x04....", "unpack it"),
        (gzip.compress(b"REQUESTID,DATETIMEINIT\n1,2\n" * 50)[:-12], "damaged gzip"),
        (b"\x1f\x8bnonsense", "damaged gzip"),
        (b"\xff\xfea", "UTF-16"),
    ],
)
def test_a_file_that_is_none_of_these_is_refused_in_a_sentence(tmp_path: Path, content: bytes, said: str) -> None:
    file = tmp_path / "requests.csv"
    file.write_bytes(content)

    with pytest.raises(SourceError, match=said):
        read_source(file, now=NOW)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"absent\.csv can't be read: No such file"):
        read_source(tmp_path / "absent.csv", now=NOW)


def test_names_that_lose_letters_stay_apart() -> None:
    assert slug("Street  Division") == slug("STREET-DIVISION") == "street-division"
    assert slug("État civil") == "etat-civil"
    assert slug("مكتب") != slug("دائرة")
    assert slug("x" * 60) != slug("x" * 61)
    assert all(len(slug(name)) <= 48 for name in ("x" * 60, "مكتب", "***"))


@pytest.mark.parametrize("file", REAL_FILES, ids=lambda file: file.name)
def test_every_row_of_a_real_file_becomes_events_that_the_mesh_takes(file: Path) -> None:
    rows = list(csv.reader(io.StringIO(gzip.decompress(file.read_bytes()).decode("latin-1"), newline="")))
    replay = read_source(file, now=NOW)

    submissions = [step for step in replay.steps if step.kind is Kind.SUBMITTED]
    dropped = sum(problem.dropped for problem in replay.problems)
    assert len(rows) - 1 == len(submissions) + dropped
    first = {(step.agency, step.event_id): step.body for step in submissions if not step.duplicate}
    assert all(first[step.agency, step.event_id] == step.body for step in submissions if step.duplicate)
    assert sum(not step.duplicate for step in submissions) == len(first)
    for step in replay.steps:
        check_event(dict(step.event), step.body, now=NOW, phone_region="US")
    ended: set[tuple[str, str]] = set()
    for step in replay.steps:
        if step.kind is Kind.STATUS_CHANGED:
            assert step.request not in ended
            if step.event["data"]["status"] in ("resolved", "cancelled"):
                ended.add(step.request)
