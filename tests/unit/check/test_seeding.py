"""Each bug is planted in observations that are otherwise sound, and its own checker alone turns red."""

from dataclasses import replace

import pytest

from deploy.check.checks import CHECKERS, check, findings_of
from deploy.check.observed import Observed
from deploy.check.seeding import BUGS, Bug, seeded_bugs, seen_by


def test_a_promise_that_was_kept_leaves_nothing_to_find(sound: Observed) -> None:
    assert findings_of(check(sound)) == []
    assert all(result.findings is not None for result in check(sound))


def test_raw_copies_equal_to_the_byte_are_no_fault(with_copies: Observed) -> None:
    assert with_copies.sightings.raw_copies
    assert findings_of(check(with_copies)) == []


@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: f"{bug.checker} {bug.name}")
def test_a_planted_bug_is_seen_by_the_checker_that_exists_for_it_and_by_no_other(sound: Observed, bug: Bug) -> None:
    planted = bug.plant(sound)

    assert planted is not None
    seen = seen_by(sound, planted)
    assert seen - bug.also == {bug.checker}


def test_every_checker_has_its_bug_and_catches_it(sound: Observed) -> None:
    assert seeded_bugs(sound) == {checker.id: True for checker in CHECKERS}


def test_a_checker_that_is_blind_is_told_from_one_that_had_nothing_to_look_at(sound: Observed) -> None:
    blind = replace(sound, samples=None, scrapes=None, ledger=None, published=None)

    caught = seeded_bugs(blind)

    assert not {"I0", "I6", "I8", "I11"} & caught.keys()
    assert all(caught.values())


def test_a_bug_is_seen_beside_one_that_is_there_already(sound: Observed) -> None:
    first, second = (bug for bug in BUGS if bug.checker == "I2")
    already = first.plant(sound)
    assert already is not None
    both = second.plant(already)
    assert both is not None

    assert seen_by(already, both) == {"I2"}
