"""What became of a replay: the checks, the figures, a summary for people, and whether all went well."""

import base64
import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from deploy.check.checks import Fault, Finding, Result, check, findings_of
from deploy.check.observed import EventKey, Observed, Published, Sighting
from deploy.replay.progress import in_words
from deploy.replay.publisher import Answer, Outcome
from deploy.replay.steps import Kind, Replay
from deploy.replay.tally import Latencies, Tally
from shared.contract.events import (
    Channel,
    DeadLetter,
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)

FINDINGS_SHOWN = 20

_SHOWN_LATENCIES = {
    "published_to_assigned": "published → assigned",
    "published_to_sent": "published → sent",
    "published_to_sent_by_sms": "… by SMS",
    "published_to_sent_by_email": "… by mail",
}


@dataclass(frozen=True, slots=True)
class Mesh:
    """What the replay ran on. `kafka_version` None: not known."""

    kafka_version: str | None
    brokers: int
    store: str


def judge(answers: Sequence[Answer], tally: Tally, only: Collection[str] | None = None) -> list[Finding]:
    """Everything on the topics that is not as promised, by the checkers of these ids or by all.

    While nothing is missing yet, it is merely not finished.
    """
    dead = tally.dead_letters
    return findings_of(check(Observed(tally.sightings, dead, published=published(answers, dead)), only))


def published(answers: Sequence[Answer], dead_letters: Sequence[DeadLetter]) -> Published:
    """What the replay said, for the checkers."""
    return Published(
        awaiting=_awaiting_a_verdict(answers, dead_letters),
        to_be_rejected=_expectations(answers),
        doubtful=_doubtful(answers) if dead_letters else (),
    )


def unfinished(findings: Iterable[Finding]) -> bool:
    """Whether something is missing that may still come."""
    return any(finding.fault in (Fault.LOST, Fault.NOT_TOLD) for finding in findings)


def not_taken(answers: Iterable[Answer]) -> list[Finding]:
    """Events that the mesh neither took nor refused, however often it was asked."""
    return [
        Finding(Fault.UNEXPECTED, f"{answer.step.agency}/{answer.step.event_id}", f"was not taken: {answer.detail}")
        for answer in answers
        if answer.outcome is Outcome.NOT_TAKEN
    ]


def build_report(
    replay: Replay,
    answers: Sequence[Answer],
    tally: Tally,
    mesh: Mesh,
    findings: Sequence[Finding],
    *,
    duration_seconds: float,
    results: Sequence[Result] = (),
) -> dict[str, Any]:
    """The report: counts of distinct events, exact percentiles over all of their timelines, each checker's verdict."""
    counts = tally.counts
    faults = Counter(finding.fault for finding in findings)
    submitted = [answer.step for answer in answers if answer.step.kind is Kind.SUBMITTED]
    seed = {} if replay.seed is None else {"seed": replay.seed}
    return {
        "source": replay.source,
        **seed,
        "kafka": {"version": mesh.kafka_version, "brokers": mesh.brokers},
        "store": mesh.store,
        "requests": {
            "published": len(submitted),
            "duplicates": sum(step.duplicate for step in submitted),
            "accepted": counts[RequestAccepted],
            "rejected": counts[RequestRejected],
            "assigned": counts[RequestAssigned],
            "unroutable": counts[RequestUnroutable],
            "updated": counts[RequestUpdated],
        },
        "status_changes": {"published": len(answers) - len(submitted)},
        "notifications": {
            **_notifications(tally.sightings.of(NotificationOutcome)),
            "unreachable": tally.notified[NotificationStatus.UNREACHABLE],
        },
        "latency_seconds": {
            "published_to_accepted": _percentiles(tally.published_to_accepted),
            "published_to_assigned": _percentiles(tally.published_to_assigned),
            "published_to_sent": _percentiles(tally.published_to_sent),
            **{
                f"published_to_sent_by_{channel}": _percentiles(latencies)
                for channel, latencies in tally.published_to_sent_by.items()
            },
        },
        "dead_letters": len(tally.dead_letters),
        "raw_copies": tally.sightings.raw_copies,
        "lost": faults[Fault.LOST],
        "doubled": faults[Fault.DOUBLED],
        "not_told": faults[Fault.NOT_TOLD],
        "findings": [
            {"fault": finding.fault, "subject": finding.subject, "what": finding.what} for finding in findings
        ],
        "checks": {result.checker.id: result.verdict for result in results},
        "rejected_by_reason": {str(reason): count for reason, count in sorted(tally.rejections.items())},
        "rows": {
            "dropped": sum(problem.dropped for problem in replay.problems),
            "problems": len(replay.problems),
        },
        "duration_seconds": round(duration_seconds, 3),
    }


