import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from deploy.check.checks import Fault, Finding
from deploy.replay.progress import Progress
from deploy.replay.publisher import Answer, Outcome
from deploy.replay.report import (
    Mesh,
    build_report,
    exit_status,
    judge,
    not_taken,
    summarise,
    unfinished,
    write_report,
)
from deploy.replay.steps import Kind, Replay, RowProblem, Step
from deploy.replay.tally import Latencies, Tally, percentile
from shared.bus.loop import dead_letter
from shared.bus.port import Incoming, Record, Undecodable
from shared.contract.events import Channel, DeadLetter, Door, Event, NotificationStatus
from shared.contract.reasons import Reason

Handled = Callable[..., Any]
OnTopic = Callable[[Event], Incoming[Event]]

MESH = Mesh("4.4.0", 1, "sqlite")


class Run:
    """A replay of one request, submitted twice and then resolved, and what a mesh made of it."""

    def __init__(self, request: Any, on_topic: OnTopic) -> None:
        data = {"agency_reference": "A-1"}
        submission = Step(request.card.submitted_at, "edd", {"id": "e-1", "data": data}, Door.KAFKA, Kind.SUBMITTED)
        change = replace(submission, event={"id": "e-2", "data": data}, kind=Kind.STATUS_CHANGED)
        self.steps = [submission, replace(submission, duplicate=True), change]
        self.answers = [Answer(step, Outcome.DURABLE) for step in self.steps]
        self.tally = Tally(self.steps)
        self._on_topic = on_topic

    def see(self, *events: Event) -> None:
        for event in events:
            self.tally.take(self._on_topic(event))

    def report(self, findings: Sequence[Finding] = ()) -> dict[str, Any]:
        replay = Replay("a-file", Path(), self.steps, [RowProblem(5, "has no number")], seed=7)
        return build_report(replay, self.answers, self.tally, MESH, findings, duration_seconds=1.5)


@pytest.fixture
def request_handled(handled: Handled) -> Any:
    return handled()


@pytest.fixture
def run(request_handled: Any, on_topic: OnTopic) -> Run:
    return Run(request_handled, on_topic)


def whole(request: Any) -> list[Event]:
    """All that a mesh publishes of the request, in an order in which it may be read."""
    accepted, assigned, updated = request.accepted(), request.assigned(), request.updated()
    return [
        request.told(updated),
        updated,
        request.told(accepted),
        accepted,
        accepted,
        assigned,
        request.told(assigned),
        request.told(assigned, NotificationStatus.DELIVERED),
    ]


def test_a_promise_that_was_kept_leaves_nothing_to_find(run: Run, request_handled: Any) -> None:
    run.see(*whole(request_handled))

    assert judge(run.answers, run.tally) == []
    assert exit_status(judge(run.answers, run.tally)) == 0


def test_the_report_counts_distinct_events_and_copies_apart(run: Run, request_handled: Any) -> None:
    run.see(*whole(request_handled))

    report = run.report()

    assert report["requests"] == {
        "published": 2, "duplicates": 1, "accepted": 1, "rejected": 0, "assigned": 1, "unroutable": 0, "updated": 1,
    }  # fmt: skip
    assert report["notifications"]["sms"] == {"sent": 3, "delivered": 1, "failed": 0, "unknown": 0}
    assert report["notifications"]["email"] == {"sent": 0, "delivered": 0, "failed": 0, "unknown": 0}
    assert report["raw_copies"] == 1
    assert (report["lost"], report["doubled"], report["dead_letters"]) == (0, 0, 0)
    assert report["kafka"] == {"version": "4.4.0", "brokers": 1}
    assert (report["store"], report["source"], report["seed"]) == ("sqlite", "a-file", 7)
    assert report["latency_seconds"]["published_to_assigned"] == pytest.approx({"p50": 0.2, "p95": 0.2, "p99": 0.2})
    assert report["latency_seconds"]["published_to_sent"] == pytest.approx({"p50": 0.5, "p95": 0.5, "p99": 0.5})


@pytest.mark.parametrize("missing", [0, 1, 2, 3, 5])
def test_whatever_is_missing_is_found_and_waited_for(run: Run, request_handled: Any, missing: int) -> None:
    events = whole(request_handled)
    run.see(*(event for event in events if event.id != events[missing].id))

    assert unfinished(judge(run.answers, run.tally))


def test_a_receipt_is_no_part_of_the_promise(run: Run, request_handled: Any) -> None:
    run.see(*whole(request_handled)[:-1])

    assert not unfinished(judge(run.answers, run.tally))


def test_a_second_decision_makes_the_replay_fail(run: Run, request_handled: Any) -> None:
    run.see(*whole(request_handled), request_handled.assigned(by="a zombie"))
    findings = judge(run.answers, run.tally)

    assert Fault.DOUBLED in {finding.fault for finding in findings}
    assert exit_status(findings) == 1
    assert run.report(findings)["doubled"] == 1


