"""Telling the mesh what became of a notification, from the outbox of its row."""

from collections.abc import Sequence

from services.notify import domain
from services.notify.domain import Notification
from services.notify.ledger import Held, Ledger
from shared.bus.port import Publication, Publisher, Unavailable
from shared.clock import Clock
from shared.contract import topics
from shared.log import get_logger
from shared.store.port import StoreUnavailable

log = get_logger(__name__)


def announcements(notification: Notification) -> list[Publication]:
    """The outcome events in a notification's outbox."""
    return [Publication(topics.OUTCOME, notification.request_id, event.encode()) for event in notification.outbox]


async def announce(telling: Sequence[Held], *, ledger: Ledger, publisher: Publisher, clock: Clock) -> None:
    """Publish what stands in the outboxes, then empty them. What fails here comes up again by its due time."""
    if not telling:
        return
    try:
        await publisher.publish([each for held in telling for each in announcements(held.notification)])
        await ledger.save([Held(domain.published(held.notification), held.version) for held in telling], clock.now())
    except (Unavailable, StoreUnavailable) as error:
        log.warning("outcomes are announced later", detail=str(error))
