"""The promise of delivery as pure functions: what was seen of a mesh in, findings out. No finding: it was kept.

Raw copies of an event, equal to the byte, are allowed; they have no second effect. So is a message that was accepted
again, by whichever provider, if nobody could know what had become of it and its step is told at least once: such a one
is marked `unknown`, and there is no more. And so is a second notification, on the citizen's other channel, after the
first one failed.
"""

import base64
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from itertools import pairwise

from deploy.check.observed import (
    PROCESS_STARTED,
    Decided,
    LedgerRow,
    Letter,
    Observed,
    Place,
    Sample,
    Scrape,
    ShortMessage,
    Sighting,
    TopicPlace,
)
from services.notify.domain import UNKNOWNS_MAX, Policy, State, user_message_reference
from services.routing.domain import Assigned, decide
from shared.contract.events import (
    Channel,
    DeadLetter,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestOverdue,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
    Status,
)
from shared.contract.schemas import RECEIVES
from shared.ids import partition_of

GROUPS: Mapping[str, frozenset[str] | None] = {
    f"guichet-{service}": frozenset(topic.name for topic in topics) or None for service, topics in RECEIVES.items()
}
"""The consumer group of each service and the topics it reads. None: those of the agencies."""

ECHO = timedelta(minutes=30)
"""How long after a fault a message may be sent again because of it: a lease, a receipt's window, some retries."""


class Fault(StrEnum):
    """How a promise was broken."""

    LOST = "lost"
    DOUBLED = "doubled"
    ALTERED = "altered"
    DISORDERED = "disordered"
    ORPHANED = "orphaned"
    NOT_TOLD = "not_told"
    DISAGREEING = "disagreeing"
    UNEXPECTED = "unexpected"
    UNEXPLAINED = "unexplained"
    STALE = "stale"
    WRONG = "wrong"
    BEHIND = "behind"
    LEAKED = "leaked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One broken promise, and of what: an event, a request, a notification."""

    fault: Fault
    subject: str
    what: str


def verdicts(observed: Observed) -> list[Finding]:
    """I0: every event that an agency published is accepted, applied or rejected, and as was to be expected."""
    published = observed.published
    if published is None:
        return []
    taken = observed.sightings.of(RequestAccepted, RequestUpdated)
    rejected = observed.sightings.of(RequestRejected)
    answered = {seen.answers for seen in (*taken, *rejected)}
    return [
        *(
            Finding(Fault.LOST, "/".join(key), "was published and never answered")
            for key in dict.fromkeys(published.awaiting)
            if key not in answered
        ),
        *(
            Finding(Fault.UNEXPECTED, "/".join(seen.answers), "was rejected, and nothing is wrong with it")
            for seen in rejected
            if seen.answers and published.to_be_rejected.get(seen.answers) is False
        ),
        *(
            Finding(Fault.UNEXPECTED, "/".join(seen.answers), "was taken, and should have been rejected")
            for seen in taken
            if seen.answers and published.to_be_rejected.get(seen.answers) is True
        ),
    ]


def ended(observed: Observed) -> list[Finding]:
    """I1: every accepted request ends as exactly one of assigned, unroutable, dead letter.

    A dead letter that was mended and put back on its topic is decided there; the record that failed is not.
    """
    decided: dict[str | None, set[type]] = defaultdict(set)
    for seen in observed.sightings.of(RequestAssigned, RequestUnroutable):
        decided[seen.cause].add(seen.type)
    set_aside = {_origin(letter) for letter in observed.dead_letters if letter.data.service == "routing"}
    findings = []
    for seen in observed.sightings.of(RequestAccepted):
        subject = seen.request_id or seen.id
        to_decide = [place for place in observed.sightings.places(seen) if place not in set_aside]
        kinds = decided.get(seen.id, set())
        if to_decide and not kinds:
            findings.append(Finding(Fault.LOST, subject, "was accepted and neither assigned nor unroutable"))
        if kinds and not to_decide:
            findings.append(Finding(Fault.DOUBLED, subject, "is a dead letter and was decided as well"))
        if len(kinds) > 1:
            findings.append(Finding(Fault.DOUBLED, subject, "is assigned and unroutable"))
    return findings


