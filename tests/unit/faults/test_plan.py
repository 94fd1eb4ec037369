"""Which faults come is drawn by the seed alone."""

from collections import Counter
from itertools import islice

import pytest

from deploy.faults.plan import FAILPOINTS, MESH_KINDS, PROVIDER_KINDS, Kind, Lane, each_once, plan, sweep
from deploy.local.state import service_of
from shared.failpoints import Action, Point, parse_failpoints

SEEDS = range(20)


@pytest.mark.parametrize("lane", Lane)
def test_the_same_seed_draws_the_same_faults_and_another_one_others(lane: Lane) -> None:
    assert list(islice(plan(7, lane), 200)) == list(islice(plan(7, lane), 200))
    assert list(islice(plan(7, lane), 200)) != list(islice(plan(8, lane), 200))


@pytest.mark.parametrize(("lane", "kinds"), [(Lane.MESH, MESH_KINDS), (Lane.PROVIDERS, PROVIDER_KINDS)])
@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_comes_before_the_deck_is_shuffled_anew(lane: Lane, kinds: tuple[Kind, ...], seed: int) -> None:
    drawn = Counter(fault.kind for fault in islice(plan(seed, lane), 20))
    assert set(drawn) == set(kinds)


def test_each_kind_belongs_to_one_lane() -> None:
    assert {*MESH_KINDS, *PROVIDER_KINDS} == set(Kind)
    assert not set(MESH_KINDS) & set(PROVIDER_KINDS)


def test_the_sweep_kills_every_service_at_every_point_that_it_passes() -> None:
    swept = sorted((service_of(fault.target), fault.failpoints) for lane in sweep() for fault in lane)
    assert swept == sorted((service, f"{point}:kill") for service, points in FAILPOINTS.items() for point in points)
    assert {point for points in FAILPOINTS.values() for point in points} == set(Point)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_a_process_is_told_is_a_failpoint_that_its_service_passes(seed: int) -> None:
    for fault in islice(plan(seed, Lane.MESH), 100):
        if fault.failpoints:
            failpoints = parse_failpoints(fault.failpoints)
            assert any(failpoints.armed(point) for point in FAILPOINTS[fault.target])
            assert (Action.KILL in fault.failpoints) == (fault.kind is Kind.KILLED_AT_FAILPOINT)


def test_each_once_is_each_once() -> None:
    assert [fault.kind for fault in each_once(7, MESH_KINDS)] == list(MESH_KINDS)
