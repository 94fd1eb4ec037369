"""Who an agency is, by its key."""

from zoneinfo import ZoneInfo

import pytest

from services.intake.keys import Authenticator
from shared.contract.events import Language
from shared.jurisdiction import Agency, Jurisdiction, key_digest


@pytest.fixture(scope="module")
def authenticator() -> Authenticator:
    agencies = (
        Agency("cnss", "Sécurité sociale", key_digests=(key_digest("old.secret"), key_digest("new-secret"))),
        Agency("edd", "Électricité", key_digests=(key_digest("other-secret"),)),
        Agency("mute", "No key yet"),
    )
    return Authenticator(
        Jurisdiction(
            name="Test",
            timezone=ZoneInfo("Africa/Djibouti"),
            phone_region="DJ",
            default_language=Language.FRENCH,
            sms_sender="Guichet",
            mail_from="guichet@example.org",
            agencies={agency.id: agency for agency in agencies},
            services={},
            offices={},
        )
    )


@pytest.mark.parametrize("secret", ["old.secret", "new-secret"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_an_agency_is_known_by_any_of_its_keys(authenticator: Authenticator, scheme: str, secret: str) -> None:
    agency = authenticator.agency(f"{scheme} cnss.{secret}")
    assert agency is not None
    assert agency.id == "cnss"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer cnss",
        "Bearer cnss.",
        "Bearer .new-secret",
        "Bearer new-secret",
        "Bearer cnss.New-Secret",
        "Bearer cnss.new-secre",
        "Bearer cnss.new-secret2",
        "Bearer CNSS.new-secret",
        "Bearer cnss.other-secret",
        "Bearer edd.new-secret",
        "Bearer mute.",
        "Bearer mute.new-secret",
        "Bearer nobody.new-secret",
        "Bearer nobody.",
        "Basic cnss.new-secret",
        "cnss.new-secret",
        f"Bearer cnss.{key_digest('new-secret')}",
        "Bearer cnss.né\xff",
        "Bearer " + "x" * 100_000,
    ],
)
def test_anything_else_is_nobody(authenticator: Authenticator, header: str) -> None:
    assert authenticator.agency(header) is None
