"""Each check is shown the fault that it exists for."""

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from deploy.check.checks import (
    Fault,
    Finding,
    Sighting,
    Sightings,
    accepted_twice,
    altered_copies,
    sighting,
    told_twice,
    unanswered,
    unexpected_verdicts,
    unexplained_dead_letters,
    unrouted,
    untold,
)
from shared.bus.loop import dead_letter
from shared.bus.port import Incoming, Record, Undecodable
from shared.contract.events import DeadLetter, Event, NotificationStatus
from shared.contract.reasons import Reason

OnTopic = Callable[[Event], Incoming[Event]]
Handled = Callable[..., Any]


def faults(findings: list[Finding]) -> list[Fault]:
    return [finding.fault for finding in findings]


def seen(*events: Event) -> list[Sighting]:
    return [sighting(Incoming(event, Record("t", 0, 0, 0, None, None, event.to_json()))) for event in events]


def test_an_event_that_was_never_answered_is_lost(handled: Handled) -> None:
    request = handled()
    published = [("edd", "e-1"), ("edd", "e-2"), ("edd", "e-1")]

    assert unanswered(published, seen(request.accepted("e-1"), request.updated("e-2"))) == []
    assert unanswered(published, seen(request.rejected("e-1"), request.updated("e-2"))) == []
    assert faults(unanswered(published, seen(request.accepted("e-1")))) == [Fault.LOST]


def test_another_agency_s_event_of_the_same_id_is_no_answer(handled: Handled) -> None:
    assert faults(unanswered([("edd", "e-1")], seen(handled("onead").accepted("e-1")))) == [Fault.LOST]


def test_a_request_accepted_by_two_events_is_doubled(handled: Handled) -> None:
    request = handled()

    assert accepted_twice(seen(request.accepted("e-1"), handled(reference="B").accepted("e-9"))) == []
    assert faults(accepted_twice(seen(request.accepted("e-1"), request.accepted("e-2")))) == [Fault.DOUBLED]


def test_an_accepted_request_without_an_office_is_lost_and_one_with_two_decisions_is_doubled(handled: Handled) -> None:
    request = handled()
    accepted = seen(request.accepted())

    assert unrouted(accepted, seen(request.assigned())) == []
    assert faults(unrouted(accepted, [])) == [Fault.LOST]
    assert faults(unrouted(accepted, seen(request.assigned(), request.assigned(by="a zombie")))) == [Fault.DOUBLED]


def test_a_step_that_nobody_was_told_of_is_found(handled: Handled) -> None:
    request = handled()
    causes = seen(request.accepted(), request.assigned())
    told = [request.told(request.accepted()), request.told(request.assigned())]

    assert untold(causes, seen(*told)) == []
    assert faults(untold(causes, seen(told[0]))) == [Fault.NOT_TOLD]


def test_a_citizen_out_of_reach_counts_as_told(handled: Handled) -> None:
    request = handled()
    unreachable = request.told(request.accepted(), NotificationStatus.UNREACHABLE, channel=None)

    assert untold(seen(request.accepted()), seen(unreachable)) == []


def test_one_notification_may_have_several_outcomes_but_a_step_has_one_notification(handled: Handled) -> None:
    request = handled()
    accepted = request.accepted()
    sent = request.told(accepted)

    assert untold(seen(accepted), seen(sent, request.told(accepted, NotificationStatus.DELIVERED))) == []
    assert faults(untold(seen(accepted), seen(sent, request.told(accepted, step="again")))) == [Fault.DOUBLED]


def test_a_copy_equal_to_the_byte_is_counted_and_one_that_is_not_is_found(handled: Handled) -> None:
    (original,) = seen(handled().accepted())
    sightings = Sightings()

    assert sightings.add(original)
    assert not sightings.add(replace(original))
    assert altered_copies(sightings) == []
    sightings.add(replace(original, digest=b"other bytes"))

    assert sightings.raw_copies == 2
    assert faults(altered_copies(sightings)) == [Fault.ALTERED]


def test_what_a_provider_accepted_twice_is_doubled() -> None:
    part = {"total": 2, "number": 1}
    message = {"destination": "4917139200", "user_message_reference": 7, "part": part, "octets": "00"}
    mail = {"message_id": "<1@example.org>", "rcpt": ["a@example.org"]}

    assert told_twice([message, {**message, "part": {**part, "number": 2}}], [mail, {**mail, "message_id": None}]) == []
    assert faults(told_twice([message, dict(message)], [])) == [Fault.DOUBLED]
    assert faults(told_twice([], [mail, dict(mail)])) == [Fault.DOUBLED]


def test_verdicts_against_what_is_known_are_found(handled: Handled) -> None:
    request = handled()
    known = {("edd", "e-1"): False, ("edd", "e-2"): True}

    assert unexpected_verdicts(seen(request.rejected("e-2")), seen(request.accepted("e-1")), known) == []
    assert unexpected_verdicts(seen(request.rejected("e-9")), seen(request.accepted("e-8")), known) == []
    findings = unexpected_verdicts(seen(request.rejected("e-1")), seen(request.accepted("e-2")), known)
    assert faults(findings) == [Fault.UNEXPECTED, Fault.UNEXPECTED]


def test_a_record_set_aside_is_explained_only_by_what_it_was() -> None:
    record = Record("agency.edd.events", 0, 7, 0, None, b"k", b"{nonsense")
    publication = dead_letter("intake", record, Undecodable(Reason.NOT_JSON, "it is none"))
    letter = DeadLetter.model_validate_json(publication.value)

    assert base64.b64decode(letter.data.value or "") == b"{nonsense"
    assert unexplained_dead_letters([letter], {b"{nonsense"}) == []
    assert faults(unexplained_dead_letters([letter], {b"something else"})) == [Fault.UNEXPLAINED]
