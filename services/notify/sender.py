"""Takes due notifications from a ledger, hands them to one of the channel's providers, and saves the answers."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache, partial
from typing import Any, Final, Generic, TypeVar, assert_never

from services.notify import domain
from services.notify.domain import Notification, State
from services.notify.lane import Lane
from services.notify.ledger import ANNOUNCE_LEASE, Held, Ledger
from services.notify.outcomes import Outcomes
from services.notify.pool import Pool
from services.notify.ports import (
    Answer,
    Composed,
    Declined,
    Later,
    M,
    Refused,
    Sent,
    ShortMessage,
    Unknown,
    Unsendable,
)
from services.notify.receipts import References
from shared.clock import Clock
from shared.failpoints import NONE, Failpoints, Point
from shared.log import get_logger
from shared.metrics import NotifyMetrics
from shared.store.port import StoreUnavailable

IDLE_SECONDS: Final = 0.5
"""How often a ledger is looked into when its bell does not ring: for retries, and for what others planned."""

ANSWER_SECONDS: Final = 30.0
"""The longest a provider may take over a message with all its parts. Shorter than the ledger's SENDING_LEASE."""

DRAIN_SECONDS: Final = 8.0
STORE_RETRY_SECONDS: Final = 0.5
SETTLED_AT_ONCE_MAX: Final = 500

GATHER_SECONDS: Final = 0.1
"""How long an answer waits for others to be saved with: a commit, and a publication, cost as much as many rows."""

TELLING_MAX: Final = 20
TOLD_SECONDS: Final = 0.5
"""How often it is seen to that what was told is written, before its row would come up again."""

NO_ROOM: Final = timedelta(seconds=1)
"""How long a message waits that only some providers may be given, when those have no room."""

_OUTCOME: Final = {
    Sent: "accepted",
    Refused: "refused",
    Declined: "declined",
    Later: "retry",
    Unknown: "unknown",
}

T = TypeVar("T")

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Begun(Generic[M]):
    """A row that durably says `sending`, and the message to send."""

    held: Held
    message: M


@dataclass(frozen=True, slots=True)
class Turn(Generic[M]):
    """What one look into the ledger brought: what is to be sent now, and what is settled but not yet told."""

    begun: list[Begun[M]]
    untold: list[Held]


@dataclass(frozen=True, slots=True)
class Answered:
    """What the provider said of a message, and when."""

    held: Held
    answer: Answer
    at: datetime


