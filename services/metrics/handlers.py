"""A batch of events into counters, histograms and the view of open requests."""

from collections.abc import Sequence
from datetime import tzinfo

from services.metrics.domain import RequestState, row_key
from services.metrics.open_requests import OpenRequests
from services.metrics.tally import Tally
from shared.bus.port import Incoming, Publication, Unavailable
from shared.contract.events import Event
from shared.store.port import Change, Collection, Document, Row

NOTHING_SEEN = RequestState()


async def observe(
    batch: Sequence[Incoming[Event]],
    *,
    requests: Collection,
    open_requests: OpenRequests,
    tally: Tally,
    timezone: tzinfo,
) -> list[Publication]:
    """Count each event once, however often it comes, and remember where its request stands. Publishes nothing.

    One read and at most two writes for the whole batch. Raises Unavailable when another replica has changed one of
    the rows meanwhile; the batch then comes again and finds the row as it is.
    """
    events = [(key, incoming.event) for incoming in batch if (key := row_key(incoming.event)) is not None]
    rows = await requests.get_many({key for key, _ in events})
    states = {key: RequestState.from_json(row.body) for key, row in rows.items()}
    changed: dict[str, RequestState] = {}
    for key, event in events:
        before = states.get(key, NOTHING_SEEN)
        if before.has_counted(event):
            continue
        after = before.after(event, timezone)
        tally.count(event, before, after)
        if (after.is_open, after.office) != (before.is_open, before.office):
            open_requests.put(key, after)
        states[key] = changed[key] = after
    await _write(changed, rows, requests, timezone)
    tally.written((event for _, event in events), states)
    return []


async def _write(states: dict[str, RequestState], rows: dict[str, Row], requests: Collection, timezone: tzinfo) -> None:
    new = {key: Document(state.to_json(), state.wake_at(timezone)) for key, state in states.items() if key not in rows}
    changes = {
        key: Change(rows[key].version, state.to_json(), state.wake_at(timezone))
        for key, state in states.items()
        if key in rows
    }
    overtaken = set(await requests.insert_new(new)) if new else set()
    if changes:
        overtaken |= changes.keys() - await requests.compare_and_set(changes)
    if overtaken:
        raise Unavailable(f"{len(overtaken)} requests were changed by another replica meanwhile")
