"""Events from agencies in, verdicts out. The same for every door, and the same again for a batch that comes twice."""

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass

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
from services.intake.reference import reference_of
from services.intake.validation import Refused
from shared.bus.port import Publication
from shared.clock import Clock
from shared.contract import topics
from shared.contract.events import Problem, RequestAccepted, RequestUpdated
from shared.contract.reasons import Reason
from shared.ids import request_id
from shared.store.port import Change, Collection, Document, StoreUnavailable

MAX_TRIES = 10


@dataclass(frozen=True, slots=True)
class Intake:
    """Decides batches of received events. Every step may be repeated from any point to the same effect."""

    claims: Collection
    requests: Collection
    references: Collection
    clock: Clock
    reference_secret: bytes

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
        references = await self._references(set(keys.values()))
        accepted_at = self.clock.now()
        proposed: dict[str, RequestState] = {}
        for index, event in pending:
            if keys[index] not in proposed:
                proposed[keys[index]] = open_request(
                    batch[index],
                    event,
                    request_id=request_id(batch[index].agency, event.data.agency_reference, accepted_at),
                    reference=references[keys[index]],
                    timeline=claims[index].timeline.at(accepted=accepted_at),
                )
        rows = await self.requests.insert_new({key: Document(state.to_json()) for key, state in proposed.items()})
        standing = {key: RequestState.from_json(row.body) for key, row in rows.items()}
        refusals: dict[int, Problem] = {}
        decided: set[str] = set(standing)
        for index, event in pending:
            key = keys[index]
            state = standing.get(key) or proposed[key]
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
        rows = await self.requests.get_many(set(keys.values()))
        unknown = {index for index, key in keys.items() if key not in rows}
        claims = await self._claim(batch, changes, verdicts, unknown=unknown)
        pending = [(index, event) for index, event in changes if index in claims]
        refusals: dict[int, Problem] = {}
        for _ in range(MAX_TRIES):
            states = {key: RequestState.from_json(row.body) for key, row in rows.items()}
            before = dict(states)
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
                key: Change(rows[key].version, states[key].to_json()) for key in rows if states[key] != before[key]
            }
            won = await self.requests.compare_and_set(altered) if altered else set()
            # Another replica changed these in between, or knew a request that was not there yet when they were read.
            again = (altered.keys() - won) | ({keys[index] for index, _ in pending} - rows.keys())
            verdicts.update({index: verdict for index, verdict in decided.items() if keys[index] not in again})
            refusals.update({index: problem for index, problem in refused.items() if keys[index] not in again})
            pending = [(index, event) for index, event in pending if keys[index] in again]
            if not pending:
                break
            rows = await self.requests.get_many(again)
        if pending:
            raise StoreUnavailable(f"{len(pending)} requests kept changing under {MAX_TRIES} tries")
        await self._reject(batch, refusals, claims, verdicts)

    async def _references(self, keys: set[str]) -> dict[str, str]:
        """A reference for each request; the same on every delivery, and never one that another request has."""
        found: dict[str, str] = {}
        wanting = sorted(keys)
        for attempt in range(MAX_TRIES):
            candidates = {reference_of(one, self.reference_secret, attempt): one for one in wanting}
            standing = await self.references.insert_new(
                {key: Document(one.encode()) for key, one in candidates.items()}
            )
            owners = candidates | {key: row.body.decode() for key, row in standing.items()}
            found.update({owners[key]: key for key, one in candidates.items() if owners[key] == one})
            wanting = [one for one in wanting if one not in found]
            if not wanting:
                return found
        raise RuntimeError(f"no free reference for {len(wanting)} requests after {MAX_TRIES} attempts")

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
