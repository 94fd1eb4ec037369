import pytest

from deploy.jurisdictions import DJIBOUTI
from shared.contract.events import Language
from shared.jurisdiction import Jurisdiction, load_jurisdiction


@pytest.fixture(scope="module")
def djibouti() -> Jurisdiction:
    return load_jurisdiction(DJIBOUTI)


def test_every_service_is_named_in_all_five_languages(djibouti: Jurisdiction) -> None:
    assert {code: set(service.names) for code, service in djibouti.services.items()} == {
        code: set(Language) for code in djibouti.services
    }


def test_no_api_key_is_committed(djibouti: Jurisdiction) -> None:
    assert [agency.id for agency in djibouti.agencies.values() if agency.key_digests] == []


def test_latin_names_keep_to_the_gsm_7_bit_alphabet(djibouti: Jurisdiction) -> None:
    allowed = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 '-,.&()èéùìòÇÉàäöñüÄÖÑÜ")
    names = [
        name
        for service in djibouti.services.values()
        for language, name in service.names.items()
        if language is not Language.ARABIC
    ]
    names += [office.name for office in djibouti.offices.values()]
    assert {name: set(name) - allowed for name in names if set(name) - allowed} == {}
