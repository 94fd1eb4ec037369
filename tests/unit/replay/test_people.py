from collections import Counter

import phonenumbers
import pytest

from deploy.replay.people import DJIBOUTI, PHONES, UNITED_STATES, citizen_of
from services.intake.contacts import e164, mail_address
from services.notify.domain import takes_sms


@pytest.mark.parametrize("region", ["DJ", "US"])
def test_every_phone_is_a_mobile_one_that_the_mesh_takes(region: str) -> None:
    for phone in PHONES:
        assert e164(phone, region) == phone
        assert takes_sms(phone, region, ())


def test_phones_lie_in_ranges_that_are_kept_for_fiction() -> None:
    kept = ((491713920000, 491713920099), (4917604069000, 4917604069099), (46701740605, 46701740699))

    for phone in PHONES:
        assert any(first <= int(phone.removeprefix("+")) <= last for first, last in kept)
        assert phonenumbers.is_valid_number(phonenumbers.parse(phone))


def test_four_in_five_have_a_phone_most_others_a_mail_address_and_a_few_neither() -> None:
    citizens = [citizen_of("edd", str(number), DJIBOUTI) for number in range(5_000)]
    phones = sum(citizen.phone is not None for citizen in citizens) / 5_000
    mails = sum(citizen.email is not None for citizen in citizens) / 5_000

    assert 0.77 < phones < 0.81
    assert 0.17 < mails < 0.21
    assert 0.01 < 1 - phones - mails < 0.03
    assert not any(citizen.phone and citizen.email for citizen in citizens)


def test_mail_addresses_belong_to_nobody() -> None:
    addresses = {citizen.email for number in range(500) if (citizen := citizen_of("edd", str(number), DJIBOUTI)).email}

    assert all(
        address and address.endswith("@example.org") and mail_address(address) == address for address in addresses
    )


def test_languages_come_in_their_shares() -> None:
    for shares in (DJIBOUTI, UNITED_STATES):
        spoken = Counter(citizen_of("edd", str(number), shares).language for number in range(5_000))
        assert set(spoken) == set(shares)
        for language, share in shares.items():
            assert spoken[language] / 5_000 == pytest.approx(share, abs=0.02)


def test_the_same_request_has_the_same_citizen() -> None:
    assert citizen_of("edd", "1", DJIBOUTI) == citizen_of("edd", "1", DJIBOUTI)
    assert citizen_of("edd", "1", DJIBOUTI) != citizen_of("onead", "1", DJIBOUTI)
