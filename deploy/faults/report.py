"""What a campaign found: for machines, for people, and whether all went well."""

from collections import Counter, defaultdict
from statistics import median
from typing import Any

from rich.console import Console
from rich.table import Table

from deploy.check.checks import CHECKERS, Fault, Finding, findings_of
from deploy.faults.campaign import Campaign
from deploy.replay.report import FINDINGS_SHOWN, not_taken
from shared.contract.events import NotificationStatus, RequestAccepted


def findings(campaign: Campaign) -> list[Finding]:
    """All that was not as promised: what the checkers found, and what only the campaign itself can tell."""
    found = [*findings_of(campaign.results), *not_taken(campaign.answers)]
    if not campaign.rested:
        found.append(Finding(Fault.BEHIND, "the mesh", "did not finish what it had after all faults were healed"))
    found += [
        Finding(Fault.BEHIND, str(one.fault), "was not recovered from in time")
        for one in campaign.injected
        if not one.recovered
    ]
    found += [
        Finding(Fault.UNEXPECTED, checker, "did not see the bug that it exists for")
        for checker, caught in bugs_caught(campaign).items()
        if not caught
    ]
    return found


def bugs_caught(campaign: Campaign) -> dict[str, bool]:
    """For each checker whether it saw every bug planted for it in what this campaign left behind."""
    return {checker.id: campaign.seeded_bugs.get(checker.id, False) for checker in CHECKERS}


def as_report(campaign: Campaign) -> dict[str, Any]:
    """The report, as JSON."""
    found = findings(campaign)
    by_fault = Counter(finding.fault for finding in found)
    observed = campaign.observed
    recovery: dict[str, list[float]] = defaultdict(list)
    for one in campaign.injected:
        if one.recovery_seconds is not None:
            recovery[one.fault.kind].append(one.recovery_seconds)
    unknown = [row for row in (observed.ledger or {}).values() if NotificationStatus.UNKNOWN in row.announced]
    return {
        "seed": campaign.seed,
        "seconds": round(campaign.seconds, 1),
        "faults": dict(sorted(Counter(str(one.fault.kind) for one in campaign.injected).items())),
        "faults_total": len(campaign.injected),
        "published": len(campaign.answers),
        "accepted": len(observed.sightings.of(RequestAccepted)),
        "notifications": len(observed.ledger or ()),
        "lost": by_fault[Fault.LOST] + by_fault[Fault.NOT_TOLD],
        "doubled": by_fault[Fault.DOUBLED],
        "unexplained_sends": by_fault[Fault.UNEXPLAINED],
        "unknown_sends": len(unknown),
        "raw_copies": observed.sightings.raw_copies,
        "dead_letters": len(observed.dead_letters),
        "seeded_bugs": bugs_caught(campaign),
        "recovery_seconds": {
            kind: {"p50": round(median(seconds), 2), "max": round(max(seconds), 2), "times": len(seconds)}
            for kind, seconds in sorted(recovery.items())
        },
        "restarts": campaign.restarts,
        "not_reached": campaign.not_reached,
        "checks": {result.checker.id: result.verdict for result in campaign.results},
        "findings": [{"fault": one.fault, "subject": one.subject, "what": one.what} for one in found],
        "injected": [
            {
                "at": round(one.at_seconds, 1),
                "fault": str(one.fault),
                "recovery_seconds": None if one.recovery_seconds is None else round(one.recovery_seconds, 2),
            }
            for one in campaign.injected
        ],
    }


def summarise(campaign: Campaign, console: Console) -> None:
    """The report for people."""
    said = as_report(campaign)
    table = Table("fault", "times", "recovered: p50", "max", title_justify="left")
    table.title = f"{said['faults_total']} faults in {said['seconds'] / 60:.0f} min, seed {said['seed']}"
    for kind, times in said["faults"].items():
        recovery = said["recovery_seconds"].get(kind)
        figures = (f"{recovery['p50']:.1f} s", f"{recovery['max']:.1f} s") if recovery else ("", "")
        table.add_row(kind, str(times), *figures)
    console.print(table)
    names = ("accepted", "notifications", "lost", "doubled", "unexplained_sends", "unknown_sends", "raw_copies")
    console.print(", ".join(f"{said[name]:,} {name.replace('_', ' ')}" for name in names))
    missed = [checker for checker, caught in said["seeded_bugs"].items() if not caught]
    console.print(f"seeded bugs missed by {', '.join(missed)}" if missed else "every checker saw its seeded bugs")
    for why, times in said["restarts"].items():
        console.print(f"restarted, {times} ×: {why}", markup=False, highlight=False)
    for one in said["findings"][:FINDINGS_SHOWN]:
        console.print(f"{one['fault']}: {one['subject']} {one['what']}", style="red", markup=False, highlight=False)
    if len(said["findings"]) > FINDINGS_SHOWN:
        console.print(f"… and {len(said['findings']) - FINDINGS_SHOWN} more findings")