def test_a_rejection_that_was_to_be_expected_is_no_fault(run: Run, request_handled: Any) -> None:
    spoilt = replace(run.steps[0], expect_rejected=True)
    run.see(request_handled.rejected("e-1"))

    assert judge([Answer(spoilt, Outcome.DURABLE)], run.tally) == []
    assert run.report()["rejected_by_reason"] == {"invalid_phone": 1}


def test_a_rejection_that_nothing_explains_is_a_fault(run: Run, request_handled: Any) -> None:
    run.see(request_handled.rejected("e-1"))

    assert [finding.fault for finding in judge(run.answers[:1], run.tally)] == [Fault.UNEXPECTED]


def test_an_event_that_was_not_taken_fails_the_replay_and_is_not_lost(run: Run) -> None:
    answers = [Answer(run.steps[0], Outcome.NOT_TAKEN, detail="no answer")]

    assert judge(answers, run.tally) == []
    assert exit_status(not_taken(answers)) == 1


def test_other_requests_on_the_topics_are_not_looked_at(run: Run, handled: Handled) -> None:
    run.see(*whole(handled("onead")), handled("onead").rejected("e-1"))

    assert not run.tally.counts


def test_a_dead_letter_is_explained_by_an_event_that_may_be_none(run: Run) -> None:
    doubtful = replace(run.steps[0], expect_rejected=None)
    record = Record("agency.edd.events", 0, 7, 0, None, b"k", doubtful.body)
    publication = dead_letter("intake", record, Undecodable(Reason.NOT_JSON, "it is none"))
    run.see(DeadLetter.from_json(publication.value))

    assert judge([Answer(doubtful, Outcome.DURABLE)], run.tally) == []
    assert exit_status(judge([Answer(run.steps[2], Outcome.DURABLE)], run.tally)) == 1
    assert run.report()["dead_letters"] == 1


def test_a_notification_is_counted_by_what_became_of_it_last(run: Run, request_handled: Any) -> None:
    accepted, assigned, updated = request_handled.accepted(), request_handled.assigned(), request_handled.updated()
    run.see(
        request_handled.told(accepted, NotificationStatus.UNKNOWN),
        request_handled.told(accepted, NotificationStatus.DELIVERED),
        request_handled.told(assigned, NotificationStatus.UNKNOWN),
        request_handled.told(updated, NotificationStatus.FAILED, Channel.EMAIL),
    )

    notifications = run.report()["notifications"]
    assert notifications["sms"] == {"sent": 1, "delivered": 1, "failed": 0, "unknown": 1}
    assert notifications["email"] == {"sent": 0, "delivered": 0, "failed": 1, "unknown": 0}


def test_receipts_are_missing_until_they_come(run: Run, request_handled: Any) -> None:
    accepted = request_handled.accepted()
    run.see(request_handled.told(accepted))
    assert len(run.tally.receipts_missing) == 1

    run.see(request_handled.told(accepted, NotificationStatus.DELIVERED))
    assert not run.tally.receipts_missing


@pytest.mark.parametrize(("share", "expected"), [(0.5, 2.0), (0.75, 3.0), (0.99, 4.0), (1.0, 4.0)])
def test_percentiles_are_values_that_were_measured(share: float, expected: float) -> None:
    assert percentile([4.0, 2.0, 1.0, 3.0], share) == expected


def test_nothing_measured_has_no_percentile() -> None:
    assert percentile([], 0.5) is None


def test_clocks_that_disagree_make_no_negative_latency(request_handled: Any) -> None:
    latencies = Latencies()
    now = request_handled.card.submitted_at
    latencies.add(now, now - timedelta(seconds=1))
    latencies.add(None, now)

    assert (latencies.exact(0.5), latencies.exact(1.0)) == (0.0, 0.0)


def test_the_report_is_json_and_its_summary_tells_the_same(run: Run, request_handled: Any, tmp_path: Path) -> None:
    run.see(*whole(request_handled))
    findings = [Finding(Fault.LOST, "edd/e-1 [bold]", "was never answered")]
    report = run.report(findings)
    screen = Console(file=io.StringIO(), width=120)

    write_report(report, tmp_path / "new" / "report.json")
    summarise(report, findings, Replay("a-file", Path(), run.steps, [RowProblem(5, "has no number")]), screen)

    assert json.loads((tmp_path / "new" / "report.json").read_text()) == report
    assert isinstance(screen.file, io.StringIO)
    said = screen.file.getvalue()
    for part in ("2 published, 1 duplicates, 1 accepted", "line 5: has no number (dropped)", "lost: edd/e-1 [bold]"):
        assert part in said


def test_progress_shows_services_offices_and_latency(run: Run, request_handled: Any) -> None:
    run.see(*whole(request_handled))
    progress = Progress("a-file", run.tally, steps=3, answered=run.answers)
    screen = Console(file=io.StringIO(), width=160)

    screen.print(progress.picture())

    assert isinstance(screen.file, io.StringIO)
    drawn = screen.file.getvalue()
    for part in ("3 of 3 events", "intake", "1 accepted", "Office plateau", "500 ms", "routing", "notify", "metrics"):
        assert part in drawn
    assert "published 3/3  accepted 1" in progress.line()