def effective_once(observed: Observed) -> list[Finding]:
    """I2: each step of a request is told by one event, whose copies are equal to the byte."""
    of = observed.sightings.of
    return [
        *_more_than_once(of(RequestAccepted), lambda seen: seen.request_id, "was accepted by two events"),
        *_more_than_once(of(RequestAssigned), lambda seen: seen.request_id, "was assigned by two events"),
        *_more_than_once(of(RequestOverdue), lambda seen: seen.request_id, "is overdue by two events"),
        *_more_than_once(of(RequestUnroutable), lambda seen: seen.request_id, "is unroutable by two events"),
        *_more_than_once(
            of(RequestUpdated),
            lambda seen: f"{seen.request_id}, change {seen.sequence}",
            "was told by two events",
        ),
        *_more_than_once(
            of(NotificationOutcome),
            lambda seen: f"{seen.notification_id} {seen.status}",
            "was told by two events",
        ),
        *(
            Finding(Fault.ALTERED, seen.id, f"{seen.type.__name__} was published again with other bytes")
            for seen in observed.sightings.altered
        ),
    ]


def in_order(observed: Observed) -> list[Finding]:
    """I3: all that is told of a request stands in the partition of its id, and its changes in their order."""
    findings = []
    if observed.partitions is not None:
        for seen in observed.sightings.of(
            RequestAccepted, RequestUpdated, RequestAssigned, RequestOverdue, RequestUnroutable, NotificationOutcome
        ):
            count = observed.partitions.get(seen.place.topic)
            home = partition_of((seen.request_id or "").encode(), count) if count else None
            strays = [place for place in observed.sightings.places(seen) if home not in (None, place.partition)]
            findings += [
                Finding(Fault.DISORDERED, seen.request_id or seen.id, f"stands at {_said(place)}, not in {home}")
                for place in strays
            ]
    changes: dict[str | None, list[Sighting]] = defaultdict(list)
    for seen in observed.sightings.of(RequestUpdated):
        changes[seen.request_id].append(seen)
    for request, told in changes.items():
        told.sort(key=lambda seen: (seen.place.partition, seen.place.offset))
        numbers = [seen.sequence or 0 for seen in told]
        if any(after < before for before, after in pairwise(numbers)):
            findings.append(Finding(Fault.DISORDERED, str(request), f"has its changes in the order {numbers}"))
    return findings


def descended(observed: Observed) -> list[Finding]:
    """I4: whatever a service publishes comes from a request that was accepted."""
    accepted = observed.sightings.of(RequestAccepted)
    events = {seen.id for seen in accepted}
    requests = {seen.request_id for seen in accepted}
    updated = observed.sightings.of(RequestUpdated)
    decided = observed.sightings.of(RequestAssigned, RequestUnroutable)
    causes = events | {seen.id for seen in (*updated, *decided)}
    assigned = {seen.id for seen in decided if seen.type is RequestAssigned}
    orphans = [
        *(seen for seen in updated if seen.request_id not in requests),
        *(seen for seen in decided if seen.cause not in events),
        *(seen for seen in observed.sightings.of(RequestOverdue) if seen.cause not in assigned),
        *(seen for seen in observed.sightings.of(NotificationOutcome) if seen.cause not in causes),
    ]
    return [
        Finding(Fault.ORPHANED, f"{seen.request_id} {seen.type.__name__} {seen.id}", "comes from nothing that is known")
        for seen in orphans
    ]


def told_once(observed: Observed) -> list[Finding]:
    """I5: of every step its citizen is told by one notification, accepted by a provider or given up for a reason;
    accepted again only if nobody could know, which its outcome says, and the step is to be told at least once. One that
    failed is followed by one on the other channel, if the citizen has both, and by no more."""
    return [*_untold(observed), *_still_under_way(observed), *_without_fallback(observed), *_sent_again(observed)]


