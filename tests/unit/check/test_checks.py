"""What the checkers have to tell apart, beyond the bug that each of them exists for."""

import base64
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from deploy.check.checks import Fault, Finding, check, findings_of
from deploy.check.observed import (
    PROCESS_STARTED,
    Observed,
    Place,
    Published,
    ShortMessage,
    Sighting,
    Sightings,
    together,
)
from services.notify.domain import State
from shared.bus.loop import dead_letter
from shared.bus.port import Record, Undecodable
from shared.contract.events import (
    Channel,
    DeadLetter,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUpdated,
)
from shared.contract.reasons import Reason


def found(observed: Observed, checker: str) -> list[Finding]:
    return findings_of(check(observed, {checker}))


def faults(observed: Observed, checker: str) -> list[Fault]:
    return [finding.fault for finding in found(observed, checker)]


def set_aside(place: Place, service: str, value: bytes = b"{nonsense") -> DeadLetter:
    record = Record(*place, 0, None, b"k", value)
    publication = dead_letter(service, record, Undecodable(Reason.NOT_JSON, "it is none"))
    return DeadLetter.model_validate_json(publication.value)


def without_decision(observed: Observed) -> tuple[Observed, Sighting]:
    """The same without the first decision and what came of it."""
    decision = observed.sightings.of(RequestAssigned)[0]
    (accepted,) = (seen for seen in observed.sightings.of(RequestAccepted) if seen.id == decision.cause)
    return replace(observed, sightings=observed.sightings.changed(without={decision.id})), accepted


def sent_again(observed: Observed) -> tuple[Observed, ShortMessage]:
    assert observed.short_messages
    again = replace(observed.short_messages[0], message_id="m-again")
    return replace(observed, short_messages=[*observed.short_messages, again]), again


def marked_unknown(observed: Observed, message_id: str) -> Observed:
    assert observed.ledger
    (row,) = (row for row in observed.ledger.values() if message_id in row.references)
    unknown = replace(row, announced=row.announced | {NotificationStatus.UNKNOWN})
    return replace(observed, ledger={**observed.ledger, row.id: unknown})


def test_another_agency_s_event_of_the_same_id_is_no_answer(sound: Observed) -> None:
    published = Published([("onead", "A-1-submitted")])

    assert faults(replace(sound, published=published), "I0") == [Fault.LOST]


def test_a_verdict_against_what_is_known_of_an_event_is_found(sound: Observed) -> None:
    accepted = sound.sightings.of(RequestAccepted)[0]
    rejected = replace(accepted, type=RequestRejected, id="r", cause="e-9", request_id=None)
    known = Published((), {("edd", "A-1-submitted"): True, ("edd", "e-9"): False})

    findings = faults(replace(sound, published=known, sightings=sound.sightings.changed(added=[rejected])), "I0")

    assert findings == [Fault.UNEXPECTED, Fault.UNEXPECTED]


def test_a_request_may_end_as_a_dead_letter_of_routing(sound: Observed) -> None:
    undecided, accepted = without_decision(sound)

    assert faults(undecided, "I1") == [Fault.LOST]
    assert faults(replace(undecided, dead_letters=[set_aside(accepted.place, "routing")]), "I1") == []
    assert faults(replace(undecided, dead_letters=[set_aside(accepted.place, "notify")]), "I1") == [Fault.LOST]


def test_a_request_that_is_a_dead_letter_and_decided_is_doubled_unless_it_was_put_back(sound: Observed) -> None:
    accepted = sound.sightings.of(RequestAccepted)[0]
    both = replace(sound, dead_letters=[set_aside(accepted.place, "routing")])
    assert faults(both, "I1") == [Fault.DOUBLED]

    put_back = replace(accepted, place=accepted.place._replace(offset=accepted.place.offset + 7))
    assert faults(replace(both, sightings=both.sightings.changed(added=[put_back])), "I1") == []


def test_a_request_accepted_by_two_events_is_doubled(sound: Observed) -> None:
    accepted = sound.sightings.of(RequestAccepted)[0]
    again = replace(accepted, id="another", cause="e-9")

    assert faults(replace(sound, sightings=sound.sightings.changed(added=[again])), "I2") == [Fault.DOUBLED]


def test_a_copy_in_another_partition_is_out_of_order(sound: Observed) -> None:
    seen = sound.sightings.of(RequestUpdated)[0]
    astray = replace(seen, place=seen.place._replace(partition=(seen.place.partition + 1) % 6))

    assert faults(replace(sound, sightings=sound.sightings.changed(added=[astray])), "I3") == [Fault.DISORDERED]


