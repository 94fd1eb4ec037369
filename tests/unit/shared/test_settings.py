"""How a service, or a command, is told of Kafka by its environment."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from shared.config import ConfigError
from shared.settings import KafkaSettings, wrong_settings

SERVERS = "a:9092,b:9092"


def settings(**given: Any) -> KafkaSettings:
    return KafkaSettings(kafka_bootstrap_servers=SERVERS, **given)


def complaint(**given: Any) -> str:
    with pytest.raises(ValidationError) as refused:
        settings(**given)
    return str(wrong_settings(refused.value))


def test_brokers_that_ask_for_nothing_are_told_nothing() -> None:
    options = settings().kafka_access().options()
    assert options == {"bootstrap_servers": SERVERS, "security_protocol": "PLAINTEXT", "ssl_context": None}


@pytest.mark.parametrize("mechanism", ["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"])
@pytest.mark.parametrize("protocol", ["SASL_PLAINTEXT", "SASL_SSL"])
def test_a_name_and_a_password_are_told_as_the_brokers_want_them(protocol: str, mechanism: str) -> None:
    options = (
        settings(
            kafka_security_protocol=protocol,
            kafka_sasl_mechanism=mechanism,
            kafka_sasl_username="guichet",
            kafka_sasl_password="secret",
        )
        .kafka_access()
        .options()
    )
    assert (options.pop("ssl_context") is not None) == (protocol == "SASL_SSL")
    assert options == {
        "bootstrap_servers": SERVERS,
        "security_protocol": protocol,
        "sasl_mechanism": mechanism,
        "sasl_plain_username": "guichet",
        "sasl_plain_password": "secret",
    }


def test_tls_alone_needs_no_name() -> None:
    options = settings(kafka_security_protocol="SSL").kafka_access().options()
    assert options["security_protocol"] == "SSL"
    assert options["ssl_context"].check_hostname


def test_a_password_is_shown_nowhere() -> None:
    told = settings(kafka_security_protocol="SASL_SSL", kafka_sasl_username="guichet", kafka_sasl_password="secret")
    assert "secret" not in f"{told!r} {told.kafka_access()!r} {told.kafka_access()}"


def test_what_is_half_said_is_named_by_its_variables(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.touch()
    assert "KAFKA_SASL_PASSWORD" in complaint(kafka_security_protocol="SASL_SSL", kafka_sasl_username="guichet")
    assert "KAFKA_SECURITY_PROTOCOL" in complaint(kafka_sasl_username="guichet", kafka_sasl_password="secret")
    assert "KAFKA_SSL_KEY_FILE" in complaint(kafka_ssl_certificate_file=file)
    assert complaint(kafka_ssl_ca_file=tmp_path / "nowhere.pem").startswith("KAFKA_SSL_CA_FILE: ")
    assert complaint(kafka_security_protocol="TLS").startswith("KAFKA_SECURITY_PROTOCOL: ")


def test_a_file_that_is_no_certificate_is_named(tmp_path: Path) -> None:
    file = tmp_path / "some.pem"
    file.write_text("no certificate")
    access = settings(kafka_security_protocol="SSL", kafka_ssl_ca_file=file).kafka_access()
    with pytest.raises(ConfigError, match=r"some\.pem: not usable for TLS"):
        access.options()
