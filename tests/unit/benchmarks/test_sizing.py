"""The arithmetic, on costs that are easy to reckon with."""

import json
from dataclasses import replace
from typing import Final

import pytest

from benchmarks.scale import tables, with_tables
from benchmarks.sizing import AGENCY_TOPIC, RETENTION_SECONDS, Costs, limits, size
from deploy.local.places import PROJECT

DAY_SECONDS: Final = 86_400
COSTS: Final = Costs(
    cpu_seconds={"intake": 0.001, "routing": 0.001, "notify": 0.002, "metrics": 0.004},
    kafka_cpu_seconds=0.001,
    log_bytes={**dict.fromkeys(RETENTION_SECONDS, 0.0), AGENCY_TOPIC: 100.0, "requests.accepted": 900.0},
    store_bytes=1000.0,
    rows=10.0,
    segments=2.0,
    mails=0.5,
    start_seconds=0.000_01,
)


def carried(what: str) -> float:
    return next(limit.per_second for limit in limits(COSTS) if limit.what == what)


def test_a_process_is_given_half_a_core_of_work() -> None:
    assert size(COSTS, 250).processes == {"intake": 1, "routing": 1, "notify": 1, "metrics": 2}
    assert size(COSTS, 251).processes == {"intake": 1, "routing": 1, "notify": 2, "metrics": 3}


def test_processes_fill_machines_of_eight_cores_and_there_are_two_at_least() -> None:
    assert size(COSTS, 250).service_machines == 2
    assert size(COSTS, 10_000).service_machines == (20 + 20 + 40 + 80) / 8


def test_partitions_are_two_for_each_process_of_the_dearest_service_that_may_have_replicas() -> None:
    assert size(COSTS, 10_000).partitions == 80
    assert size(COSTS, 1).partitions == 12


def test_topics_hold_three_copies_of_what_came_while_they_are_kept() -> None:
    assert size(COSTS, 250).topic_bytes == 3 * 250 * 1000 * 14 * DAY_SECONDS


def test_brokers_are_as_many_as_the_scarcest_of_their_parts_asks_for_and_three_at_least() -> None:
    # Three copies, half of 8 TB, fourteen days of a kilobyte: 1,102 a second fill one broker.
    assert size(COSTS, 1_102).brokers["disk"] == 1
    assert size(COSTS, 1_103).brokers["disk"] == 2
    assert size(COSTS, 1_103).brokers_needed == 3
    # Three times a millisecond, half of eight cores.
    assert size(COSTS, 8_000).brokers["CPU"] == 6
    assert size(COSTS, 8_000).brokers_needed == 8


def test_brokers_send_what_they_copy_and_what_is_read() -> None:
    # 1,000 bytes are written and copied twice; intake reads 100, routing, notify and metrics 900 each.
    assert COSTS.broker_network_bytes == 2 * 1000 + 100 + 3 * 900
    assert replace(COSTS, log_bytes={**COSTS.log_bytes, "requests.accepted": 0.0}).broker_network_bytes == 300


def test_messages_and_rows_come_as_often_as_a_request_brings_them() -> None:
    sized = size(COSTS, 250)
    assert (sized.sms_per_second, sized.mails_per_second, sized.rows_per_second) == (500, 125, 2500)


def test_a_start_of_metrics_takes_its_time_for_each_request_that_is_open() -> None:
    assert size(COSTS, 50).start_seconds == pytest.approx(50 * 0.000_01 * 14 * DAY_SECONDS)
    assert carried("a start of metrics, which reads what is open") == pytest.approx(600 / (0.000_01 * 14 * DAY_SECONDS))


def test_limits_come_in_the_order_in_which_they_break() -> None:
    rates = [limit.per_second for limit in limits(COSTS)]
    assert rates == sorted(rates)


@pytest.mark.parametrize("service", ["intake", "routing", "notify", "metrics"])
def test_at_its_limit_one_process_is_enough_and_beyond_it_is_not(service: str) -> None:
    limit = carried(f"one process of {service}")
    assert size(COSTS, int(limit)).processes[service] == 1
    assert size(COSTS, int(limit) + 1).processes[service] == 2


@pytest.mark.parametrize(("part", "what"), [("disk", "disks"), ("CPU", "CPU"), ("network", "network")])
def test_at_their_limit_three_brokers_are_enough_and_beyond_it_they_are_not(part: str, what: str) -> None:
    limit = carried(f"{what} of three brokers")
    assert size(COSTS, int(limit)).brokers[part] == 3
    assert size(COSTS, int(limit) + 1).brokers[part] == 4


def test_a_contract_for_a_hundred_segments_a_second_carries_fifty_requests_of_two() -> None:
    assert carried("one SMS contract") == 50


def test_the_tables_of_the_document_are_those_of_the_figures() -> None:
    document = (PROJECT / "docs" / "scaling.md").read_text()
    figures = json.loads((PROJECT / "benchmarks" / "scale.json").read_text())
    assert with_tables(document, tables(figures)) == document


def test_a_document_can_ask_for_no_table_that_there_is_not() -> None:
    with pytest.raises(KeyError, match="nonsense"):
        with_tables("<!-- nonsense -->\n<!-- end -->", {})
