"""A batch of events into counters, histograms and the view of open requests."""

from collections.abc import Mapping, Sequence
from datetime import tzinfo

from services.metrics.domain import RequestState, observation
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
    events = [(seen, incoming.event) for incoming in batch if (seen := observation(incoming.event)) is not None]
    rows = await requests.get_many({seen.row_key for seen, _ in events})
    before = {key: RequestState.from_json(row.body) for key, row in rows.items()}
    after = dict(before)
    for seen, event in events:
        state = after.get(seen.row_key, NOTHING_SEEN)
        taken_in = state.after(event, timezone)
        if taken_in is not state:
            tally.count(event.id, seen)
            after[seen.row_key] = taken_in
    for key, state in after.items():
        was = before.get(key, NOTHING_SEEN)
        tally.count_promise(key, was, state)
        open_requests.move(key, was, state)
    await _write({key: state for key, state in after.items() if state is not before.get(key)}, rows, requests)
    tally.written((event.id for _, event in events), after)
    open_requests.written(after)
    return []


async def _write(states: Mapping[str, RequestState], rows: Mapping[str, Row], requests: Collection) -> None:
    new = {key: Document(state.to_json(), state.open_since) for key, state in states.items() if key not in rows}
    changes = {
        key: Change(rows[key].version, state.to_json(), state.open_since)
        for key, state in states.items()
        if key in rows
    }
    overtaken = set(await requests.insert_new(new)) if new else set()
    if changes:
        overtaken |= changes.keys() - await requests.compare_and_set(changes)
    if overtaken:
        raise Unavailable(f"{len(overtaken)} requests were changed by another replica meanwhile")
