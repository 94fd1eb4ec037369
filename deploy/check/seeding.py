"""Puts one bug at a time into what was observed, to show that its checker sees it. Pure.

A campaign that found nothing has shown something only if its checkers would have found something.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta

from msgspec import structs

from deploy.check.checks import CHECKERS, Finding, address_of, check, counts_all
from deploy.check.observed import LedgerRow, Observed, Place, Published, Sample, Sighting
from services.notify.domain import Policy, State
from shared.contract.events import (
    Channel,
    DeadLetter,
    DeadLetterData,
    Event,
    NotificationOutcome,
    NotificationStatus,
    Origin,
    RequestAccepted,
    RequestAssigned,
    RequestUnroutable,
    RequestUpdated,
)
from shared.contract.reasons import Reason
from shared.contract.topics import ACCEPTED

COUNTED = frozenset({"I10"})
"""What is gone from the topics, or came to them, was counted otherwise by the services."""


@dataclass(frozen=True, slots=True)
class Bug:
    """A bug and the checker that exists for it. `plant` gives None where there is nothing to plant it in.

    `also`: the other checkers that see it, by its nature.
    """

    name: str
    checker: str
    plant: Callable[[Observed], Observed | None]
    also: frozenset[str] = frozenset()


def seeded_bugs(observed: Observed) -> dict[str, bool]:
    """For each checker that has a bug which can be planted here: whether it saw every one of them."""
    before = _found(observed)
    caught: dict[str, bool] = {}
    for bug in BUGS:
        planted = bug.plant(observed)
        if planted is not None:
            found = _found(planted, {bug.checker})[bug.checker]
            caught[bug.checker] = caught.get(bug.checker, True) and bool(found - before[bug.checker])
    return caught


def seen_by(observed: Observed, planted: Observed) -> set[str]:
    """The checkers that find something after a bug was planted that they did not find before."""
    before = _found(observed)
    return {checker for checker, found in _found(planted).items() if found - before[checker]}


def _found(observed: Observed, only: Collection[str] | None = None) -> Mapping[str, set[Finding]]:
    return {result.checker.id: set(result.findings or ()) for result in check(observed, only)}


def _unanswered_event(observed: Observed) -> Observed | None:
    published = observed.published
    if published is None:
        return None
    return replace(
        observed,
        published=Published(
            [*published.awaiting, ("nobody", "never answered")], published.to_be_rejected, published.doubtful
        ),
    )


def _dropped_decision(observed: Observed) -> Observed | None:
    """Routing lost a request: no decision, and nothing that would have come of it."""
    decision = _first(observed, RequestAssigned)
    return _without(observed, {decision.id}, without_notifications_of=decision.id) if decision else None


def _outcome_told_twice(observed: Observed) -> Observed | None:
    outcome = _first(observed, NotificationOutcome)
    return _with(observed, replace(outcome, id=f"{outcome.id} again", digest=b"another")) if outcome else None


def _altered_copy(observed: Observed) -> Observed | None:
    accepted = _first(observed, RequestAccepted)
    return _with(observed, replace(accepted, digest=b"other bytes")) if accepted else None


def _swapped_changes(observed: Observed) -> Observed | None:
    earlier: dict[str | None, Sighting] = {}
    for seen in observed.sightings.of(RequestUpdated):
        other = earlier.setdefault(seen.request_id, seen)
        if other is not seen and other.sequence != seen.sequence:
            swapped = (replace(other, place=seen.place), replace(seen, place=other.place))
            sightings = observed.sightings.changed(without={other.id, seen.id}, added=swapped)
            return replace(observed, sightings=sightings)
    return None


def _stray_event(observed: Observed) -> Observed | None:
    seen = _first(observed, NotificationOutcome)
    if seen is None or not observed.partitions:
        return None
    astray = seen.place._replace(partition=seen.place.partition + 1)
    return replace(
        observed, sightings=observed.sightings.changed(without={seen.id}, added=[replace(seen, place=astray)])
    )


def _orphan(observed: Observed) -> Observed | None:
    """A zombie said of a request that nobody answers it, because of an event that nobody knows."""
    seen = _first(observed, RequestAssigned)
    if seen is None:
        return None
    orphan = replace(seen, type=RequestUnroutable, id="an orphan", cause="nothing", decided=None)
    return _with(observed, orphan)


def _message_sent_again(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.SMS):
        for message in observed.short_messages or ():
            if message.message_id in row.references and NotificationStatus.UNKNOWN not in row.announced:
                again = replace(message, message_id="accepted again")
                return replace(observed, short_messages=[*(observed.short_messages or ()), again])
    return None


def _letter_sent_again(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.EMAIL):
        for letter in observed.letters or ():
            if letter.notification_id == row.id and NotificationStatus.UNKNOWN not in row.announced:
                return replace(observed, letters=[*(observed.letters or ()), letter])
    return None


def _copy_of_an_at_most_once_step(observed: Observed) -> Observed | None:
    """Nobody knew whether a message was sent, and it was sent again although its step is to be told at most once."""
    return _unknown_and_sent_again(observed, Policy.AT_MOST_ONCE, copies=1)


def _more_copies_than_unknowns(observed: Observed) -> Observed | None:
    """Nobody knew once, and it was sent again twice."""
    return _unknown_and_sent_again(observed, Policy.AT_LEAST_ONCE, copies=2)


def _fallback_beside_a_delivered_one(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.SMS):
        if NotificationStatus.DELIVERED in row.announced and not row.has_alternative:
            return _with_row(observed, _fallback_of(row))
    return None


def _second_fallback(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.SMS):
        if not row.has_alternative:
            failed = _with_row(observed, replace(row, status=State.FAILED))
            return _with_row(_with_row(failed, _fallback_of(row)), replace(_fallback_of(row), id="another fallback"))
    return None


def _forgotten_fallback(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.SMS):
        if not row.has_alternative:
            return _with_row(observed, replace(row, status=State.FAILED, has_alternative=True))
    return None


def _untold_step(observed: Observed) -> Observed | None:
    cause = _first(observed, RequestAccepted)
    return _without(observed, set(), without_notifications_of=cause.id) if cause else None


def _never_sent(observed: Observed) -> Observed | None:
    """A row that was forgotten while it was being sent."""
    row = next(iter(_rows(observed, Channel.SMS)), None)
    if row is None or observed.ledger is None:
        return None
    return replace(observed, ledger={**observed.ledger, row.id: replace(row, status=State.SENDING)})


def _message_never_accepted(observed: Observed) -> Observed | None:
    for row in _rows(observed, Channel.SMS):
        if row.references and observed.short_messages is not None:
            kept = [message for message in observed.short_messages if message.message_id != row.references[0]]
            return replace(observed, short_messages=kept)
    return None


def _message_from_nowhere(observed: Observed) -> Observed | None:
    if observed.ledger is None or not observed.short_messages:
        return None
    stranger = replace(observed.short_messages[0], message_id="a stranger", recipient="0", octets="00")
    return replace(observed, short_messages=[*observed.short_messages, stranger])


def _dropped_outcome(observed: Observed) -> Observed | None:
    outcome = _first(observed, NotificationOutcome)
    return _without(observed, {outcome.id}) if outcome and observed.ledger else None


def _set_aside_twice(observed: Observed) -> Observed | None:
    letter = DeadLetter(
        id="a dead letter",
        source="/guichet/intake",
        data=DeadLetterData(
            service="intake",
            origin=Origin(topic="agency.nobody.events", partition=0, offset=0),
            recorded_at_ms=0,
            reason=Reason.NOT_JSON,
            detail="planted",
        ),
    )
    twice = [letter, structs.replace(letter, id="another")]
    return replace(observed, dead_letters=[*observed.dead_letters, *twice])


def _poison_that_vanished(observed: Observed) -> Observed | None:
    committed = observed.samples[-1].committed.get("guichet-routing", {}) if observed.samples else {}
    for (topic, partition), offset in committed.items():
        if offset > 0 and topic == ACCEPTED.name:
            return replace(observed, unreadable=[*observed.unreadable, Place(topic, partition, offset - 1)])
    return None


def _committed_past_the_end(observed: Observed) -> Observed | None:
    return _resampled(observed, lambda last: [_moved(last, committed=1)])


def _committed_goes_back(observed: Observed) -> Observed | None:
    return _resampled(observed, lambda last: [_moved(last, committed=1, ends=1), replace(last, afresh=False)])


def _committed_too_early(observed: Observed) -> Observed | None:
    """Routing committed while nothing that follows from it stood anywhere yet."""

    def early(last: Sample) -> list[Sample]:
        ends = {place: end if place[0] == ACCEPTED.name else 0 for place, end in last.ends.items()}
        return [Sample({"guichet-routing": last.committed.get("guichet-routing", {})}, ends), last]

    return _resampled(observed, early) if _first(observed, RequestAssigned) else None


def _wrong_due_date(observed: Observed) -> Observed | None:
    seen = _first(observed, RequestAssigned)
    if observed.rulebook is None or observed.accepted_values is None or seen is None or seen.decided is None:
        return None
    if seen.decided.due is None or seen.decided.rules_version != observed.rulebook.rules.version:
        return None
    wrong = replace(seen, decided=replace(seen.decided, due=seen.decided.due + timedelta(days=1)))
    return replace(observed, sightings=observed.sightings.changed(without={seen.id}, added=[wrong]))


def _miscounted(observed: Observed) -> Observed | None:
    for service, scrape in (observed.scrapes or {}).items():
        for series, value in scrape.items():
            if series[0] == "guichet_routing_decisions_total" and counts_all(service, scrape, observed.began):
                return replace(observed, scrapes={**(observed.scrapes or {}), service: {**scrape, series: value + 1}})
    return None


def _negative_latency(observed: Observed) -> Observed | None:
    seen = _first(observed, RequestAssigned)
    if seen is None:
        return None
    skewed = replace(seen, skewed=True)
    return replace(observed, sightings=observed.sightings.changed(without={seen.id}, added=[skewed]))


def _left_unread(observed: Observed) -> Observed | None:
    return _resampled(observed, lambda last: [_moved(last, ends=1)])


def _leaked_contact(observed: Observed) -> Observed | None:
    contact = next(iter(observed.personal.contacts), None) if observed.personal else None
    if contact is None or observed.mentions is None:
        return None
    return replace(observed, mentions={**observed.mentions, contact: "notify.log:1"})


BUGS: Sequence[Bug] = (
    Bug("an event that is never answered", "I0", _unanswered_event),
    Bug("a decision that is dropped", "I1", _dropped_decision, also=COUNTED),
    Bug("an outcome that is told by two events", "I2", _outcome_told_twice, also=COUNTED),
    Bug("a copy that was altered", "I2", _altered_copy),
    Bug("two changes that are swapped", "I3", _swapped_changes),
    Bug("an event in another partition", "I3", _stray_event),
    Bug("a decision about nothing", "I4", _orphan, also=COUNTED),
    Bug("a short message that is sent again", "I5", _message_sent_again),
    Bug("a mail that is sent again", "I5", _letter_sent_again),
    Bug("a copy of what is told at most once", "I5", _copy_of_an_at_most_once_step, also=COUNTED),
    Bug("more copies than times when nobody knew", "I5", _more_copies_than_unknowns, also=COUNTED),
    Bug("a fallback beside a message that was delivered", "I5", _fallback_beside_a_delivered_one),
    Bug("a second fallback", "I5", _second_fallback),
    Bug("a fallback that was forgotten", "I5", _forgotten_fallback),
    Bug("a step that nobody is told of", "I5", _untold_step, also=COUNTED),
    Bug("a notification that is never sent", "I5", _never_sent),
    Bug("a message that the provider never had", "I6", _message_never_accepted),
    Bug("a message that nobody planned", "I6", _message_from_nowhere),
    Bug("an outcome that is dropped", "I6", _dropped_outcome, also=COUNTED),
    Bug("a record that is set aside twice", "I7", _set_aside_twice),
    Bug("a poison record that vanished", "I7", _poison_that_vanished),
    Bug("an offset past the end", "I8", _committed_past_the_end),
    Bug("an offset that goes back", "I8", _committed_goes_back),
    Bug("an offset committed too early", "I8", _committed_too_early),
    Bug("a due date that is a day late", "I9", _wrong_due_date),
    Bug("a counter that is one too high", "I10", _miscounted),
    Bug("a step that ends before it begins", "I10", _negative_latency),
    Bug("a record that is never read", "I11", _left_unread),
    Bug("a contact in a log", "I12", _leaked_contact),
)

if unseeded := {checker.id for checker in CHECKERS} - {bug.checker for bug in BUGS}:
    raise AssertionError(f"no bug is seeded for {unseeded}")


def _first(observed: Observed, kind: type[Event]) -> Sighting | None:
    return next(iter(observed.sightings.of(kind)), None)


def _rows(observed: Observed, channel: Channel) -> Sequence[LedgerRow]:
    return [row for row in (observed.ledger or {}).values() if row.channel is channel]


def _with_row(observed: Observed, row: LedgerRow) -> Observed:
    return replace(observed, ledger={**(observed.ledger or {}), row.id: row})


def _fallback_of(row: LedgerRow) -> LedgerRow:
    """One on the other channel of which nothing was told yet."""
    return replace(
        row,
        id="a fallback",
        channel=Channel.EMAIL,
        status=State.UNKNOWN,
        announced=frozenset(),
        references=(),
        fallback_of=row.id,
    )


def _unknown_and_sent_again(observed: Observed, policy: Policy, *, copies: int) -> Observed | None:
    """A message of this policy is unknown once, which was told, and was accepted so many times more."""
    outcomes = {seen.notification_id: seen for seen in observed.sightings.of(NotificationOutcome)}
    for row in _rows(observed, Channel.SMS):
        if row.policy is not policy or row.id not in outcomes or NotificationStatus.UNKNOWN in row.announced:
            continue
        for message in observed.short_messages or ():
            if message.message_id in row.references:
                again = [replace(message, message_id=f"accepted again, {number}") for number in range(copies)]
                told = replace(outcomes[row.id], id="nobody knew", status=NotificationStatus.UNKNOWN)
                known = replace(row, announced=row.announced | {NotificationStatus.UNKNOWN}, unknowns=1)
                doubled = replace(observed, short_messages=[*(observed.short_messages or ()), *again])
                return _with_row(_with(doubled, told), known)
    return None


def _with(observed: Observed, seen: Sighting) -> Observed:
    return replace(observed, sightings=observed.sightings.changed(added=[seen]))


def _without(observed: Observed, ids: set[str], *, without_notifications_of: str | None = None) -> Observed:
    """Without these events; and without every trace of the notifications that one of them brought about."""
    outcomes = [seen for seen in observed.sightings.of(NotificationOutcome) if seen.cause == without_notifications_of]
    rows = [row for row in (observed.ledger or {}).values() if row.cause == without_notifications_of]
    keys = {row.id for row in rows} | {seen.notification_id or "" for seen in outcomes}
    # Not by the reference alone: it has 16 bits, and another's may be the same.
    addresses = {address_of(row) for row in rows}
    return replace(
        observed,
        sightings=observed.sightings.changed(without=ids | {seen.id for seen in outcomes}),
        ledger=observed.ledger and {key: row for key, row in observed.ledger.items() if key not in keys},
        short_messages=observed.short_messages
        and [
            each for each in observed.short_messages if (each.recipient, each.user_message_reference) not in addresses
        ],
        letters=observed.letters and [each for each in observed.letters if each.notification_id not in keys],
    )


def _resampled(observed: Observed, sampled: Callable[[Sample], list[Sample]]) -> Observed | None:
    if not observed.samples or not any(observed.samples[-1].committed.values()):
        return None
    return replace(observed, samples=[*observed.samples[:-1], *sampled(observed.samples[-1])])


def _moved(sample: Sample, *, committed: int = 0, ends: int = 0) -> Sample:
    return Sample(
        {
            group: {place: offset + committed for place, offset in offsets.items()}
            for group, offsets in sample.committed.items()
        },
        {place: end + ends for place, end in sample.ends.items()},
    )