def agreed(observed: Observed) -> list[Finding]:
    """I6: the ledger, the providers' own logs and the outcomes on the topic say the same.

    The ledger outlives the topics: its rows are held against outcomes as long as their request stands on a topic.
    """
    ledger = observed.ledger
    if ledger is None:
        return []
    told: dict[str, set[NotificationStatus]] = defaultdict(set)
    for seen in observed.sightings.of(NotificationOutcome):
        if seen.notification_id and seen.status:
            told[seen.notification_id].add(seen.status)
    findings = [
        Finding(Fault.DISAGREEING, key, f"has outcomes ({_listed(statuses)}) and no row in the ledger")
        for key, statuses in told.items()
        if key not in ledger
    ]
    on_topics = {seen.request_id for seen in observed.sightings.of(RequestAccepted, RequestUpdated)}
    for row in ledger.values():
        if row.request_id in on_topics and row.announced != told.get(row.id, set()):
            said = f"is {_listed(row.announced)} in the ledger and {_listed(told.get(row.id, ()))} by its outcomes"
            findings.append(Finding(Fault.DISAGREEING, row.id, said))
    return findings + _against_short_messages(observed, ledger) + _against_letters(observed, ledger)


def set_aside_once(observed: Observed) -> list[Finding]:
    """I7: each record that can't be read stands once in the dead letters of each service that came past it, and no
    record beside it does."""
    letters = Counter((_origin(letter), letter.data.service) for letter in observed.dead_letters)
    findings = [
        Finding(Fault.DOUBLED, _said(place), f"was set aside {times} times by {service}")
        for (place, service), times in letters.items()
        if times > 1
    ]
    poison = {*observed.unreadable, *(observed.poison or ())}
    for place in poison:
        findings += [
            Finding(Fault.LOST, _said(place), f"can't be read, and is no dead letter of {service}")
            for service in _past(observed, place)
            if (place, service) not in letters
        ]
    if observed.poison is not None or observed.published is not None:
        doubtful = observed.published.doubtful if observed.published else ()
        findings += [
            Finding(Fault.UNEXPLAINED, letter.subject or letter.id, f"{letter.data.service}: {letter.data.detail}")
            for letter in observed.dead_letters
            if _origin(letter) not in poison and base64.b64decode(letter.data.value or "") not in doubtful
        ]
    return findings


def committed_after(observed: Observed) -> list[Finding]:
    """I8: committed offsets never go back, never pass the end of the log, and never what was processed: whatever
    follows from a record stands on its topic before the record is committed."""
    samples = observed.samples or ()
    findings = []
    for sample in samples:
        for group, offsets in sample.committed.items():
            findings += [
                Finding(Fault.STALE, f"{group} {topic}/{partition}", f"is committed to {offset}, past the end, {end}")
                for (topic, partition), offset in offsets.items()
                if (end := sample.ends.get((topic, partition))) is not None and offset > end
            ]
    for before, after in pairwise(samples):
        if after.afresh:
            continue
        for group, offsets in after.committed.items():
            earlier = before.committed.get(group, {})
            findings += [
                Finding(Fault.STALE, f"{group} {topic}/{partition}", f"went back from {was} to {offset}")
                for (topic, partition), offset in offsets.items()
                if offset < (was := earlier.get((topic, partition), 0))
            ]
    return findings + _committed_before_it_was_decided(observed, samples)


def due_dates(observed: Observed) -> list[Finding]:
    """I9: office and due date follow from the accepted event, the rules of that version and the calendar."""
    rulebook, values = observed.rulebook, observed.accepted_values
    if rulebook is None or values is None:
        return []
    findings = []
    for seen in observed.sightings.of(RequestAssigned, RequestUnroutable):
        said, value = seen.decided, values.get(seen.cause or "")
        if said is None or value is None or said.rules_version != rulebook.rules.version:
            continue
        decision = decide(RequestAccepted.from_json(value).data, rulebook.rules, rulebook.calendar)
        if isinstance(decision, Assigned):
            right = Decided(said.rules_version, decision.office.id, decision.due, decision.rule)
        else:
            right = Decided(said.rules_version, reason=decision.reason)
        if said != right:
            findings.append(Finding(Fault.WRONG, seen.request_id or seen.id, f"{_ruling(said)}, not {_ruling(right)}"))
    return findings


