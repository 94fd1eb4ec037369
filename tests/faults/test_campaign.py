"""The short campaign: every service killed at every failpoint, and what has no row of its own, on a whole mesh."""

from pathlib import Path

from deploy.check.checks import CHECKERS
from deploy.faults.campaign import FEW_KINDS, run_campaign, short_programme
from deploy.faults.plan import PROVIDER_KINDS, Kind, sweep
from deploy.faults.report import as_report
from deploy.jurisdictions import DJIBOUTI
from shared.bus.access import KafkaAccess
from shared.bus.admin import apply_topics
from shared.jurisdiction import load_jurisdiction

SEED = 7
REQUESTS_PER_SECOND = 6.0


async def test_a_mesh_that_fails_at_every_failpoint_and_provider_loses_nothing_and_doubles_nothing(
    tmp_path: Path,
) -> None:
    async def topics(kafka: KafkaAccess, replication: int) -> None:
        agencies = list(load_jurisdiction(DJIBOUTI).agencies)
        await apply_topics(kafka, agencies, partitions=6, replication=replication)

    programme = short_programme(SEED, REQUESTS_PER_SECOND)
    campaign = await run_campaign(programme, tmp_path, topics, tell=print)
    report = as_report(campaign)

    assert report["findings"] == []
    assert report["not_reached"] == []
    assert set(report["faults"]) == {Kind.KILLED_AT_FAILPOINT, *FEW_KINDS, *PROVIDER_KINDS}
    assert report["faults"][Kind.KILLED_AT_FAILPOINT] == sum(map(len, sweep()))
    assert report["accepted"] > 0
    assert report["seeded_bugs"] == {checker.id: True for checker in CHECKERS}