@pytest.mark.parametrize("kind", [RequestUpdated, RequestAssigned, NotificationOutcome])
def test_whatever_comes_of_a_request_that_was_never_accepted_is_an_orphan(sound: Observed, kind: Any) -> None:
    accepted = {seen.id for seen in sound.sightings.of(RequestAccepted)}
    orphaned = replace(sound, sightings=sound.sightings.changed(without=accepted))

    subjects = " ".join(finding.subject for finding in found(orphaned, "I4"))

    assert kind.__name__ in subjects


def test_a_message_sent_again_is_explained_by_its_row_that_is_unknown(sound: Observed) -> None:
    twice, again = sent_again(sound)
    assert faults(twice, "I5") == [Fault.DOUBLED]

    explained = marked_unknown(twice, "m-0")
    assert faults(explained, "I5") == []
    assert faults(replace(explained, faults=[again.at - timedelta(seconds=30)]), "I5") == []


@pytest.mark.parametrize("fault_after", [timedelta(seconds=1), timedelta(hours=-1)])
def test_where_faults_are_known_one_of_them_must_explain_what_was_sent_again(
    sound: Observed, fault_after: timedelta
) -> None:
    twice, again = sent_again(sound)

    unexplained = replace(marked_unknown(twice, "m-0"), faults=[again.at + fault_after])

    assert faults(unexplained, "I5") == [Fault.UNEXPLAINED]


def test_a_mail_sent_again_is_explained_in_the_same_way(sound: Observed) -> None:
    assert sound.ledger
    assert sound.letters
    letter = sound.letters[0]
    twice = replace(sound, letters=[*sound.letters, letter])
    row = sound.ledger[letter.notification_id]
    unknown = replace(row, announced=row.announced | {NotificationStatus.UNKNOWN})
    explained = replace(twice, ledger={**sound.ledger, row.id: unknown})

    assert faults(twice, "I5") == [Fault.DOUBLED]
    assert faults(explained, "I5") == []
    assert faults(replace(explained, faults=[letter.at - timedelta(seconds=1)]), "I5") == []
    assert faults(replace(explained, faults=[]), "I5") == [Fault.UNEXPLAINED]


def test_two_notifications_of_one_step_are_doubled(sound: Observed) -> None:
    assert sound.ledger
    row = next(iter(sound.ledger.values()))
    ledger = {**sound.ledger, "another": replace(row, id="another", channel=Channel.EMAIL, status=State.FAILED)}

    assert faults(replace(sound, ledger=ledger), "I5") == [Fault.DOUBLED]


def test_without_the_ledger_outcomes_say_what_was_told(sound: Observed) -> None:
    outcomes = {seen.id for seen in sound.sightings.of(NotificationOutcome)}
    untold = replace(sound, ledger=None, sightings=sound.sightings.changed(without=outcomes))

    assert faults(replace(sound, ledger=None), "I5") == []
    assert set(faults(untold, "I5")) == {Fault.NOT_TOLD}


def test_a_message_whose_answer_was_never_read_is_found_by_what_we_told_the_provider(sound: Observed) -> None:
    assert sound.ledger
    (row,) = (row for row in sound.ledger.values() if "m-0" in row.references)
    known = frozenset({NotificationStatus.UNKNOWN, NotificationStatus.DELIVERED})
    nameless = replace(sound, ledger={**sound.ledger, row.id: replace(row, references=(), announced=known)})

    assert {finding.subject for finding in found(nameless, "I6")} == {row.id}  # its outcomes still say sent
    assert not any("SMSC" in finding.what or "no row" in finding.what for finding in found(nameless, "I6"))


def test_a_row_that_was_refused_and_yet_accepted_disagrees(sound: Observed) -> None:
    assert sound.ledger
    (row,) = (row for row in sound.ledger.values() if "m-0" in row.references)
    refused = replace(row, status=State.FAILED, references=(), announced=frozenset({NotificationStatus.FAILED}))

    said = [finding.what for finding in found(replace(sound, ledger={**sound.ledger, row.id: refused}), "I6")]

    assert "was accepted by the SMSC, and is failed in the ledger" in said


