"""Which stages an event is the end of."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from services.metrics.domain import Latency, latencies
from shared.contract.events import NotificationStatus, Status

if TYPE_CHECKING:
    from tests.unit.metrics.conftest import Story

Moment = Callable[[float], datetime]


def test_each_step_of_a_request_ends_one_stage(story: "type[Story]") -> None:
    assert list(latencies(story().accepted(accepted=2))) == [Latency("accepted", 2.0, skewed=False)]
    assert list(latencies(story().assigned(accepted=2, assigned=2.5))) == [Latency("assigned", 0.5, skewed=False)]
    assert list(latencies(story().updated(Status.IN_PROGRESS))) == [Latency("updated", 2.0, skewed=False)]


def test_a_sent_message_ends_planning_and_sending_and_the_citizens_wait(story: "type[Story]", moment: Moment) -> None:
    sent = story().outcome(NotificationStatus.SENT, planned=moment(4), sent=moment(9))
    assert list(latencies(sent)) == [
        Latency("planned", 1.0, skewed=False),
        Latency("sent", 5.0, skewed=False),
        Latency("end_to_end", 9.0, skewed=False),
    ]


def test_a_delivered_message_does_not_end_its_sending_again(story: "type[Story]", moment: Moment) -> None:
    delivered = story().outcome(NotificationStatus.DELIVERED, planned=moment(4), sent=moment(9), delivered=moment(12))
    assert list(latencies(delivered)) == [Latency("delivered", 3.0, skewed=False)]


@pytest.mark.parametrize("status", ["failed", "unknown", "unreachable"])
def test_a_message_that_was_not_sent_has_no_latency(story: "type[Story]", moment: Moment, status: str) -> None:
    assert list(latencies(story().outcome(NotificationStatus(status), planned=moment(4)))) == []


def test_a_stage_that_ended_before_it_began_takes_no_time_and_is_told_apart(story: "type[Story]") -> None:
    assert list(latencies(story().accepted(published=5, accepted=1))) == [Latency("accepted", 0.0, skewed=True)]


def test_a_step_nobody_wrote_down_is_left_out(story: "type[Story]", moment: Moment) -> None:
    sent_without_plan = story().outcome(NotificationStatus.SENT, sent=moment(9))
    assert [latency.stage for latency in latencies(sent_without_plan)] == ["end_to_end"]
    assert list(latencies(story().rejected())) == []
