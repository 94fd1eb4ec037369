"""Stand-ins that keep the promise of their port; tests/contract holds them to it, beside the real parts."""

from collections.abc import Sequence

from shared.bus.port import Publication, Unavailable
from shared.ids import partition_of


class MemoryPublisher:
    """A Publisher whose topics are lists. Every topic has the same number of partitions."""

    def __init__(self, partitions: int = 6) -> None:
        self.partitions = partitions
        self.published: list[Publication] = []
        self._acknowledges: int | None = None

    async def publish(self, publications: Sequence[Publication]) -> None:
        """See Publisher.publish."""
        if self._acknowledges is None:
            self.published.extend(publications)
            return
        self.published.extend(publications[: self._acknowledges])
        raise Unavailable(f"only {self._acknowledges} were written")

    def break_down(self, after: int = 0) -> None:
        """From now on write the first `after` publications of a call, then fail."""
        self._acknowledges = after

    def mend(self) -> None:
        """From now on work again."""
        self._acknowledges = None

    def records(self, topic: str) -> list[tuple[int, bytes, bytes]]:
        """Partition, key and value of all that stands on a topic, in order per partition."""
        return [
            (partition_of(publication.key.encode(), self.partitions), publication.key.encode(), publication.value)
            for publication in self.published
            if publication.topic.name == topic
        ]
