import json

import pytest

from deploy.check.observed import Personal
from deploy.check.privacy import Gatherer, Mentions, impersonal
from shared.contract.events import Applicant

NAME = "Amina Warsama"


@pytest.fixture
def citizens() -> Personal:
    gatherer = Gatherer()
    gatherer.take(Applicant(phone="+4917139200001", email="Amina@Example.org", name=NAME))
    gatherer.take(Applicant(name="Ali"))
    return gatherer.personal()


def mentioned(text: str, citizens: Personal) -> set[str]:
    mentions = Mentions(citizens)
    mentions.take(text, "here")
    return mentions.found.keys() & {*citizens.contacts, *citizens.names}


@pytest.mark.parametrize(
    "text",
    [
        "sent to +4917139200001",
        '{"to": "004917139200001"}',
        "tel:4917139200001;",
        '"detail": "no mailbox amina@example.org"',
        "<AMINA@EXAMPLE.ORG>",
        "refused for Amina Warsama: unknown",
    ],
)
def test_a_contact_or_a_name_is_found_however_it_is_written(text: str, citizens: Personal) -> None:
    assert len(mentioned(text, citizens)) == 1


@pytest.mark.parametrize(
    "text", ["+49171392000012", "x4917139200001", "Amina Guedi", "Ali Sabieh", "6f1f7e0b-9d7a-5c55-8a0e-491713920000"]
)
def test_what_merely_looks_alike_is_not(text: str, citizens: Personal) -> None:
    assert mentioned(text, citizens) == set()


def test_where_it_was_seen_first_is_kept(citizens: Personal) -> None:
    mentions = Mentions(citizens)
    mentions.take("+4917139200001", "notify.log:1")
    mentions.take("+4917139200001", "notify.log:2")

    assert mentions.found == {"4917139200001": "notify.log:1"}


def test_an_event_may_hold_personal_data_in_its_own_fields_only(citizens: Personal) -> None:
    data = {"request": {"applicant": {"name": NAME}, "reference": "R"}, "description": NAME, "note": NAME}

    assert mentioned(impersonal(json.dumps({"data": data}).encode()), citizens) == set()
    data["place"] = {"address": NAME}
    assert mentioned(impersonal(json.dumps({"data": data}).encode()), citizens) == {NAME}


def test_a_dead_letter_may_repeat_its_record(citizens: Personal) -> None:
    data = {"service": "intake", "origin": {"topic": "t"}, "value": NAME, "detail": "x"}

    assert mentioned(impersonal(json.dumps({"data": data}).encode()), citizens) == set()
    data["detail"] = NAME
    assert mentioned(impersonal(json.dumps({"data": data}).encode()), citizens) == {NAME}


def test_keys_and_headers_are_looked_through(citizens: Personal) -> None:
    assert mentioned(impersonal(b"{}", key=b"4917139200001"), citizens) == {"4917139200001"}
    assert mentioned(impersonal(b"{}", (("to", b"amina@example.org"),)), citizens) == {"amina@example.org"}