def exit_status(findings: Sequence[Finding]) -> int:
    """0 if the mesh kept its promise, else 1: lost, doubled or altered events, citizens not told, dead letters that
    nothing explains, verdicts that were not to be expected."""
    return 1 if findings else 0


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """As JSON, for machines and for comparison."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def summarise(report: Mapping[str, Any], findings: Sequence[Finding], replay: Replay, console: Console) -> None:
    """The report for people."""
    requests, notifications = report["requests"], report["notifications"]
    title = Text(f"Replayed {report['source']} in {report['duration_seconds']:.0f} s", style="bold")
    table = Table(title=title, title_justify="left", show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    kafka = report["kafka"]
    table.add_row("on", f"Kafka {kafka['version'] or ''} with {_plural(kafka['brokers'], 'broker')}, {report['store']}")
    table.add_row("requests", _said(requests, "published", "duplicates", "accepted", "rejected"))
    table.add_row("offices", _said(requests, "assigned", "unroutable"))
    table.add_row(
        "status changes", f"{report['status_changes']['published']:,} published, {requests['updated']:,} taken"
    )
    for channel in Channel:
        table.add_row(channel.value, _said(notifications[channel], "sent", "delivered", "failed", "unknown"))
    table.add_row("out of reach", f"{notifications['unreachable']:,} notifications for citizens without a contact")
    for name, steps in _SHOWN_LATENCIES.items():
        shares = report["latency_seconds"][name]
        table.add_row(steps, "  ".join(f"{share} {in_words(seconds)}" for share, seconds in shares.items()))
    if report["rejected_by_reason"]:
        table.add_row("rejected for", _said(report["rejected_by_reason"], *report["rejected_by_reason"]))
    table.add_row("dead letters", f"{report['dead_letters']:,}")
    table.add_section()
    table.add_row("lost", f"{report['lost']:,}", style="bold red" if report["lost"] else "bold green")
    table.add_row("doubled", f"{report['doubled']:,}", style="bold red" if report["doubled"] else "bold green")
    table.add_row("not told", f"{report['not_told']:,}", style="bold red" if report["not_told"] else "bold green")
    console.print(table)
    for problem in replay.problems[:FINDINGS_SHOWN]:
        fate = "dropped" if problem.dropped else "kept"
        console.print(f"line {problem.line}: {problem.what} ({fate})", style="yellow", markup=False, highlight=False)
    _more(len(replay.problems), "rows", console)
    for finding in findings[:FINDINGS_SHOWN]:
        console.print(f"{finding.fault}: {finding.subject} {finding.what}", style="red", markup=False, highlight=False)
    _more(len(findings), "findings", console)


def _awaiting_a_verdict(answers: Iterable[Answer], dead_letters: Iterable[DeadLetter]) -> list[EventKey]:
    """What was published and can be told apart by its id, unless its door refused it or it was no event at all."""
    set_aside = {base64.b64decode(letter.data.value or "") for letter in dead_letters}
    return [
        (answer.step.agency, answer.step.event_id)
        for answer in answers
        if answer.step.event_id
        and answer.outcome not in (Outcome.REJECTED, Outcome.NOT_TAKEN)
        and not (set_aside and answer.step.body in set_aside)
    ]


def _doubtful(answers: Iterable[Answer]) -> set[bytes]:
    """Bodies that the mesh may not be able to read at all."""
    return {answer.step.body for answer in answers if answer.step.expect_rejected is not False}


def _expectations(answers: Iterable[Answer]) -> dict[EventKey, bool]:
    return {
        (answer.step.agency, answer.step.event_id): answer.step.expect_rejected
        for answer in answers
        if answer.step.expect_rejected is not None
    }


def _notifications(outcomes: Iterable[Sighting]) -> dict[str, dict[str, int]]:
    """Notifications by channel: `sent` were taken by the provider, of which `delivered` have their receipts;
    `unknown` are those of which nothing was heard since."""
    statuses: dict[tuple[Channel, str], set[NotificationStatus]] = defaultdict(set)
    for outcome in outcomes:
        if outcome.channel and outcome.notification_id and outcome.status:
            statuses[outcome.channel, outcome.notification_id].add(outcome.status)
    counts: dict[str, Counter[str]] = {channel.value: Counter() for channel in Channel}
    for (channel, _), told in statuses.items():
        final = {NotificationStatus.DELIVERED, NotificationStatus.FAILED} & told
        counts[channel]["sent"] += bool({NotificationStatus.SENT, NotificationStatus.DELIVERED} & told)
        counts[channel]["delivered"] += NotificationStatus.DELIVERED in told
        counts[channel]["failed"] += NotificationStatus.FAILED in told
        counts[channel]["unknown"] += NotificationStatus.UNKNOWN in told and not final
    names = ("sent", "delivered", "failed", "unknown")
    return {channel: {name: count[name] for name in names} for channel, count in counts.items()}


def _percentiles(latencies: Latencies) -> dict[str, float | None]:
    return {name: latencies.exact(share) for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))}


def _said(counts: Mapping[str, int], *names: str) -> str:
    return ", ".join(f"{counts[name]:,} {name.replace('_', ' ')}" for name in names)


def _plural(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _more(count: int, what: str, console: Console) -> None:
    if count > FINDINGS_SHOWN:
        console.print(f"… and {count - FINDINGS_SHOWN} more {what}")