def test_rows_of_requests_that_have_left_the_topics_are_not_held_against_them(sound: Observed) -> None:
    assert sound.ledger
    row = next(iter(sound.ledger.values()))
    old = replace(row, id="old", request_id="of last month", cause="old", channel=None, references=())

    assert faults(replace(sound, ledger={**sound.ledger, "old": old}), "I6") == []


def test_each_service_that_came_past_poison_sets_it_aside_once(sound: Observed) -> None:
    poison = sound.sightings.of(RequestAccepted)[0].place
    unread = replace(sound, unreadable=[poison])
    services = ("routing", "notify", "metrics")

    assert faults(replace(unread, dead_letters=[set_aside(poison, name) for name in services]), "I7") == []
    findings = found(replace(unread, dead_letters=[set_aside(poison, name) for name in services[:2]]), "I7")
    assert [finding.what for finding in findings] == ["can't be read, and is no dead letter of metrics"]


def test_a_record_set_aside_is_explained_only_by_what_it_was(sound: Observed) -> None:
    place = Place("agency.edd.events", 0, 7)
    letter = set_aside(place, "intake")
    assert base64.b64decode(letter.data.value or "") == b"{nonsense"
    one = replace(sound, dead_letters=[letter])

    assert faults(one, "I7") == [Fault.UNEXPLAINED]
    assert faults(replace(one, published=Published(doubtful={b"{nonsense"})), "I7") == []
    assert faults(replace(one, published=Published(doubtful={b"something else"})), "I7") == [Fault.UNEXPLAINED]
    assert faults(replace(one, poison={place}), "I7") == []
    assert faults(replace(one, poison=None, published=None), "I7") == []  # nobody knows


def test_rules_of_another_version_are_not_held_against_a_decision(sound: Observed) -> None:
    seen = sound.sightings.of(RequestAssigned)[0]
    assert seen.decided
    other = replace(seen, decided=replace(seen.decided, office="elsewhere", rules_version="0"))
    same = replace(seen, decided=replace(seen.decided, office="elsewhere"))

    def instead(decided: Sighting) -> Observed:
        return replace(sound, sightings=sound.sightings.changed(without={seen.id}, added=[decided]))

    assert faults(instead(other), "I9") == []
    assert faults(instead(same), "I9") == [Fault.WRONG]


@pytest.mark.parametrize("why", ["process_start_time_seconds", "guichet_batch_failures_total"])
def test_a_process_that_can_not_have_counted_all_is_not_held_against_it(sound: Observed, why: str) -> None:
    assert sound.scrapes
    wrong = {**sound.scrapes["routing"], ("guichet_routing_decisions_total", frozenset({("outcome", "assigned")})): 9.0}
    assert faults(replace(sound, scrapes={"routing": wrong}), "I10") == [Fault.DISAGREEING]

    excused = {**wrong, (why, frozenset[tuple[str, str]]()): 2.0}

    assert faults(replace(sound, scrapes={"routing": excused}), "I10") == []


def test_the_replicas_of_a_service_count_together_since_the_last_of_them_started() -> None:
    started, decided = (
        (PROCESS_STARTED, frozenset[tuple[str, str]]()),
        ("decisions", frozenset({("outcome", "assigned")})),
    )

    assert together([{started: 3.0, decided: 2.0}, {started: 7.0, decided: 5.0}]) == {started: 7.0, decided: 7.0}
    assert together([{started: 3.0, decided: 2.0}, None]) is None


def test_a_group_that_has_never_committed_is_behind(sound: Observed) -> None:
    assert sound.samples
    last = sound.samples[-1]
    nobody = {**last.committed, "guichet-metrics": {}}

    assert Fault.BEHIND in faults(replace(sound, samples=[replace(last, committed=nobody)]), "I11")


@pytest.mark.parametrize("leak", ["4917139200001", "a@example.org", "Amina Warsama"])
def test_what_leaked_is_found_and_not_repeated(sound: Observed, leak: str) -> None:
    (finding,) = found(replace(sound, mentions={leak: "notify.log:3"}), "I12")

    assert finding.subject == "notify.log:3"
    assert leak not in str(finding)


def test_what_was_not_given_is_not_checked_and_said_so() -> None:
    verdicts = {result.checker.id: result.verdict for result in check(Observed(Sightings()))}

    assert verdicts["I0"] == "not checked without what was published"
    assert verdicts["I6"] == "not checked without the store of notify"
    assert verdicts["I1"] == "ok"
    assert verdicts["I3"] == "ok, without the topics' partitions"