def counted(observed: Observed) -> list[Finding]:
    """I10: services count what stands on the topics and in the ledger, and nothing ends before it began.

    A counter begins anew with its process, so one that started after the first record is not held against all of
    them. Nor is one that put a batch back: what it had done by then it found done the next time, and did not count.
    """
    findings = [
        Finding(Fault.WRONG, f"{seen.type.__name__} {seen.id}", "has a step that ends before it began")
        for seen in observed.sightings.of(RequestAccepted, RequestUpdated, RequestAssigned, NotificationOutcome)
        if seen.skewed
    ]
    for service, scrape in (observed.scrapes or {}).items():
        if not counts_all(service, scrape, observed.began):
            continue
        for (name, labels), expected in _expected(service, observed).items():
            shown = total(scrape, name, **dict(labels))
            if shown != expected:
                series = f"{name}{dict(labels)}"
                findings.append(Finding(Fault.DISAGREEING, f"{service} {series}", f"is {shown:g}, not {expected}"))
    return findings


def caught_up(observed: Observed) -> list[Finding]:
    """I11: no service has anything left to read."""
    if not observed.samples:
        return []
    last = observed.samples[-1]
    return [
        Finding(Fault.BEHIND, f"{group} {topic}/{partition}", f"is {records} records behind")
        for group, (topic, partition), records in behind(last, last.ends)
    ]


def behind(sample: Sample, ends: Mapping[TopicPlace, int]) -> Iterator[tuple[str, TopicPlace, int]]:
    """The groups that had not committed up to these ends, with where and by how many records."""
    for group, topics in GROUPS.items():
        committed = sample.committed.get(group, {})
        for place, end in ends.items():
            reads = place[0] in topics if topics is not None else place[0].startswith("agency.")
            if reads and (records := end - committed.get(place, 0)) > 0:
                yield group, place, records


def kept_private(observed: Observed) -> list[Finding]:
    """I12: phones, mail addresses and names stand where they belong and nowhere else."""
    if observed.personal is None or observed.mentions is None:
        return []
    return [
        # What leaked must not leak once more by being reported.
        Finding(Fault.LEAKED, where, f"holds {'a name' if mention in observed.personal.names else 'a contact'}")
        for mention, where in observed.mentions.items()
        if mention in observed.personal.contacts or mention in observed.personal.names
    ]


@dataclass(frozen=True, slots=True)
class Checker:
    """One part of the promise and who looks after it. `needs` are fields of Observed without which nothing is
    checked; with those in `helped_by` more is."""

    id: str
    name: str
    promise: str
    find: Callable[[Observed], list[Finding]]
    needs: tuple[str, ...] = ()
    helped_by: tuple[str, ...] = ()


