"""Delivery receipts: kept before they are acknowledged, then matched to their notifications."""

import asyncio
import contextlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from datetime import timedelta
from enum import StrEnum
from typing import Final, NamedTuple

from msgspec.structs import replace

from services.notify import domain
from services.notify.domain import Notification, State, next_attempt, user_message_reference
from services.notify.ledger import Held, Ledger
from services.notify.outcomes import Outcomes, count
from shared.clock import Clock
from shared.contract.events import Channel, Moment, Part, Timed
from shared.log import get_logger
from shared.metrics import NotifyMetrics
from shared.store.port import Change, Collection, Document, Row, StoreUnavailable

LEASE: Final = timedelta(seconds=5)
IDLE_SECONDS: Final = 1.0
MATCHED_AT_ONCE_MAX: Final = 500

GATHER_SECONDS: Final = 0.1
"""How long a receipt that is kept waits for others to be matched with."""

log = get_logger(__name__)


class Match(StrEnum):
    """Whether a receipt has found its notification. An unmatched one has given up and is kept."""

    PENDING = "pending"
    MATCHED = "matched"
    UNMATCHED = "unmatched"


class Receipt(Timed, frozen=True, kw_only=True):
    """How one part of a message ended: delivered, or why not. `recipient` in E.164, if the receipt names it."""

    provider: str
    message_id: str
    failure: str | None = None
    received_at: Moment
    recipient: str | None = None
    user_message_reference: int | None = None
    match: Match = Match.PENDING

    @property
    def key(self) -> str:
        return _by_message_id(self.provider, self.message_id)


class Reference(Part, frozen=True, kw_only=True):
    """Whose message it is that the provider knows under some name, and at which of the attempts to send it."""

    notification: str
    recipient: str | None
    attempt: int = 1


class Spoken(NamedTuple):
    """A receipt whose notification is found, and the attempt that it is for."""

    row: Row
    receipt: Receipt
    attempt: int


class References:
    """Which notification a receipt speaks of: its id, by the provider's own id for each part.

    For a notification whose provider's answer was never read, by what we told the provider instead: the message's
    own 16 bits and its recipient. Some SMSCs name a message in hexadecimal when they take it and in decimal when it
    is delivered; that is believed only if the recipient is the same, too.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection

    async def keep(self, notifications: Sequence[Notification]) -> None:
        """Remember what receipts for these may say."""
        rows: dict[str, Document] = {}
        for each in notifications:
            reference = Reference(notification=each.id, recipient=each.recipient, attempt=each.attempts)
            rows |= dict.fromkeys(_reference_keys(each), Document(reference.to_json()))
        if rows:
            await self._collection.insert_new(rows)

    async def find(self, receipts: Sequence[Receipt]) -> dict[str, Reference]:
        """What each receipt speaks of for which that is known, by the receipt's key."""
        named = {receipt.key: _names(receipt) for receipt in receipts}
        rows = await self._collection.get_many({name for names in named.values() for name in names})
        standing = {key: Reference.from_json(row.body) for key, row in rows.items()}
        found: dict[str, Reference] = {}
        for receipt in receipts:
            names = named[receipt.key]
            meant = [standing[name] for name in names if name in standing]
            sure = [reference for reference in meant if reference.recipient == receipt.recipient]
            if sure or names[0] in standing:
                found[receipt.key] = (sure or meant)[0]
        return found


