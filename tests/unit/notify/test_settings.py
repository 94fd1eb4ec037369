from pathlib import Path

import pytest
from pydantic import ValidationError

from services.notify.app import build_app
from services.notify.settings import NotifySettings
from shared.service import run

DJIBOUTI = Path(__file__).parents[3] / "deploy" / "jurisdictions" / "djibouti"

FIRST = {
    "KAFKA_BOOTSTRAP_SERVERS": "127.0.0.1:1",
    "JURISDICTION_DIR": str(DJIBOUTI),
    "SMPP_HOST": "smsc.example.org",
    "SMPP_SYSTEM_ID": "guichet",
    "SMPP_PASSWORD": "secret",
    "SMTP_HOST": "mail.example.org",
}
SECOND = {
    "SMPP2_HOST": "other.example.org",
    "SMPP2_SYSTEM_ID": "guichet2",
    "SMPP2_PASSWORD": "secret2",
    "SMPP2_WEIGHT": "0.5",
    "SMPP2_PER_SECOND": "7",
    "SMTP2_HOST": "mail2.example.org",
    "SMTP2_STARTTLS": "true",
}


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name, value in FIRST.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_one_provider_a_channel_is_enough(environment: pytest.MonkeyPatch) -> None:
    settings = NotifySettings()
    assert (settings.smpp.host, settings.smpp.weight) == ("smsc.example.org", 1.0)
    assert settings.smpp2 is None
    assert settings.smtp2 is None


def test_a_second_provider_has_settings_of_its_own(environment: pytest.MonkeyPatch) -> None:
    for name, value in SECOND.items():
        environment.setenv(name, value)
    settings = NotifySettings()
    assert settings.smpp2
    assert settings.smtp2
    assert (settings.smpp2.host, settings.smpp2.weight, settings.smpp2.per_second) == ("other.example.org", 0.5, 7.0)
    assert settings.smpp2.password.get_secret_value() == "secret2"
    assert (settings.smtp2.host, settings.smtp2.starttls, settings.smtp2.port) == ("mail2.example.org", True, 25)
    assert settings.smpp.host == "smsc.example.org"


def test_a_provider_of_which_only_half_is_said_is_named_by_its_variable(environment: pytest.MonkeyPatch) -> None:
    environment.delenv("SMTP_HOST")
    environment.setenv("SMPP2_PASSWORD", "secret2")
    environment.setenv("SMPP_WEIGHT", "0")
    with pytest.raises(SystemExit) as stopped:
        run(build_app)
    said = str(stopped.value)
    for name in ("SMTP_HOST", "SMPP2_HOST", "SMPP2_SYSTEM_ID", "SMPP_WEIGHT"):
        assert f"\n{name}: " in said
    assert "secret2" not in said


@pytest.mark.parametrize("name", ["RECEIPT_WINDOW_SECONDS", "FALLBACK_AFTER_SECONDS"])
def test_no_span_of_time_is_nothing(environment: pytest.MonkeyPatch, name: str) -> None:
    environment.setenv(name, "0")
    with pytest.raises(ValidationError):
        NotifySettings()
