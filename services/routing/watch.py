"""Tells the mesh of the requests that were still open when their due date had ended."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Final

from services.routing.domain import Calendar
from services.routing.handlers import SOURCE, comes_up
from shared.bus.port import Publication, Publisher, Unavailable
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import RequestAssigned, RequestOverdue, RequestOverdueData
from shared.ids import event_id
from shared.log import get_logger
from shared.store.port import Change, Collection, Row, StoreUnavailable

EVERY_SECONDS: Final = 30.0
AT_ONCE_MAX: Final = 500
LEASE: Final = timedelta(minutes=2)

log = get_logger(__name__)


class OverdueWatch:
    """Looks again and again for decisions whose due date has ended.

    `read_up` returns once all is done that stands on `requests.updated`, and raises Unavailable where that is not so in
    time: else a request whose answer still waits to be read would be called overdue.
    """

    def __init__(
        self,
        *,
        decisions: Collection,
        closed: Collection,
        read_up: Callable[[], Awaitable[None]],
        calendar: Calendar,
        publisher: Publisher,
        clock: Clock,
    ) -> None:
        self._decisions = decisions
        self._closed = closed
        self._read_up = read_up
        self._calendar = calendar
        self._publisher = publisher
        self._clock = clock

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            taken_up = 0
            try:
                taken_up = await self.look()
            except (Unavailable, StoreUnavailable) as error:
                log.warning("due dates are looked at later", detail=str(error))
            if taken_up < AT_ONCE_MAX:
                await asyncio.sleep(EVERY_SECONDS)

    async def look(self) -> int:
        """Take up decisions whose due date has ended, tell of those whose request is open; how many were taken up.

        Whatever fails here comes up again by its lease, and is told again in the same bytes.
        """
        rows = await self._decisions.take_due(self._clock.now(), limit=AT_ONCE_MAX, lease=LEASE)
        if not rows:
            return 0
        await self._read_up()
        closed = await self._closed.get_many([row.key for row in rows])
        await self._publisher.publish([self._publication(row) for row in rows if row.key not in closed])
        await self._decisions.compare_and_set({row.key: Change(row.version, row.body) for row in rows})
        return len(rows)

    def _publication(self, row: Row) -> Publication:
        event = overdue_event(RequestAssigned.from_json(row.body), self._calendar)
        return Publication(topics.OVERDUE, row.key, event.to_json())


def overdue_event(assigned: RequestAssigned, calendar: Calendar) -> RequestOverdue:
    """The event that tells that a request is overdue. All of it follows from the decision."""
    decision = assigned.data
    return RequestOverdue(
        id=event_id(assigned.id, RequestOverdue.TYPE),
        source=SOURCE,
        subject=decision.request.request_id,
        time=comes_up(assigned, calendar),
        causationid=assigned.id,
        data=RequestOverdueData(
            request=decision.request, office=decision.office, due=decision.due, timeline=decision.timeline
        ),
    )