CHECKERS: Sequence[Checker] = (
    Checker("I0", "verdicts", "Every published event gets its verdict, the one to be expected.", verdicts,
            needs=("published",)),
    Checker("I1", "ended", "Every accepted request ends as one of assigned, unroutable, dead letter.", ended),
    Checker("I2", "effective once", "Each step of a request is told by one event; copies are equal to the byte.",
            effective_once),
    Checker("I3", "in order", "What is told of a request stands in one partition, its changes in order.", in_order,
            helped_by=("partitions",)),
    Checker("I4", "descended", "Whatever is published comes from an accepted request.", descended),
    Checker("I5", "told once", "Each step is told once; again only if unknown, or by another channel.", told_once,
            helped_by=("ledger", "short_messages", "letters", "faults")),
    Checker("I6", "agreed", "Ledger, providers' logs and outcomes say the same.", agreed,
            needs=("ledger",), helped_by=("short_messages", "letters")),
    Checker("I7", "set aside once", "Each unreadable record is a dead letter once, and none beside it.", set_aside_once,
            helped_by=("poison", "published", "samples")),
    Checker("I8", "committed after", "Offsets never go back, nor past the end or what was processed.", committed_after,
            needs=("samples",)),
    Checker("I9", "due dates", "Due dates follow from event, rules and calendar.", due_dates,
            needs=("rulebook", "accepted_values")),
    Checker("I10", "counted", "Metrics count what is there; nothing ends before it began.", counted,
            helped_by=("scrapes", "ledger")),
    Checker("I11", "caught up", "No service has anything left to read.", caught_up, needs=("samples",)),
    Checker("I12", "kept private", "Personal data stands nowhere but in its fields.", kept_private,
            needs=("personal", "mentions")),
)  # fmt: skip

TELL_WHAT_IS_MISSING = frozenset({"I0", "I1", "I5"})
"""The checkers whose findings may go away by themselves while a mesh is still at work."""

GIVEN: Mapping[str, str] = {
    "published": "what was published",
    "partitions": "the topics' partitions",
    "ledger": "the store of notify",
    "short_messages": "the SMSC's log",
    "letters": "the mail server's log",
    "faults": "a journal of faults",
    "poison": "where poison was put",
    "samples": "committed offsets",
    "rulebook": "the jurisdiction's folder",
    "accepted_values": "the accepted events",
    "scrapes": "the services' metrics",
    "personal": "who the citizens are",
    "mentions": "the texts to look through",
}
"""What a checker may need, in words."""


@dataclass(frozen=True, slots=True)
class Result:
    """What a checker found; None if it could not look. `without` says what it lacked, or would have been helped by."""

    checker: Checker
    findings: Sequence[Finding] | None
    without: Sequence[str]

    @property
    def verdict(self) -> str:
        """In a few words: ok, how many findings, or why it was not checked."""
        lacks = ", ".join(self.without)
        if self.findings is None:
            return f"not checked without {lacks}"
        if self.findings:
            return f"{len(self.findings)} finding{'s' * (len(self.findings) > 1)}"
        return f"ok, without {lacks}" if lacks else "ok"


def check(observed: Observed, only: Collection[str] | None = None) -> list[Result]:
    """What each checker (of these ids, or each there is) finds in what was observed."""
    results = []
    for checker in CHECKERS:
        if only is not None and checker.id not in only:
            continue
        lacking = [GIVEN[name] for name in checker.needs if getattr(observed, name) is None]
        helpless = [GIVEN[name] for name in checker.helped_by if getattr(observed, name) is None]
        results.append(Result(checker, None if lacking else checker.find(observed), lacking or helpless))
    return results


def findings_of(results: Iterable[Result]) -> list[Finding]:
    """All findings, in the order of the checkers."""
    return [finding for result in results for finding in result.findings or ()]


START_GRAIN_SECONDS = 1.5
"""How much too early a process may seem to have started: the kernel's own start is told in whole seconds."""


def counts_all(service: str, scrape: Scrape, began: float | None) -> bool:
    """Whether the counters of this process stand for all that was ever published."""
    started = total(scrape, PROCESS_STARTED)
    put_back = total(scrape, "guichet_batch_failures_total")
    # The metrics service remembers what it has counted, through a batch that comes again, too.
    return began is not None and started + START_GRAIN_SECONDS <= began and (not put_back or service == "metrics")


def total(scrape: Scrape, name: str, **labels: str) -> float:
    """The sum of a metric's series that have these labels."""
    wanted = labels.items()
    return sum(value for (metric, has), value in scrape.items() if metric == name and wanted <= has)