class Receipts:
    """Takes receipts in and works them off."""

    def __init__(
        self,
        *,
        collection: Collection,
        references: References,
        ledger: Ledger,
        outcomes: Outcomes,
        clock: Clock,
        metrics: NotifyMetrics,
    ) -> None:
        self._collection = collection
        self._references = references
        self._ledger = ledger
        self._outcomes = outcomes
        self._clock = clock
        self._metrics = metrics
        self._bell = asyncio.Event()

    async def accept(self, receipts: Sequence[Receipt]) -> None:
        """Keep them durably; one that is there already is the same again. StoreUnavailable if they are not kept."""
        rows = {receipt.key: Document(receipt.to_json(), due=receipt.received_at) for receipt in receipts}
        await self._collection.insert_new(rows)
        self._bell.set()

    async def run(self) -> None:
        """Match receipts until cancelled."""
        while True:
            self._bell.clear()
            taken = 0
            try:
                taken = await self.match()
            except StoreUnavailable as error:
                log.warning("receipts are matched later", detail=str(error))
            if taken < MATCHED_AT_ONCE_MAX:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(IDLE_SECONDS):
                        await self._bell.wait()
                await asyncio.sleep(GATHER_SECONDS)

    async def match(self) -> int:
        """Match what is due, once; how many that were.

        A receipt whose notification is not found, or is just being sent, comes again later, and is kept as unmatched
        in the end.
        """
        rows = await self._collection.take_due(self._clock.now(), limit=MATCHED_AT_ONCE_MAX, lease=LEASE)
        receipts = [Receipt.from_json(row.body) for row in rows]
        found = await self._references.find(receipts)
        standing = await self._ledger.get({reference.notification for reference in found.values()})
        spoken_of: dict[str, list[Spoken]] = defaultdict(list)
        early: list[tuple[Row, Receipt]] = []
        for row, receipt in zip(rows, receipts, strict=True):
            reference = found.get(receipt.key)
            held = standing.get(reference.notification) if reference else None
            if reference is None or held is None or not domain.takes_receipts(held.notification):
                early.append((row, receipt))
            else:
                spoken_of[held.notification.id].append(Spoken(row, receipt, reference.attempt))
        matched = await self._apply(standing, spoken_of)
        await self._close(matched, early)
        return len(rows)

    async def _apply(self, standing: dict[str, Held], spoken_of: dict[str, list[Spoken]]) -> list[tuple[Row, Receipt]]:
        """Write what the receipts say; those whose notification was changed by another meanwhile are not returned."""
        changed: list[Held] = []
        unchanged: set[str] = set()
        for key, parts in spoken_of.items():
            notification = standing[key].notification
            for _, receipt, attempt in parts:
                notification = domain.receipted(
                    notification,
                    receipt.received_at,
                    reference=receipt.message_id,
                    attempt=attempt,
                    failure=receipt.failure,
                )
            if notification is standing[key].notification:
                unchanged.add(key)
            else:
                changed.append(Held(notification, standing[key].version))
        saved = await self._ledger.save(changed, self._clock.now())
        reached = (
            held.notification
            for held in saved
            if held.notification.status is not standing[held.notification.id].notification.status
        )
        count(self._metrics, Channel.SMS, reached)
        await self._outcomes.announce([held for held in saved if held.notification.untold])
        done = unchanged | {held.notification.id for held in saved}
        return [(row, receipt) for key in done for row, receipt, _ in spoken_of[key]]

    async def _close(self, matched: Sequence[tuple[Row, Receipt]], early: Sequence[tuple[Row, Receipt]]) -> None:
        changes = {row.key: _change(row, receipt, Match.MATCHED) for row, receipt in matched}
        now = self._clock.now()
        for row, receipt in early:
            again = next_attempt(row.key, since=receipt.received_at, now=now)
            state = Match.UNMATCHED if again is None else Match.PENDING
            changes[row.key] = Change(row.version, replace(receipt, match=state).to_json(), due=again)
            if again is None:
                self._metrics.receipts.labels(receipt.provider, Match.UNMATCHED).inc()
        await self._collection.compare_and_set(changes)
        for provider, times in Counter(receipt.provider for _, receipt in matched).items():
            self._metrics.receipts.labels(provider, Match.MATCHED).inc(times)


def _change(row: Row, receipt: Receipt, match: Match) -> Change:
    return Change(row.version, replace(receipt, match=match).to_json())


def _reference_keys(notification: Notification) -> list[str]:
    provider = notification.provider or ""
    # An SMSC may name no id; that is no name to be found by.
    keys = [_by_message_id(provider, reference) for reference in notification.provider_references if reference]
    if notification.status is State.UNKNOWN and notification.channel is Channel.SMS:
        keys.append(_by_our_own(provider, user_message_reference(notification.id), notification.recipient or ""))
    return keys


def _names(receipt: Receipt) -> list[str]:
    """The keys under which its reference may stand, as it says itself first."""
    names = [_by_message_id(receipt.provider, receipt.message_id)]
    if receipt.message_id.isdecimal():
        names.append(_by_message_id(receipt.provider, f"{int(receipt.message_id):x}"))
    if receipt.user_message_reference is not None and receipt.recipient:
        names.append(_by_our_own(receipt.provider, receipt.user_message_reference, receipt.recipient))
    return names


def _by_message_id(provider: str, message_id: str) -> str:
    return f"{provider}/id/{message_id.lower().lstrip('0') or '0'}"


def _by_our_own(provider: str, reference: int, recipient: str) -> str:
    return f"{provider}/ours/{reference}/{recipient}"
