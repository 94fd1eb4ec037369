"""What follows from what was decided of a notification: it is saved and counted, the mesh is told of it from the
outbox of its row, and a failed one is followed by one on the citizen's other channel."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime

from services.notify import domain
from services.notify.domain import Notification
from services.notify.ledger import Held, Ledger
from shared.bus.port import Publication, Publisher, Unavailable
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import Channel
from shared.failpoints import NONE, Failpoints, Point
from shared.log import get_logger
from shared.metrics import NotifyMetrics
from shared.store.port import StoreUnavailable

log = get_logger(__name__)


def announcements(notification: Notification) -> list[Publication]:
    """The outcome events in a notification's outbox."""
    return [Publication(topics.OUTCOME, notification.request_id, event.encode()) for event in notification.outbox]


def count(metrics: NotifyMetrics, channel: Channel | None, reached: Iterable[Notification]) -> None:
    """Count notifications of a channel that have come to the status in which they are."""
    for status, times in Counter(each.status for each in reached).items():
        metrics.notifications.labels(channel or "none", status).inc(times)


class Outcomes:
    """What follows for the notifications of one channel. `other` is the ledger of the other one."""

    def __init__(
        self,
        channel: Channel,
        *,
        ledger: Ledger,
        other: Ledger,
        publisher: Publisher,
        clock: Clock,
        metrics: NotifyMetrics,
        failpoints: Failpoints = NONE,
    ) -> None:
        self._channel = channel
        self._ledger = ledger
        self._other = other
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._failpoints = failpoints

    async def save(self, moved: Sequence[Held], now: datetime) -> list[Held]:
        """Save what has come to another status, and count it. As Ledger.save: those that were written."""
        saved = await self._ledger.save(moved, now)
        count(self._metrics, self._channel, (held.notification for held in saved))
        return saved

    async def announce(self, untold: Sequence[Held]) -> None:
        """Plan the fallbacks that are owed, publish what stands in the outboxes, then note that it is done.

        Each of it may be done twice without harm. What fails here comes up again by its due time.
        """
        if not untold:
            return
        try:
            await self._failpoints.reach(Point.SENT, Unavailable)
            await self._fall_back([held.notification for held in untold if held.notification.owes_fallback])
            await self._publisher.publish([each for held in untold for each in announcements(held.notification)])
            done = [Held(domain.published(held.notification), held.version, held.due) for held in untold]
            await self._ledger.told(done, self._clock.now())
        except (Unavailable, StoreUnavailable) as error:
            log.warning("outcomes are announced later", detail=str(error))

    async def _fall_back(self, failed: Sequence[Notification]) -> None:
        if not failed:
            return
        planned = [domain.fallback(each, self._clock.now()) for each in failed]
        standing = await self._other.add(planned)
        count(self._metrics, planned[0].channel, (each for each in planned if each.id not in standing))