def _untold(observed: Observed) -> list[Finding]:
    notifications: dict[str | None, dict[str, str | None]] = defaultdict(dict)
    failed: set[str] = set()
    for outcome in observed.sightings.of(NotificationOutcome):
        key = outcome.notification_id or ""
        notifications[outcome.cause][key] = outcome.fallback_of
        if outcome.status is NotificationStatus.FAILED:
            failed.add(key)
    for row in (observed.ledger or {}).values():
        notifications[row.cause][row.id] = row.fallback_of
        if row.status is State.FAILED:
            failed.add(row.id)
    findings = []
    for cause in observed.sightings.of(RequestAccepted, RequestAssigned, RequestUpdated):
        told = notifications.get(cause.id, {})
        subject = f"{cause.request_id} {cause.type.__name__} {cause.id}"
        if not told:
            findings.append(Finding(Fault.NOT_TOLD, subject, "has no notification with an outcome"))
        elif not _one_and_its_fallback(told, failed):
            findings.append(Finding(Fault.DOUBLED, subject, f"has {len(told)} notifications"))
    return findings


def _one_and_its_fallback(told: Mapping[str, str | None], failed: Collection[str]) -> bool:
    """Whether this is one notification, or one that failed and another in its place; `told`: which follows which."""
    first = [key for key, fallback_of in told.items() if fallback_of is None]
    return len(first) == 1 and (len(told) == 1 or (len(told) == 2 and first[0] in failed and first[0] in told.values()))


def _still_under_way(observed: Observed) -> list[Finding]:
    return [
        Finding(Fault.NOT_TOLD, row.id, f"is still {row.status}")
        for row in (observed.ledger or {}).values()
        if row.status in (State.PLANNED, State.SENDING)
    ]


def _without_fallback(observed: Observed) -> list[Finding]:
    rows = (observed.ledger or {}).values()
    followed = {row.fallback_of for row in rows}
    return [
        Finding(Fault.NOT_TOLD, row.id, "failed, and its citizen was not told by the other channel")
        for row in rows
        if row.status is State.FAILED and row.has_alternative and row.id not in followed
    ]


def _sent_again(observed: Observed) -> list[Finding]:
    """What providers accepted more often than it may have been sent."""
    allowed = _copies_allowed(observed)
    by_address = _by_address(observed, allowed)
    parts: dict[tuple[str, int | None, int, str], list[ShortMessage]] = defaultdict(list)
    for message in observed.short_messages or ():
        parts[message.recipient, message.user_message_reference, message.part, message.octets].append(message)
    letters: dict[tuple[str, tuple[str, ...]], list[Letter]] = defaultdict(list)
    for letter in observed.letters or ():
        letters[letter.notification_id, letter.recipients].append(letter)
    return [
        *(
            finding
            for (recipient, reference, part, _), messages in parts.items()
            for finding in _of_copies(
                observed,
                f"part {part} of message {messages[0].message_id}",
                messages,
                by_address.get((recipient, reference), by_address.get(("", reference))),
            )
        ),
        *(
            finding
            for (key, _), mails in letters.items()
            for finding in _of_copies(observed, key, mails, allowed.get(key))
        ),
    ]


def _copies_allowed(observed: Observed) -> dict[str, int]:
    """How often each notification may have been accepted of which nobody knew at some time."""
    if observed.ledger is None:
        return {
            seen.notification_id or "": 1 + UNKNOWNS_MAX
            for seen in observed.sightings.of(NotificationOutcome)
            if seen.status is NotificationStatus.UNKNOWN
        }
    return {
        row.id: 1 + (row.unknowns if row.policy is Policy.AT_LEAST_ONCE else 0)
        for row in observed.ledger.values()
        if NotificationStatus.UNKNOWN in row.announced
    }


def address_of(row: LedgerRow) -> tuple[str, int | None]:
    """What an SMSC knows a row's messages by: recipient, if it is known, and a reference that many share: 16 bits."""
    return (row.recipient or "").removeprefix("+"), user_message_reference(row.id)


