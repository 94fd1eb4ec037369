"""What the whole promise rests on: no consumer of any service ever commits by itself."""

import importlib
import pkgutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faststream import AckPolicy
from faststream.kafka.subscriber.usecase import BatchSubscriber

import services
from deploy.local.ports import LOOPBACK
from shared.contract.schemas import RECEIVES
from shared.contract.topics import AGENCY_TOPIC_PATTERN
from shared.service import Service
from shared.settings import ServiceSettings

JURISDICTION = Path(__file__).parents[3] / "deploy" / "jurisdictions" / "djibouti"
SERVICES = sorted(module.name for module in pkgutil.iter_modules(services.__path__))


def settings_of(name: str, data_dir: Path) -> ServiceSettings:
    """Settings under which the service can be wired; nothing is connected by that."""
    module = importlib.import_module(f"services.{name}.settings")
    (settings,) = (
        found
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, ServiceSettings) and found is not ServiceSettings
    )
    values: dict[str, Any] = {
        "kafka_bootstrap_servers": f"{LOOPBACK}:1",
        "data_dir": data_dir,
        "jurisdiction_dir": JURISDICTION,
        "smpp": {"host": LOOPBACK, "system_id": "test", "password": "test"},
        "smtp": {"host": LOOPBACK},
    }
    built: ServiceSettings = settings(**values)
    return built


def subscribers(service: Service) -> Iterator[BatchSubscriber]:
    for subscriber in service.bus.broker.subscribers:
        assert isinstance(subscriber, BatchSubscriber), "takes single messages, which costs a commit each"
        yield subscriber


@pytest.fixture(params=SERVICES)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Service:
    app = importlib.import_module(f"services.{request.param}.app").build_app(settings_of(request.param, tmp_path))
    built: Service = app.state.service
    assert built.name == request.param
    return built


def test_every_service_of_the_contract_is_there() -> None:
    assert set(SERVICES) == RECEIVES.keys()


def test_every_subscriber_takes_batches_acknowledges_by_hand_and_never_commits_by_itself(service: Service) -> None:
    found = list(subscribers(service))
    assert found
    for subscriber in found:
        options: dict[str, Any] = subscriber._connection_args
        assert subscriber.ack_policy is AckPolicy.MANUAL
        assert options["enable_auto_commit"] is False
        assert options["auto_offset_reset"] == "none"
        assert subscriber.group_id == f"guichet-{service.name}"


def test_every_service_reads_the_topics_that_the_contract_says_it_reads(service: Service) -> None:
    names = {name for subscriber in subscribers(service) for name in subscriber.topic_names}
    expected = {topic.name for topic in RECEIVES[service.name]}
    assert names == (expected or {AGENCY_TOPIC_PATTERN})
