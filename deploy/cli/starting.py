"""What commands that start a mesh of their own have in common."""

import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

from deploy.cli.running import Exit, fail
from deploy.replay.jurisdiction import KEYS
from shared.bus.access import KafkaAccess
from shared.bus.admin import AppliedTopic, apply_topics
from shared.jurisdiction import load_jurisdiction

LOCAL_PARTITIONS = 6


def topics_of(folder: Path) -> Callable[[KafkaAccess, int], Awaitable[list[AppliedTopic]]]:
    """What LocalMesh calls to lay out the topics of a jurisdiction's folder."""

    async def apply(kafka: KafkaAccess, replication: int) -> list[AppliedTopic]:
        agencies = list(load_jurisdiction(folder).agencies)
        return await apply_topics(kafka, agencies, partitions=LOCAL_PARTITIONS, replication=replication)

    return apply


def clear(directory: Path) -> None:
    """Remove what an earlier replay left, which would answer in the new one's place; never anything else."""
    if directory.is_dir() and any(directory.iterdir()) and not (directory / "jurisdiction" / KEYS).exists():
        fail(Exit.CONFIGURATION, f"{directory} holds something else than a mesh's data; name another --dir")
    shutil.rmtree(directory, ignore_errors=True)
