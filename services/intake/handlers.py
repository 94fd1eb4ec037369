"""Events from agencies in, verdicts out. The same for every door, and the same again for a batch that comes twice."""

from collections.abc import Awaitable, Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from msgspec.structs import replace

from services.intake.agency_event import AgencyEvent, StatusChange, Submission
from services.intake.domain import (
    Claim,
    Received,
    RequestState,
    Verdict,
    change,
    digest,
    index_of,
    open_request,
    own_key,
    reject,
    updated_event,
)
from services.intake.validation import Refused
from shared.bus.port import Publication
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import Problem, RequestAccepted, RequestUpdated
from shared.contract.reasons import Reason
from shared.ids import request_id
from shared.store.port import Change, Collection, Document, Row, StoreUnavailable

MAX_TRIES = 10

Candidates = Callable[[Iterable[str], int], Awaitable[dict[str, str]]]
"""The reference that each of these requests, named by own keys, may have at an attempt."""


@dataclass(frozen=True, slots=True)
class Intake:
    """Decides batches of received events. Every step may be repeated from any point to the same effect.

    A request is kept under its reference: its first candidate under which no other request stood before it. Rows are
    never taken away, so whoever looks for it by the same candidates finds it there.
    """

    claims: Collection
    requests: Collection
    clock: Clock
    candidates: Candidates

    async def decide(self, batch: Sequence[Received]) -> list[Verdict]:
        """One verdict for each event, in order. What an event id stood for first, it stands for.

        Submissions are decided before changes, so a change finds the request that its own batch brings.
        """
        verdicts: dict[int, Verdict] = {}
        submissions: list[tuple[int, Submission]] = []
        changes: list[tuple[int, StatusChange]] = []
        for index, received in enumerate(batch):
            event = received.event
            if isinstance(event, Refused):
                verdicts[index] = reject(received, event.problems)
            elif isinstance(event, Submission):
                submissions.append((index, event))
            else:
                changes.append((index, event))
        if submissions:
            await self._submit(batch, submissions, verdicts)
        if changes:
            await self._change(batch, changes, verdicts)
        return [verdicts[index] for index in range(len(batch))]

    async def find(self, agency: str, agency_reference: str) -> RequestState | None:
        """The request that an agency knows by this number of its own; None if it submitted none."""
        key = own_key(agency, agency_reference)
        row_and_state = (await self._standing([key])).get(key)
        return row_and_state[1] if row_and_state else None

    async def _claim(
        self,
        batch: Sequence[Received],
        events: Sequence[tuple[int, AgencyEvent]],
        verdicts: dict[int, Verdict],
        *,
        unknown: Container[int] = (),
    ) -> dict[int, Claim]:
        """Bind each event id to its body; what stood before stands. Returns the claims of what is still to be decided.

        `unknown` are changes to requests that nobody submitted. That is part of the claim, for the request may come
        at any moment: of two replicas with the same change, the first one's answer is both's.
        """
        keys = {index: own_key(batch[index].agency, event.id) for index, event in events}
        digests = {index: digest(event) for index, event in events}
        proposed: dict[str, Claim] = {}
        for index, key in keys.items():
            if key not in proposed:
                received = batch[index]
                proposed[key] = Claim(
                    digest=digests[index],
                    timeline=received.timeline,
                    door=received.door,
                    origin=received.origin,
                    rejected=_UNKNOWN if index in unknown else None,
                )
        rows = await self.claims.insert_new({key: Document(claim.to_json()) for key, claim in proposed.items()})
        claims = proposed | {key: Claim.from_json(row.body) for key, row in rows.items()}
        undecided: dict[int, Claim] = {}
        for index, key in keys.items():
            claim = claims[key]
            if claim.digest != digests[index]:
                verdicts[index] = reject(batch[index], (_REUSED,))
            elif claim.rejected is not None:
                verdicts[index] = reject(batch[index], (claim.rejected,), claim=claim)
            else:
                undecided[index] = claim
        return undecided

    async def _submit(
        self,
        batch: Sequence[Received],
        submissions: Sequence[tuple[int, Submission]],
        verdicts: dict[int, Verdict],
    ) -> None:
        claims = await self._claim(batch, submissions, verdicts)
        pending = [(index, event) for index, event in submissions if index in claims]
        if not pending:
            return
        keys = {index: own_key(batch[index].agency, event.data.agency_reference) for index, event in pending}
        accepted_at = self.clock.now()
        openings: dict[str, Callable[[str], RequestState]] = {}
        for index, event in pending:
            if keys[index] not in openings:
                openings[keys[index]] = partial(
                    open_request,
                    batch[index],
                    event,
                    request_id=request_id(batch[index].agency, event.data.agency_reference, accepted_at),
                    timeline=claims[index].timeline.at(accepted=accepted_at),
                )
        states, decided = await self._open(openings)
        refusals: dict[int, Problem] = {}
        for index, event in pending:
            key = keys[index]
            state = states[key]
            if state.opened_by == event.id:
                verdicts[index] = Verdict(batch[index], "accepted", state.accepted, repeated=key in decided)
                decided.add(key)
            else:
                refusals[index] = _duplicate(state)
        await self._reject(batch, refusals, claims, verdicts)

    async def _change(
        self,
        batch: Sequence[Received],
        changes: Sequence[tuple[int, StatusChange]],
        verdicts: dict[int, Verdict],
    ) -> None:
        keys = {index: own_key(batch[index].agency, event.data.agency_reference) for index, event in changes}
        standing = await self._standing(keys.values())
        unknown = {index for index, key in keys.items() if key not in standing}
        claims = await self._claim(batch, changes, verdicts, unknown=unknown)
        pending = [(index, event) for index, event in changes if index in claims]
        refusals: dict[int, Problem] = {}
        for _ in range(MAX_TRIES):
            states = {key: state for key, (_, state) in standing.items()}
            decided: dict[int, Verdict] = {}
            refused: dict[int, Problem] = {}
            updated_at = self.clock.now()
            for index, event in pending:
                state = states.get(keys[index])
                if state is None:
                    continue
                place = index_of(state, event.id)
                repeated = place is not None
                if place is None:
                    following = change(state, event, claims[index].timeline.at(updated=updated_at))
                    if isinstance(following, Problem):
                        refused[index] = following
                        continue
                    states[keys[index]] = state = following
                    place = len(state.changes) - 1
                decided[index] = Verdict(batch[index], "updated", updated_event(state, place), repeated=repeated)
            altered = {
                row.key: Change(row.version, states[key].to_json())
                for key, (row, before) in standing.items()
                if states[key] is not before
            }
            won = await self.requests.compare_and_set(altered) if altered else set()
            # Another replica changed these in between, or knew a request that was not there yet when they were read.
            lost = altered.keys() - won
            again = {key for key, (row, _) in standing.items() if row.key in lost}
            again |= {keys[index] for index, _ in pending} - standing.keys()
            verdicts.update({index: verdict for index, verdict in decided.items() if keys[index] not in again})
            refusals.update({index: problem for index, problem in refused.items() if keys[index] not in again})
            pending = [(index, event) for index, event in pending if keys[index] in again]
            if not pending:
                break
            standing = await self._standing(again)
        if pending:
            raise StoreUnavailable(f"{len(pending)} requests kept changing under {MAX_TRIES} tries")
        await self._reject(batch, refusals, claims, verdicts)

    async def _open(
        self, openings: Mapping[str, Callable[[str], RequestState]]
    ) -> tuple[dict[str, RequestState], set[str]]:
        """The state of each request by its own key, and which of them stood before; the others are opened."""
        states: dict[str, RequestState] = {}
        stood: set[str] = set()
        for attempt in range(MAX_TRIES):
            references = await self.candidates([key for key in openings if key not in states], attempt)
            proposed = {reference: openings[key](reference) for key, reference in references.items()}
            rows = await self.requests.insert_new(
                {reference: Document(state.to_json()) for reference, state in proposed.items()}
            )
            under = proposed | {reference: RequestState.from_json(row.body) for reference, row in rows.items()}
            for key, reference in references.items():
                if under[reference].own_key == key:
                    states[key] = under[reference]
                    if reference in rows:
                        stood.add(key)
            if len(states) == len(openings):
                return states, stood
        raise RuntimeError(f"no free reference for {len(openings) - len(states)} requests after {MAX_TRIES} attempts")

    async def _standing(self, keys: Iterable[str]) -> dict[str, tuple[Row, RequestState]]:
        """The rows of the requests there are, by own key. Behind a candidate that is free there is none."""
        found: dict[str, tuple[Row, RequestState]] = {}
        wanting = set(keys)
        for attempt in range(MAX_TRIES):
            references = await self.candidates(wanting, attempt)
            rows = await self.requests.get_many(set(references.values()))
            under = {reference: (row, RequestState.from_json(row.body)) for reference, row in rows.items()}
            wanting = {key for key, reference in references.items() if reference in under}
            found |= {key: under[references[key]] for key in wanting if under[references[key]][1].own_key == key}
            wanting -= found.keys()
            if not wanting:
                break
        return found

    async def _reject(
        self,
        batch: Sequence[Received],
        refusals: Mapping[int, Problem],
        claims: Mapping[int, Claim],
        verdicts: dict[int, Verdict],
    ) -> None:
        """Reject for what stood before, and keep that: what stands may change, the answer may not."""
        if not refusals:
            return
        keys = {index: own_key(batch[index].agency, batch[index].event_id or "") for index in refusals}
        final: dict[str, Claim] = {}
        for index, problem in refusals.items():
            final.setdefault(keys[index], replace(claims[index], rejected=problem))
        won = await self.claims.compare_and_set({key: Change(1, claim.to_json()) for key, claim in final.items()})
        if lost := final.keys() - won:
            rows = await self.claims.get_many(lost)
            final.update({key: Claim.from_json(row.body) for key, row in rows.items()})
        for index, problem in refusals.items():
            claim = final[keys[index]]
            verdicts[index] = reject(batch[index], (claim.rejected or problem,), claim=claim)


def publication(verdict: Verdict) -> Publication:
    """The event that tells the mesh, or the agency, of a verdict."""
    event = verdict.event
    if isinstance(event, RequestAccepted):
        return Publication(topics.ACCEPTED, event.data.request.request_id, event.to_json())
    if isinstance(event, RequestUpdated):
        return Publication(topics.UPDATED, event.data.request.request_id, event.to_json())
    received = verdict.received
    return Publication(
        topics.REJECTED, own_key(received.agency, received.event_id or received.fingerprint), event.to_json()
    )


def _duplicate(state: RequestState) -> Problem:
    detail = f"this agency_reference was submitted before, by event {state.opened_by}"
    return Problem(reason=Reason.DUPLICATE_REQUEST, detail=detail, field="data.agency_reference")


_REUSED = Problem(
    reason=Reason.EVENT_ID_REUSED,
    detail="this event id was used before, for an event that says something else",
    field="id",
)
_UNKNOWN = Problem(
    reason=Reason.UNKNOWN_REQUEST,
    detail="no request was submitted under this agency_reference",
    field="data.agency_reference",
)
