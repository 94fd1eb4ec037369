"""A publisher whose topics are lists."""

from collections.abc import Sequence

from shared.bus.port import Publication, Unavailable
from shared.ids import partition_of
from tests.fakes.fates import Ending, Fate, Fates


class MemoryPublisher:
    """A Publisher whose topics are lists. Every topic has the same number of partitions."""

    def __init__(self, partitions: int = 6, fates: Fates | None = None) -> None:
        self.partitions = partitions
        self.published: list[Publication] = []
        self._fates = fates or Fates()
        self._broken: Fate | None = None

    async def publish(self, publications: Sequence[Publication]) -> None:
        """See Publisher.publish."""
        if self._broken is not None:
            self._fates.foretell(self._broken)
        async with self._fates.meet(publications, Unavailable) as written:
            self.published.extend(written)

    def break_down(self, after: int | None = 0) -> None:
        """From now on write the first `after` publications of a call (None: all), then fail."""
        self._broken = Fate(Ending.FAILED, done=after)

    def mend(self) -> None:
        """From now on work again."""
        self._broken = None

    def records(self, topic: str) -> list[tuple[int, bytes, bytes]]:
        """Partition, key and value of all that stands on a topic, in order per partition."""
        return [
            (partition_of(publication.key.encode(), self.partitions), publication.key.encode(), publication.value)
            for publication in self.published
            if publication.topic.name == topic
        ]
