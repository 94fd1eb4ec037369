import stat
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest

from deploy.jurisdictions import DJIBOUTI
from deploy.replay.jurisdiction import KEYS, read_keys, write_jurisdiction
from deploy.replay.naming import slug
from deploy.replay.open_data import NO_OFFICE, read_open_data
from deploy.replay.run import prepare
from deploy.replay.steps import Catalogue, Promise
from services.intake.keys import Authenticator
from services.routing.calendar import load_calendar
from services.routing.domain import Assigned, Calendar, Rules, Unroutable, decide
from services.routing.rules import load_rules
from shared.contract.events import Applicant, Card, Language, RequestAcceptedData, Timeline
from shared.jurisdiction import Jurisdiction, load_jurisdiction

CITY = Catalogue(
    name="A city",
    timezone="America/Chicago",
    phone_region="US",
    default_language=Language.ENGLISH,
    sms_sender="ACity",
    weekend=("saturday", "sunday"),
    country="US",
    agencies={"lamps": "Lamps", "trees": "Trees"},
    services={"lamp-out": "Lamp out", "no": "No", "0123": "1e5: [a] # \"b\" 'c' {d} é"},
    promises=[
        Promise("lamps", "lamp-out", 5, "lamps"),
        Promise("lamps", "no", 5, "lamps"),
        Promise("trees", "lamp-out", 3, "trees"),
        Promise("lamps", "lamp-out", 5),
    ],
)


def loaded(folder: Path) -> tuple[Jurisdiction, Rules, Calendar]:
    jurisdiction = load_jurisdiction(folder)
    rules = load_rules(folder / "rules.yaml", jurisdiction)
    return jurisdiction, rules, load_calendar(folder / "calendar.yaml", jurisdiction.timezone)


def asked(agency: str, service: str) -> RequestAcceptedData:
    card = Card(
        request_id="r",
        reference="7K3M-9XQ2-HTB4",
        agency=agency,
        agency_reference="1",
        service_code=service,
        submitted_at=datetime(2019, 5, 24, 15, tzinfo=UTC),  # the Friday before Memorial Day
        applicant=Applicant(),
    )
    return RequestAcceptedData(request=card, timeline=Timeline())


def test_the_services_read_the_folder_of_an_imported_city(tmp_path: Path) -> None:
    write_jurisdiction(CITY, tmp_path)

    jurisdiction, rules, calendar = loaded(tmp_path)

    assert {code: service.name_in(Language.ENGLISH) for code, service in jurisdiction.services.items()} == CITY.services
    assert decide(asked("trees", "lamp-out"), rules, calendar) == Assigned(
        jurisdiction.offices["trees"], date(2019, 5, 30), "trees-3"
    )
    assert isinstance(decide(asked("trees", "no"), rules, calendar), Unroutable)


def test_rules_for_anybody_come_after_those_of_an_agency(tmp_path: Path) -> None:
    write_jurisdiction(replace(CITY, agencies={**CITY.agencies, "else": "Else"}), tmp_path)

    _, rules, calendar = loaded(tmp_path)
    decided = [decide(asked(agency, "lamp-out"), rules, calendar) for agency in ("trees", "else")]

    assert [decision.rule for decision in decided if isinstance(decision, Assigned)] == ["trees-3", "any-lamps-5"]


def test_each_agency_s_key_opens_the_door_and_nobody_else_may_read_it(tmp_path: Path) -> None:
    write_jurisdiction(CITY, tmp_path)
    keys = read_keys(tmp_path)
    door = Authenticator(load_jurisdiction(tmp_path))

    for agency, key in keys.items():
        known = door.agency(f"Bearer {key}")
        assert known is not None
        assert known.id == agency
    assert set(keys) == {"lamps", "trees"}
    assert stat.S_IMODE((tmp_path / KEYS).stat().st_mode) == 0o600
    secrets = [key.partition(".")[2] for key in keys.values()]
    assert all(secret not in (tmp_path / "agencies.yaml").read_text() for secret in secrets)


def test_writing_again_makes_new_keys(tmp_path: Path) -> None:
    write_jurisdiction(CITY, tmp_path)
    before = read_keys(tmp_path)
    write_jurisdiction(CITY, tmp_path)

    assert not set(before.values()) & set(read_keys(tmp_path).values())


def test_a_folder_that_exists_is_copied_with_keys_of_its_own(tmp_path: Path) -> None:
    prepared = prepare(None, tmp_path, seed=1, count=20)

    jurisdiction, rules, _ = loaded(tmp_path)

    assert list(jurisdiction.agencies) == list(load_jurisdiction(DJIBOUTI).agencies)
    assert rules.version == load_rules(DJIBOUTI / "rules.yaml", load_jurisdiction(DJIBOUTI)).version
    assert all(agency.key_digests and agency.language for agency in jurisdiction.agencies.values())
    assert set(prepared.agencies) <= set(read_keys(tmp_path))


@pytest.mark.parametrize("columns", ["lamp", "noise"])
def test_every_request_of_a_file_finds_its_office(
    columns: str, as_csv: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    row: Mapping[str, str] = request.getfixturevalue(columns)
    office = "SUBMITTO" if columns == "lamp" else "Agency"
    number = "REQUESTID" if columns == "lamp" else "Unique Key"
    replay = read_open_data(as_csv([row, {**row, number: "2", office: ""}]), "f", now=datetime.now(UTC))
    write_jurisdiction(replay.jurisdiction, tmp_path)
    jurisdiction, rules, calendar = loaded(tmp_path)

    senders = set()
    for step in replay.steps:
        if service := step.event["data"].get("service_code"):
            decision = decide(asked(step.agency, service), rules, calendar)
            assert isinstance(decision, Assigned)
            assert decision.office.id != slug(NO_OFFICE)
            senders.add(step.agency)
    assert slug(NO_OFFICE) in senders
    assert senders <= set(jurisdiction.agencies)
