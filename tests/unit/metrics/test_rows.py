"""Rows stand in stores across releases: what an earlier one wrote is read."""

from datetime import UTC, date, datetime

from services.metrics.domain import RequestState
from shared.contract.events import Status


def test_a_request_is_read_with_its_nulls_written_out_and_its_time_with_an_offset() -> None:
    kept = (
        b'{"submitted_at":"2026-11-22T08:30:00.000005+00:00","office":null,"due":"2026-11-29","status":"resolved",'
        b'"sequence":2,"resolved_on":null,"counted":[1,2]}'
    )
    assert RequestState.from_json(kept) == RequestState(
        submitted_at=datetime(2026, 11, 22, 8, 30, 0, 5, tzinfo=UTC),
        due=date(2026, 11, 29),
        status=Status.RESOLVED,
        sequence=2,
        counted=(1, 2),
    )
