"""Events of requests in, rows of the ledger out. Nothing here waits for a provider."""

import asyncio
from collections.abc import Mapping, Sequence

from services.notify import domain
from services.notify.domain import Notification
from services.notify.ledger import Ledger
from services.notify.outcomes import announcements, count
from services.notify.rendering import Templates
from shared.bus.port import Incoming, Publication
from shared.clock import Clock
from shared.contract.events import Channel, Event
from shared.jurisdiction import Jurisdiction
from shared.metrics import NotifyMetrics

Ledgers = Mapping[Channel | None, Ledger]
"""A ledger for each channel, so that none waits behind another's backlog; under None, for those nobody can reach."""


async def plan(
    batch: Sequence[Incoming[Event]],
    *,
    jurisdiction: Jurisdiction,
    templates: Templates,
    ledgers: Ledgers,
    clock: Clock,
    metrics: NotifyMetrics,
) -> list[Publication]:
    """Write down whom to tell what; publish only that somebody can't be told.

    A redelivered event plans nothing twice, and what was published of it is published again, to the byte.
    """
    now = clock.now()
    versions, policies = templates.versions, templates.policies
    planned: dict[Channel | None, dict[str, Notification]] = {channel: {} for channel in ledgers}
    for incoming in batch:
        notification = domain.plan(
            incoming.event, jurisdiction=jurisdiction, versions=versions, policies=policies, now=now
        )
        if notification is not None:
            planned[notification.channel].setdefault(notification.id, notification)
    planned = {channel: notifications for channel, notifications in planned.items() if notifications}
    # At once, so that a store that commits what waits together does so with these.
    added = await asyncio.gather(*(ledgers[channel].add(list(each.values())) for channel, each in planned.items()))
    publications: list[Publication] = []
    for (channel, notifications), standing in zip(planned.items(), added, strict=True):
        count(metrics, channel, (each for key, each in notifications.items() if key not in standing))
        if channel is None:
            for key, notification in notifications.items():
                publications += announcements(standing.get(key, notification))
    return publications
