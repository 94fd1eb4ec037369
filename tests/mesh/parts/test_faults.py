"""The faults that a provider is told to make: read when they change, drawn the same in each run."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from deploy.local.faults import Faults, Script, Share


class SomeFaults(Faults):
    slow_share: Share = 0.0
    deaf_share: Share = 0.0


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "faults.json"


def drawn(script: Script[SomeFaults], count: int = 1000) -> list[str | None]:
    return [script.draw() for _ in range(count)]


@pytest.mark.parametrize("named", [True, False])
def test_without_a_file_nothing_goes_wrong(file: Path, named: bool) -> None:
    assert set(drawn(Script(SomeFaults, file if named else None))) == {None}


def test_each_kind_meets_its_share_and_no_two_meet(file: Path) -> None:
    SomeFaults(slow_share=0.5, deaf_share=0.25).write(file)
    met = drawn(Script(SomeFaults, file))
    assert met.count("slow") == pytest.approx(500, abs=60)
    assert met.count("deaf") == pytest.approx(250, abs=60)


def test_the_same_seed_draws_the_same_and_another_one_does_not(file: Path) -> None:
    runs = []
    for seed in (7, 7, 8):
        SomeFaults(slow_share=0.5, seed=seed).write(file)
        runs.append(drawn(Script(SomeFaults, file)))
    assert runs[0] == runs[1] != runs[2]


def test_what_changes_counts_from_the_next_draw_on(file: Path) -> None:
    script = Script(SomeFaults, file)
    assert script.draw() is None
    SomeFaults(slow_share=1.0).write(file)
    assert script.draw() == "slow"
    SomeFaults(deaf_share=1.0).write(file)
    assert script.draw() == "deaf"
    file.unlink()
    assert script.draw() is None


def test_a_kind_that_is_not_asked_for_is_not_drawn(file: Path) -> None:
    SomeFaults(slow_share=1.0).write(file)
    assert Script(SomeFaults, file).draw("deaf") is None


@pytest.mark.parametrize(
    "shares", [{"slow_share": 1.5}, {"slow_share": -0.1}, {"slow_share": 0.6, "deaf_share": 0.6}, {"unheard_of": 0.1}]
)
def test_what_can_not_be_asked_for_is_refused_before_it_is_written(shares: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        SomeFaults.model_validate(shares)
