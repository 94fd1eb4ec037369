import pytest

from benchmarks.harness.rounds import Contender, Figures, Rounds, interleaved


def scripted(name: str, rates: list[float], order: list[str]) -> Contender:
    left = iter(rates)

    async def run() -> Figures:
        order.append(name)
        return {"per_second": next(left)}

    return run


async def test_contenders_alternate_and_every_second_round_goes_backwards() -> None:
    order: list[str] = []
    contenders = {name: scripted(name, [1, 1, 1], order) for name in ("a", "b", "c")}
    await interleaved(contenders, 3, say=lambda _: None)
    assert order == ["a", "b", "c", "c", "b", "a", "a", "b", "c"]


async def test_a_ratio_is_taken_within_each_round_so_that_a_slow_round_weighs_on_both() -> None:
    order: list[str] = []
    contenders = {"mine": scripted("mine", [200, 20, 230], order), "other": scripted("other", [100, 10, 100], order)}
    rounds = await interleaved(contenders, 3, say=lambda _: None)
    assert rounds.median("mine", "per_second") == 200
    assert rounds.ratio("mine", "other") == 2


async def test_a_contender_that_did_not_do_its_work_ends_the_benchmark() -> None:
    async def fails() -> Figures:
        raise RuntimeError("half of it is missing")

    with pytest.raises(RuntimeError, match="missing"):
        await interleaved({"fails": fails}, 1, say=lambda _: None)


def test_contenders_of_unequal_rounds_can_not_be_compared() -> None:
    rounds = Rounds({"mine": [{"per_second": 1.0}], "other": []})
    with pytest.raises(ValueError, match="shorter"):
        rounds.ratio("mine", "other")


async def test_who_runs_in_the_first_round_only_is_compared_with_that_round() -> None:
    order: list[str] = []
    contenders = {"slow": scripted("slow", [10], order), "other": scripted("other", [100, 200, 400], order)}
    rounds = await interleaved(contenders, 3, say=lambda _: None, first_round_only=["slow"])
    assert order == ["slow", "other", "other", "other"]
    assert rounds.ratio("other", "slow") == 10