def _by_address(observed: Observed, allowed: Mapping[str, int]) -> dict[tuple[str, int | None], int]:
    times_by_address: dict[tuple[str, int | None], int] = {}
    for key, times in allowed.items():
        row = (observed.ledger or {}).get(key)
        address = address_of(row) if row else ("", user_message_reference(key))
        times_by_address[address] = max(times, times_by_address.get(address, 0))
    return times_by_address


def _of_copies(
    observed: Observed, subject: str, copies: Sequence[ShortMessage | Letter], allowed: int | None
) -> list[Finding]:
    """What is wrong with a message's having been accepted so often. `allowed`: None if it was never unknown."""
    times = len(copies)
    if times == 1:
        return []
    if allowed is None:
        return [Finding(Fault.DOUBLED, subject, f"was accepted {times} times")]
    if times > allowed:
        return [Finding(Fault.DOUBLED, subject, f"was unknown and accepted {times} times, and may be {allowed} times")]
    if not all(_explained(observed, copy) for copy in copies[1:]):
        return [Finding(Fault.UNEXPLAINED, subject, "was sent again, and no fault was injected before")]
    return []


def _explained(observed: Observed, copy: ShortMessage | Letter) -> bool:
    return observed.faults is None or any(at <= copy.at <= at + ECHO for at in observed.faults)


def _against_short_messages(observed: Observed, ledger: Mapping[str, LedgerRow]) -> list[Finding]:
    if observed.short_messages is None:
        return []
    accepted = {message.message_id for message in observed.short_messages}
    addressed = Counter((each.recipient, each.user_message_reference) for each in observed.short_messages)
    rows = [row for row in ledger.values() if row.channel is Channel.SMS]
    findings = []
    named: set[str] = set()
    known: dict[tuple[str, int | None], list[LedgerRow]] = defaultdict(list)
    for row in rows:
        named.update(row.references)
        address = address_of(row)
        known[address].append(row)
        missing = [reference for reference in row.references if reference not in accepted]
        if missing:
            findings.append(Finding(Fault.DISAGREEING, row.id, f"was accepted as {missing[0]}, says its row alone"))
        elif _was_accepted(row) and not row.references and not addressed[address]:
            findings.append(Finding(Fault.DISAGREEING, row.id, f"is {row.status}, and the SMSC never accepted it"))
    for message in observed.short_messages:
        if message.message_id in named:
            continue
        meant = known.get((message.recipient, message.user_message_reference), [])
        if not meant:
            findings.append(Finding(Fault.DISAGREEING, message.message_id, "was accepted, and has no row"))
        elif not any(_may_have_been_accepted(row) for row in meant):
            said = f"was accepted by the SMSC, and is {meant[0].status} in the ledger"
            findings.append(Finding(Fault.DISAGREEING, meant[0].id, said))
    return findings


def _against_letters(observed: Observed, ledger: Mapping[str, LedgerRow]) -> list[Finding]:
    if observed.letters is None:
        return []
    accepted = {letter.notification_id for letter in observed.letters}
    findings = [
        Finding(Fault.DISAGREEING, row.id, f"is {row.status}, and the mail server never accepted it")
        for row in ledger.values()
        if row.channel is Channel.EMAIL and _was_accepted(row) and row.id not in accepted
    ]
    for key in accepted:
        row = ledger.get(key)
        if row is None:
            findings.append(Finding(Fault.DISAGREEING, key, "was accepted by the mail server, and has no row"))
        elif not _may_have_been_accepted(row):
            said = f"was accepted by the mail server, and is {row.status} in the ledger"
            findings.append(Finding(Fault.DISAGREEING, key, said))
    return findings


def _was_accepted(row: LedgerRow) -> bool:
    return bool({NotificationStatus.SENT, NotificationStatus.DELIVERED} & row.announced)


def _may_have_been_accepted(row: LedgerRow) -> bool:
    """One that is under way, or failed after some of its parts were taken, may have been accepted without knowing."""
    return (
        _was_accepted(row)
        or NotificationStatus.UNKNOWN in row.announced
        or row.status is State.SENDING
        or row.segments > 1
    )


