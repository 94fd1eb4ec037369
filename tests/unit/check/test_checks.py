"""What the checkers have to tell apart, beyond the bug that each of them exists for."""

import base64
from dataclasses import replace
from datetime import timedelta
from itertools import count
from typing import Any

import pytest

from deploy.check.checks import Fault, Finding, check, findings_of
from deploy.check.observed import (
    PROCESS_STARTED,
    LedgerRow,
    Observed,
    Place,
    Published,
    ShortMessage,
    Sighting,
    Sightings,
    together,
)
from services.notify.domain import State, user_message_reference
from shared.bus.loop import dead_letter
from shared.bus.port import Record, Undecodable
from shared.contract.events import (
    Channel,
    DeadLetter,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
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
    return DeadLetter.from_json(publication.value)


def without_decision(observed: Observed) -> tuple[Observed, Sighting]:
    """The same without the first decision and what came of it."""
    decision = observed.sightings.of(RequestAssigned)[0]
    (accepted,) = (seen for seen in observed.sightings.of(RequestAccepted) if seen.id == decision.cause)
    return replace(observed, sightings=observed.sightings.changed(without={decision.id})), accepted


def sent_again(observed: Observed, message_id: str) -> tuple[Observed, ShortMessage]:
    assert observed.short_messages
    (said,) = (message for message in observed.short_messages if message.message_id == message_id)
    again = replace(said, message_id=f"{message_id}-again")
    return replace(observed, short_messages=[*observed.short_messages, again]), again


def with_row(observed: Observed, row: LedgerRow) -> Observed:
    return replace(observed, ledger={**(observed.ledger or {}), row.id: row})


def row_of(observed: Observed, message_id: str) -> LedgerRow:
    (row,) = (row for row in (observed.ledger or {}).values() if message_id in row.references)
    return row


def unknown(row: LedgerRow, times: int = 1) -> LedgerRow:
    return replace(row, announced=row.announced | {NotificationStatus.UNKNOWN}, unknowns=times)


def fallen_back(observed: Observed) -> tuple[Observed, LedgerRow, LedgerRow]:
    """The same, but that the first message was refused, and its citizen told by mail; both rows."""
    first = row_of(observed, "m-0")
    outcomes = [seen for seen in observed.sightings.of(NotificationOutcome) if seen.notification_id == first.id]
    failed, told = NotificationStatus.FAILED, NotificationStatus.SENT
    refused = replace(first, status=State.FAILED, announced=frozenset({failed}), references=(), has_alternative=True)
    instead = replace(
        first,
        id="instead",
        channel=Channel.EMAIL,
        status=State.SENT,
        announced=frozenset({told}),
        references=(),
        fallback_of=first.id,
    )
    sightings = observed.sightings.changed(
        without={seen.id for seen in outcomes},
        added=[
            replace(outcomes[0], id="refused", status=failed),
            replace(
                outcomes[0],
                id="told by mail",
                status=told,
                notification_id="instead",
                channel=Channel.EMAIL,
                fallback_of=first.id,
            ),
        ],
    )
    letter = replace((observed.letters or [])[0], notification_id="instead")
    changed = replace(
        observed,
        sightings=sightings,
        short_messages=[message for message in observed.short_messages or () if message.message_id != "m-0"],
        letters=[*(observed.letters or ()), letter],
    )
    return with_row(with_row(changed, refused), instead), refused, instead


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


def test_a_request_may_be_called_overdue_once_and_only_if_it_was_assigned(sound: Observed) -> None:
    assigned = sound.sightings.of(RequestAssigned)[0]
    overdue = replace(assigned, type=RequestOverdue, id="overdue", cause=assigned.id)
    again = replace(overdue, id="overdue again")
    unheard_of = replace(overdue, cause="nothing")

    def with_these(*seen: Sighting) -> Observed:
        return replace(sound, sightings=sound.sightings.changed(added=seen))

    assert found(with_these(overdue), "I2") == found(with_these(overdue), "I4") == []
    assert faults(with_these(overdue, again), "I2") == [Fault.DOUBLED]
    assert faults(with_these(unheard_of), "I4") == [Fault.ORPHANED]


AT_MOST_ONCE, AT_LEAST_ONCE = "m-0", "m-3"
"""The messages of the first request's first and last step."""


def test_a_message_sent_again_is_explained_by_its_row_that_is_unknown(sound: Observed) -> None:
    twice, again = sent_again(sound, AT_LEAST_ONCE)
    assert faults(twice, "I5") == [Fault.DOUBLED]

    explained = with_row(twice, unknown(row_of(sound, AT_LEAST_ONCE)))
    assert faults(explained, "I5") == []
    assert faults(replace(explained, faults=[again.at - timedelta(seconds=30)]), "I5") == []


def test_a_message_to_somebody_else_that_shares_its_reference_explains_nothing_and_hides_nothing(
    sound: Observed,
) -> None:
    twice, _ = sent_again(sound, AT_LEAST_ONCE)
    row = row_of(sound, AT_LEAST_ONCE)
    shared = user_message_reference(row.id)
    other = next(key for key in map(str, count()) if user_message_reference(key) == shared)
    stranger = unknown(replace(row, id=other, recipient="+25377000000", references=()), times=0)

    def copies_found(observed: Observed) -> list[str]:
        return [finding.what for finding in found(observed, "I5") if "accepted" in finding.what]

    assert copies_found(with_row(twice, stranger)) == ["was accepted 2 times"]
    assert copies_found(with_row(with_row(twice, unknown(row)), stranger)) == []


def test_a_step_that_is_told_at_most_once_is_doubled_by_a_copy_though_it_was_unknown(sound: Observed) -> None:
    twice, _ = sent_again(sound, AT_MOST_ONCE)

    assert faults(with_row(twice, unknown(row_of(sound, AT_MOST_ONCE))), "I5") == [Fault.DOUBLED]


def test_each_copy_needs_a_time_when_nobody_knew(sound: Observed) -> None:
    thrice, _ = sent_again(sent_again(sound, AT_LEAST_ONCE)[0], AT_LEAST_ONCE)
    row = row_of(sound, AT_LEAST_ONCE)

    assert faults(with_row(thrice, unknown(row)), "I5") == [Fault.DOUBLED]
    assert faults(with_row(thrice, unknown(row, times=2)), "I5") == []


@pytest.mark.parametrize("fault_after", [timedelta(seconds=1), timedelta(hours=-1)])
def test_where_faults_are_known_one_of_them_must_explain_what_was_sent_again(
    sound: Observed, fault_after: timedelta
) -> None:
    twice, again = sent_again(sound, AT_LEAST_ONCE)

    unexplained = replace(with_row(twice, unknown(row_of(sound, AT_LEAST_ONCE))), faults=[again.at + fault_after])

    assert faults(unexplained, "I5") == [Fault.UNEXPLAINED]


def test_a_mail_sent_again_is_explained_in_the_same_way(sound: Observed) -> None:
    assert sound.ledger
    assert sound.letters
    letter = sound.letters[-1]
    twice = replace(sound, letters=[*sound.letters, letter])
    explained = with_row(twice, unknown(sound.ledger[letter.notification_id]))

    assert faults(twice, "I5") == [Fault.DOUBLED]
    assert faults(explained, "I5") == []
    assert faults(replace(explained, faults=[letter.at - timedelta(seconds=1)]), "I5") == []
    assert faults(replace(explained, faults=[]), "I5") == [Fault.UNEXPLAINED]


def test_without_the_ledger_an_outcome_says_that_nobody_knew(sound: Observed) -> None:
    twice, _ = sent_again(sound, AT_LEAST_ONCE)
    row = row_of(sound, AT_LEAST_ONCE)
    outcome = next(seen for seen in sound.sightings.of(NotificationOutcome) if seen.notification_id == row.id)
    told = replace(outcome, id="unknown", status=NotificationStatus.UNKNOWN)
    blind = replace(twice, ledger=None)

    assert faults(blind, "I5") == [Fault.DOUBLED]
    assert faults(replace(blind, sightings=blind.sightings.changed(added=[told])), "I5") == []


def test_two_notifications_of_one_step_are_doubled(sound: Observed) -> None:
    assert sound.ledger
    row = next(iter(sound.ledger.values()))
    another = replace(row, id="another", channel=Channel.EMAIL, status=State.FAILED)

    assert faults(with_row(sound, another), "I5") == [Fault.DOUBLED]


def test_one_that_failed_and_its_fallback_are_no_fault(sound: Observed) -> None:
    told_by_mail, _, _ = fallen_back(sound)

    assert faults(told_by_mail, "I5") == faults(told_by_mail, "I6") == []
    assert faults(replace(told_by_mail, ledger=None), "I5") == []


def test_a_fallback_of_one_that_did_not_fail_is_doubled(sound: Observed) -> None:
    told_by_mail, first, _ = fallen_back(sound)
    delivered = frozenset({NotificationStatus.SENT, NotificationStatus.DELIVERED})
    outcomes = {seen.id for seen in told_by_mail.sightings.of(NotificationOutcome) if seen.id == "refused"}
    both = replace(told_by_mail, sightings=told_by_mail.sightings.changed(without=outcomes))

    assert Fault.DOUBLED in faults(with_row(both, replace(first, status=State.DELIVERED, announced=delivered)), "I5")


def test_a_second_fallback_is_doubled(sound: Observed) -> None:
    told_by_mail, _, instead = fallen_back(sound)

    assert faults(with_row(told_by_mail, replace(instead, id="again")), "I5") == [Fault.DOUBLED]
    of_the_fallback = replace(instead, id="again", fallback_of="instead")
    assert faults(with_row(told_by_mail, of_the_fallback), "I5") == [Fault.DOUBLED]


def test_a_fallback_that_never_came_is_missing_only_where_there_is_another_channel(sound: Observed) -> None:
    told_by_mail, first, instead = fallen_back(sound)
    assert told_by_mail.ledger
    alone = replace(told_by_mail, ledger={key: row for key, row in told_by_mail.ledger.items() if key != instead.id})

    assert faults(alone, "I5") == [Fault.NOT_TOLD]
    assert faults(with_row(alone, replace(first, has_alternative=False)), "I5") == []


def test_what_came_to_pass_twice_was_counted_twice(sound: Observed) -> None:
    assert sound.scrapes
    row = row_of(sound, AT_LEAST_ONCE)
    series = ("guichet_notifications_total", frozenset({("channel", "sms"), ("status", "unknown")}))
    shown = replace(sound, scrapes={"notify": {**sound.scrapes["notify"], series: 2.0}})

    assert faults(with_row(shown, unknown(row, times=2)), "I10") == []
    assert faults(with_row(shown, unknown(row)), "I10") == [Fault.DISAGREEING]


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


def test_an_offset_may_go_back_only_where_brokers_were_disturbed_in_between(sound: Observed) -> None:
    assert sound.samples
    last = sound.samples[-1]
    back = replace(last, committed={"guichet-intake": {("agency.edd.events", 0): 8}})

    assert faults(replace(sound, samples=[last, back, last]), "I8") == [Fault.STALE]
    assert faults(replace(sound, samples=[last, replace(back, afresh=True), last]), "I8") == []


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
