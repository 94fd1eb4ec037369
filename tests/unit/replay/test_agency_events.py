import json
from pathlib import Path
from typing import Any

import pytest

from deploy.replay.agency_events import read_events
from deploy.replay.generator import generate
from deploy.replay.importers import read_source
from deploy.replay.steps import Catalogue, Kind, SourceError


def event(number: int = 1, **changes: Any) -> dict[str, Any]:
    return {
        "specversion": "1.0",
        "id": f"e-{number}",
        "source": "/agencies/edd",
        "type": "guichet.request.submitted.v1",
        "time": "2026-03-02T09:00:00Z",
        "data": {"agency_reference": f"R-{number}", "service_code": "power-outage"},
    } | changes


def lines(*values: Any) -> str:
    return "\n".join(value if isinstance(value, str) else json.dumps(value) for value in values)


def test_events_are_replayed_in_the_file_s_order_by_the_agency_in_their_source() -> None:
    change = event(2, type="guichet.request.status_changed.v1", time="2026-01-01T00:00:00Z")

    steps = read_events(lines(event(1), change, event(3, source="/agencies/Some Office")), "f").steps

    assert [step.event_id for step in steps] == ["e-1", "e-2", "e-3"]
    assert [step.kind for step in steps] == [Kind.SUBMITTED, Kind.STATUS_CHANGED, Kind.SUBMITTED]
    assert [step.agency for step in steps] == ["edd", "edd", "some-office"]


def test_an_event_told_twice_is_a_duplicate_and_one_that_says_something_else_is_not() -> None:
    other = event(1, time="2026-03-03T09:00:00Z")

    steps = read_events(lines(event(1), event(1), other), "f").steps

    assert [step.duplicate for step in steps] == [False, True, False]


def test_the_mesh_is_left_to_judge_what_the_events_say() -> None:
    steps = read_events(lines(event(1, type="of.another.world"), event(2, id=None, data=[])), "f").steps

    assert [step.expect_rejected for step in steps] == [None, None]
    assert steps[1].event_id == ""


def test_lines_that_are_no_events_are_told_and_the_others_go_on() -> None:
    text = lines(event(1), "{nonsense", "", '"text"', event(2, source=5), "[" * 100_000, event(3))

    replay = read_events(text, "f")

    assert [step.event_id for step in replay.steps] == ["e-1", "e-3"]
    assert [problem.line for problem in replay.problems] == [2, 4, 5, 6]


def test_a_file_without_events_is_refused() -> None:
    with pytest.raises(SourceError, match="line 1 is no event"):
        read_events("{nonsense", "f")


def test_half_a_surrogate_pair_can_be_sent_and_is_the_mesh_s_to_refuse() -> None:
    (step,) = read_events('{"source": "/edd", "id": "\\ud800"}', "f").steps

    assert json.loads(step.body)["id"] == "\ud800"


def test_every_agency_and_service_named_becomes_part_of_the_jurisdiction() -> None:
    replay = read_events(lines(event(1), event(2, source="/agencies/onead"), event(3, data={"service_code": 7})), "f")

    assert isinstance(replay.jurisdiction, Catalogue)
    assert list(replay.jurisdiction.agencies) == ["edd", "onead"]
    assert list(replay.jurisdiction.services) == ["power-outage"]
    assert {promise.office for promise in replay.jurisdiction.promises} == {"edd", "onead"}


def test_a_generated_replay_written_as_json_lines_reads_the_same(tmp_path: Path) -> None:
    made = generate(50, seed=3)
    file = tmp_path / "events.jsonl"
    file.write_bytes(b"\n".join(step.body for step in made.steps))

    read = read_source(file, now=made.steps[-1].at)

    assert [(s.agency, s.body, s.door, s.kind, s.duplicate) for s in read.steps] == [
        (s.agency, s.body, s.door, s.kind, s.duplicate) for s in made.steps
    ]