def _past(observed: Observed, place: Place) -> list[str]:
    """The services that committed past a record."""
    if not observed.samples:
        return []
    return [
        group.removeprefix("guichet-")
        for group, offsets in observed.samples[-1].committed.items()
        if offsets.get((place.topic, place.partition), 0) > place.offset
    ]


def _committed_before_it_was_decided(observed: Observed, samples: Sequence[Sample]) -> list[Finding]:
    decided = {seen.cause: seen.place for seen in observed.sightings.of(RequestAssigned, RequestUnroutable)}
    decisions = [(seen, decided[seen.id]) for seen in observed.sightings.of(RequestAccepted) if seen.id in decided]
    findings = []
    for sample in samples:
        committed = sample.committed.get("guichet-routing", {})
        findings += [
            Finding(Fault.STALE, seen.request_id or seen.id, "was committed by routing before its decision stood")
            for seen, decision in decisions
            if seen.place.offset < committed.get((seen.place.topic, seen.place.partition), 0)
            and decision.offset >= sample.ends.get((decision.topic, decision.partition), decision.offset + 1)
        ]
    return findings


def _expected(service: str, observed: Observed) -> dict[tuple[str, frozenset[tuple[str, str]]], int]:
    """What a service that saw all of it has to show, by metric and labels."""
    of = observed.sightings.of
    accepted, updated = of(RequestAccepted), of(RequestUpdated)
    assigned, unroutable = len(of(RequestAssigned)), len(of(RequestUnroutable))

    def series(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
        return name, frozenset(labels.items())

    match service:
        case "intake":
            name = "guichet_intake_events_total"
            return {
                series(name, outcome="accepted"): len(accepted),
                series(name, outcome="updated"): len(updated),
            }
        case "routing":
            name = "guichet_routing_decisions_total"
            return {series(name, outcome="assigned"): assigned, series(name, outcome="unroutable"): unroutable}
        case "notify" if observed.ledger is not None:
            announced: Counter[tuple[str, NotificationStatus]] = Counter()
            for row in observed.ledger.values():
                for status in row.announced:
                    # That nobody knows is told once, and may come to pass again.
                    times = row.unknowns if status is NotificationStatus.UNKNOWN else 1
                    announced[row.channel or "none", status] += max(1, times)
            return {
                series("guichet_notifications_total", channel=channel, status=status): times
                for (channel, status), times in announced.items()
            }
        case "metrics":
            ends = Counter(seen.changed_to for seen in updated)
            outcomes = Counter((seen.channel or "none", str(seen.status)) for seen in of(NotificationOutcome))
            requests = {
                "accepted": len(accepted),
                "rejected": len(of(RequestRejected)),
                "assigned": assigned,
                "unroutable": unroutable,
                "overdue": len(of(RequestOverdue)),
                "resolved": ends[Status.RESOLVED],
                "cancelled": ends[Status.CANCELLED],
            }
            return {
                **{series("guichet_requests_total", outcome=name): count for name, count in requests.items()},
                **{
                    series("guichet_notification_outcomes_total", channel=channel, status=status): count
                    for (channel, status), count in outcomes.items()
                },
                series("guichet_negative_latencies_total"): 0,
            }
    return {}


def _more_than_once(sightings: Iterable[Sighting], subject: Callable[[Sighting], Hashable], what: str) -> list[Finding]:
    times = Counter(subject(seen) for seen in sightings)
    return [Finding(Fault.DOUBLED, str(named), what) for named, count in times.items() if count > 1]


def _origin(letter: DeadLetter) -> Place:
    origin = letter.data.origin
    return Place(origin.topic, origin.partition, origin.offset)


def _said(place: Place) -> str:
    return "/".join(map(str, place))


def _listed(statuses: Iterable[NotificationStatus]) -> str:
    return ", ".join(sorted(statuses)) or "nothing"


def _ruling(said: Decided) -> str:
    return f"{said.office} by {said.due} (rule {said.rule})" if said.office else f"unroutable ({said.reason})"
