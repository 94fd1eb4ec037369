"""Rows stand in stores across releases: what an earlier one wrote is read."""

from pathlib import Path

from services.intake.domain import Claim, RequestState
from shared.contract.events import Door, Problem, RequestAccepted, Timeline
from shared.contract.reasons import Reason

GOLDEN = Path(__file__).parents[2] / "golden" / f"{RequestAccepted.TYPE}.json"


def test_a_request_without_changes_is_read_with_its_empty_list() -> None:
    accepted = GOLDEN.read_text(encoding="utf-8")
    kept = RequestState.from_json(f'{{"opened_by":"e","accepted":{accepted},"changes":[]}}')
    assert kept == RequestState(opened_by="e", accepted=RequestAccepted.from_json(accepted))


def test_a_claim_is_kept_to_the_byte_as_it_always_was() -> None:
    problem = Problem(reason=Reason.UNKNOWN_REQUEST, detail="x", field="y")
    claim = Claim(digest="d", timeline=Timeline(), door=Door.HTTP, rejected=problem)
    kept = (
        b'{"digest":"d","timeline":{},"door":"http","rejected":{"reason":"unknown_request","detail":"x","field":"y"}}'
    )
    assert (Claim.from_json(kept), claim.to_json()) == (claim, kept)