class Sender(Generic[M]):
    """Everything of one channel: its ledger and its providers, each with its own pace.

    The work flows: rows are taken as the providers have room and their rates allow, answers are saved in the batches in
    which they come, and no message waits for another. What a provider did not take goes to another one at once, by
    being planned anew; what nobody knows of goes to none before the receipt window has ended.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        lanes: Sequence[Lane[M]],
        compose: Callable[[Notification], Composed[M]],
        references: References,
        outcomes: Outcomes,
        receipt_window: timedelta,
        clock: Clock,
        metrics: NotifyMetrics,
        failpoints: Failpoints = NONE,
    ) -> None:
        self._ledger = ledger
        self._lanes: dict[str, Lane[M]] = {lane.provider.name: lane for lane in lanes}
        self._pool = Pool({name: lane.weight for name, lane in self._lanes.items()})
        self._compose: Callable[[Notification], Composed[M]] = compose
        self._references = references
        self._outcomes = outcomes
        self._receipt_window = receipt_window
        self._clock = clock
        self._metrics = metrics
        # For each message: finding a child by its labels costs more than counting.
        self._attempts = cache(metrics.attempts.labels)
        self._provider_seconds = cache(metrics.provider_seconds.labels)
        for lane in lanes:
            connected = metrics.provider_connected.labels(lane.provider.name)
            connected.set_function(partial(getattr, lane.provider, "connected"))
        self._failpoints = failpoints
        self._offers = asyncio.Event()
        self._answers: asyncio.Queue[Answered] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        """Send until cancelled; then wait a few seconds for the answers to what was handed over, and save them."""
        lanes = self._lanes.values()
        for lane in lanes:
            await lane.provider.start()
        settle_answers = asyncio.create_task(self._settle_answers())
        offering: list[asyncio.Task[None]] = [asyncio.create_task(lane.run(self._offers)) for lane in lanes]
        hand_over: list[asyncio.Task[None]] = [
            asyncio.create_task(self._hand_over()),
            asyncio.create_task(self._write_told()),
            *offering,
        ]
        try:
            done, _ = await asyncio.wait([settle_answers, *hand_over], return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            await self._wind_up(hand_over, settle_answers)

    async def begin(self, room: Mapping[str, int]) -> Turn[M]:
        """Take due rows and mark those to be sent, durably, before anything is handed over.

        The others are settled and only have to be told: what can't be written, what lost its sender, what was not
        told in time; or they are planned anew, once their receipt window has ended. `room`: how many messages each
        provider may be given.
        """
        now = self._clock.now()
        left = dict(room)
        ready: dict[str, M] = {}
        moved: list[Held] = []
        again: set[str] = set()
        untold: list[Held] = []
        for held in await self._ledger.take(now, sum(room.values())):
            notification = held.notification
            match notification.status:
                case State.PLANNED:
                    try:
                        composed = self._compose(notification)
                    except Unsendable as error:
                        moved.append(Held(domain.refused(notification, now, reason=str(error)), held.version))
                        continue
                    begun = self._begun(notification, composed, left, now)
                    if begun.status is State.SENDING:
                        ready[notification.id] = composed.message
                    moved.append(Held(begun, held.version))
                case State.SENDING:
                    moved.append(Held(self._lost_sight(notification, now, "sender_lost"), held.version))
                case State.UNKNOWN if domain.to_be_sent_again(notification, now):
                    moved.append(Held(domain.sent_again(notification, now), held.version))
                    again.add(notification.id)
                case _:
                    untold.append(held)
        lost = [held.notification for held in moved if held.notification.status is State.UNKNOWN]
        await self._references.keep(lost)
        saved = await self._outcomes.save(moved, now)
        self._warn_of_unknown(saved)
        for held in saved:
            if held.notification.id in again:
                self._metrics.resent.labels(held.notification.channel).inc()
        return Turn(
            begun=[Begun(held, ready[held.notification.id]) for held in saved if held.notification.id in ready],
            untold=untold + [held for held in saved if held.notification.untold],
        )

    async def settle(self, answered: Sequence[Answered]) -> None:
        """Save what the providers said, then tell it."""
        await self.announce(await self._saved(answered))

    async def announce(self, untold: Sequence[Held]) -> None:
        """Tell the mesh; what can't be told now comes up again."""
        await self._outcomes.announce(untold)

    async def _saved(self, answered: Sequence[Answered]) -> list[Held]:
        """Save what the providers said; what of it is now to be told."""
        now = self._clock.now()
        moved = [Held(self._after(each), each.held.version) for each in answered]
        # First, so that a crash in between leaves a row that its receipts can still find.
        async with self._failpoints.at(Point.ANSWERED, StoreUnavailable):
            await self._references.keep([held.notification for held in moved])
            saved = await self._outcomes.save(moved, now)
        self._warn_of_unknown(saved)
        return [held for held in saved if held.notification.untold]

    def _tell(self, untold: Sequence[Held]) -> None:
        """Begin to tell the mesh. What is too much to be told at once, as while Kafka is away, comes up again."""
        if untold and len(self._telling) < TELLING_MAX:
            task = self._start(self.announce(untold))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def hand_over(self, begun: Begun[M]) -> Answered:
        """The provider's answer to one message, in bounded time."""
        started = self._clock.monotonic()
        provider = self._lane(begun).provider
        try:
            async with asyncio.timeout(ANSWER_SECONDS), self._failpoints.at(Point.SENDING, RuntimeError):
                answer = await provider.send(begun.message)
        except TimeoutError:
            answer = Unknown("no_answer")
        except Exception:
            log.exception("a provider failed in a way of its own", provider=provider.name)
            answer = Unknown("provider_error")
        took_seconds = self._clock.monotonic() - started
        self._note(provider.name, answer, took_seconds)
        self._provider_seconds(provider.name).observe(took_seconds)
        self._attempts(provider.name, _OUTCOME[type(answer)]).inc()
        if isinstance(begun.message, ShortMessage):
            self._metrics.segments.inc(max(0, len(answer.references) - len(begun.message.accepted)))
        return Answered(begun.held, answer, self._clock.now())

    async def _hand_over(self) -> None:
        while True:
            room = await self._room()
            self._ledger.bell.clear()
            # A turn is finished even if we are cancelled: a row marked and not sent would end as unknown.
            taken = await asyncio.shield(self._start(self._turn(room)))
            if taken == 0:
                await _rung(self._ledger.bell)
            for name in room:
                self._lanes[name].close()

    async def _room(self) -> dict[str, int]:
        """How many messages each provider may be given, once there is one that may be given any."""
        while True:
            for lane in self._lanes.values():
                if lane.offered and not lane.provider.connected:
                    lane.withdraw()
            offered = {name: lane.offered for name, lane in self._lanes.items() if lane.offered}
            room = self._pool.room(offered, self._connected(), self._clock.monotonic())
            if room:
                return room
            self._offers.clear()
            # Time alone may let one be tried out that is left out now.
            await _rung(self._offers)

    async def _turn(self, room: Mapping[str, int]) -> int:
        turn: Turn[M] = Turn([], [])
        try:
            turn = await self.begin(room)
        except StoreUnavailable as error:
            log.warning("the ledger can't be read", providers=list(room), detail=str(error))
        for name in room:
            given = [each.held.notification for each in turn.begun if each.held.notification.provider == name]
            self._lanes[name].take(messages=len(given), segments=sum(max(1, each.segments) for each in given))
        for each in turn.begun:
            self._start(self._deliver(each))
        self._tell(turn.untold)
        return len(turn.begun)

    async def _deliver(self, begun: Begun[M]) -> None:
        answered = await self.hand_over(begun)
        self._lane(begun).answered()
        self._answers.put_nowait(answered)

    async def _settle_answers(self) -> None:
        while True:
            answered = await self._next_answers()
            while True:
                try:
                    # Told beside it: messages go on while Kafka is away.
                    self._tell(await self._saved(answered))
                    break
                except StoreUnavailable as error:
                    log.warning("answers can't be saved yet", providers=list(self._lanes), detail=str(error))
                    await asyncio.sleep(STORE_RETRY_SECONDS)
            for each in answered:
                self._lane(each).settled()
                self._answers.task_done()

    async def _next_answers(self) -> list[Answered]:
        """What comes within a moment of the first one, or before so many wait that less could be sent meanwhile."""
        enough = max(1, min(lane.provider.window for lane in self._lanes.values()) // 2)
        answered = [await self._answers.get()]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_SECONDS):
                while len(answered) < enough:
                    answered.append(await self._answers.get())
        while not self._answers.empty() and len(answered) < SETTLED_AT_ONCE_MAX:
            answered.append(self._answers.get_nowait())
        return answered

    async def _write_told(self) -> None:
        while True:
            await asyncio.sleep(TOLD_SECONDS)
            try:
                await self._ledger.write_told(self._clock.now())
            except StoreUnavailable as error:
                log.warning("what was told is told once more", providers=list(self._lanes), detail=str(error))

    def _begun(
        self, notification: Notification, composed: Composed[M], left: dict[str, int], now: datetime
    ) -> Notification:
        """It is handed to the provider whose turn it is, out of the room that is left, or put off."""
        allowed = domain.may_take(notification, self._lanes, template=composed.template)
        with_room = [name for name in allowed if left.get(name)]
        if with_room:
            provider = self._pool.choose(with_room, self._clock.monotonic())
            left[provider] -= 1
            return domain.begin(notification, template=composed.template, segments=composed.segments, provider=provider)
        if any(name in allowed for name in self._connected()):
            return domain.held_back(notification, now + NO_ROOM)
        return domain.postponed(notification, now, reason="no_provider", references=notification.provider_references)

    def _after(self, answered: Answered) -> Notification:
        notification, now = answered.held.notification, answered.at
        match answered.answer:
            case Sent(references):
                return domain.sent(notification, now, references=references)
            case Refused(reason):
                return domain.refused(notification, now, reason=reason)
            case Declined(reason, references):
                return domain.declined(notification, now, reason=reason, providers=self._lanes, references=references)
            case Later(reason, _, ()) if self._others(notification):
                return domain.switched(notification, now, reason=reason)
            case Later(reason, retry_after, references):
                return domain.postponed(
                    notification, now, reason=reason, retry_after=retry_after, references=references
                )
            case Unknown(reason, references):
                return self._lost_sight(notification, now, reason, references)
            case never:
                assert_never(never)

    def _lost_sight(
        self, notification: Notification, now: datetime, reason: str, references: tuple[str, ...] = ()
    ) -> Notification:
        return domain.lost_sight(notification, now, reason=reason, window=self._receipt_window, references=references)

    def _others(self, notification: Notification) -> list[str]:
        """The providers that may be given it at once instead of the one that has it."""
        sound = self._pool.sound(self._connected(), self._clock.monotonic())
        return [name for name in domain.may_take(notification, sound) if name != notification.provider]

    def _connected(self) -> list[str]:
        return [name for name, lane in self._lanes.items() if lane.provider.connected]

    def _lane(self, work: Begun[M] | Answered) -> Lane[M]:
        return self._lanes[work.held.notification.provider or ""]

    def _note(self, provider: str, answer: Answer, took_seconds: float) -> None:
        """What the answer says of the provider itself. One that asks for a pause gets it, and is none the worse."""
        now_seconds = self._clock.monotonic()
        match answer:
            case Sent() | Refused():
                self._pool.worked(provider, took_seconds, now_seconds)
            case Later(retry_after=timedelta()):
                pass
            case _:
                self._pool.failed(provider, now_seconds)

    def _warn_of_unknown(self, saved: Sequence[Held]) -> None:
        for notification in (held.notification for held in saved if held.notification.status is State.UNKNOWN):
            log.warning(
                "nobody knows whether a message was sent",
                provider=notification.provider,
                notification=notification.id,
                reason=notification.reason,
            )

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _wind_up(self, hand_over: Sequence[asyncio.Task[None]], settle_answers: asyncio.Task[None]) -> None:
        for task in hand_over:
            task.cancel()
        with contextlib.suppress(TimeoutError, StoreUnavailable):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                if not settle_answers.done():
                    await self._answers.join()
                while self._tasks:
                    await asyncio.wait(self._tasks)
                await self._ledger.write_told(self._clock.now(), ahead=ANNOUNCE_LEASE)
        for task in (settle_answers, *self._tasks):
            task.cancel()
        await asyncio.gather(*hand_over, settle_answers, *self._tasks, return_exceptions=True)
        for lane in self._lanes.values():
            await lane.provider.stop()


async def _rung(bell: asyncio.Event) -> None:
    """Return when it rings, or after a short while."""
    # Not wait_for: on Python 3.11 it forgets that it was cancelled where the bell rings just then.
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(IDLE_SECONDS):
            await bell.wait()
