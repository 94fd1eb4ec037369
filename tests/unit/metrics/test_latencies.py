"""Which stages an event is the end of."""

from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING

import pytest

from services.metrics.domain import Wait, observation
from shared.contract.events import Event, NotificationStatus, Status

if TYPE_CHECKING:
    from tests.unit.metrics.conftest import Story

Moment = Callable[[float], datetime]


def waits_of(event: Event) -> tuple[Wait, ...]:
    """The stages that the service reads off this event."""
    seen = observation(event)
    assert seen is not None
    return seen.waits


def test_each_step_of_a_request_ends_one_stage(story: "type[Story]") -> None:
    assert waits_of(story().accepted(accepted=2)) == (("accepted", 2.0),)
    assert waits_of(story().assigned(accepted=2, assigned=2.5)) == (("assigned", 0.5),)
    assert waits_of(story().updated(Status.IN_PROGRESS)) == (("updated", 2.0),)


def test_a_sent_message_ends_planning_and_sending_and_the_citizens_wait(story: "type[Story]", moment: Moment) -> None:
    sent = story().outcome(NotificationStatus.SENT, planned=moment(4), sent=moment(9))
    assert waits_of(sent) == (("planned", 1.0), ("sent", 5.0), ("end_to_end", 9.0))


def test_a_delivered_message_does_not_end_its_sending_again(story: "type[Story]", moment: Moment) -> None:
    delivered = story().outcome(NotificationStatus.DELIVERED, planned=moment(4), sent=moment(9), delivered=moment(12))
    assert waits_of(delivered) == (("delivered", 3.0),)


@pytest.mark.parametrize("status", ["failed", "unknown", "unreachable"])
def test_a_message_that_was_not_sent_has_no_latency(story: "type[Story]", moment: Moment, status: str) -> None:
    assert waits_of(story().outcome(NotificationStatus(status), planned=moment(4))) == ()


def test_a_stage_that_ended_before_it_began_took_fewer_than_0_seconds(story: "type[Story]") -> None:
    assert waits_of(story().accepted(published=5, accepted=1)) == (("accepted", -4.0),)


def test_a_step_nobody_wrote_down_is_left_out(story: "type[Story]", moment: Moment) -> None:
    sent_without_plan = story().outcome(NotificationStatus.SENT, sent=moment(9))
    assert waits_of(sent_without_plan) == (("end_to_end", 9.0),)
    assert waits_of(story().rejected()) == ()
