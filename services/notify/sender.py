"""Takes due notifications from a ledger, hands them to a provider, and tells what became of them."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Generic, TypeVar, assert_never

from services.notify import domain
from services.notify.domain import Notification, State
from services.notify.ledger import Held, Ledger
from services.notify.outcomes import announce
from services.notify.ports import Answer, Composed, Later, M, Provider, Refused, Sent, ShortMessage, Unknown, Unsendable
from services.notify.rate import TokenBucket
from services.notify.receipts import References
from shared.bus.port import Publisher
from shared.clock import Clock
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

_OUTCOME: Final = {Sent: "accepted", Refused: "refused", Later: "retry", Unknown: "unknown"}

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
    """What the provider said, and when."""

    held: Held
    answer: Answer
    at: datetime


class Sender(Generic[M]):
    """Everything of one channel: its ledger, its provider, its pace.

    The work flows: rows are taken as the provider has room and the rate allows, answers are saved in the batches in
    which they come, and no message waits for another.
    """

    def __init__(
        self,
        *,
        ledger: Ledger,
        provider: Provider[M],
        compose: Callable[[Notification], Composed[M]],
        references: References,
        rate: TokenBucket,
        publisher: Publisher,
        clock: Clock,
        metrics: NotifyMetrics,
    ) -> None:
        self._ledger = ledger
        self._provider: Provider[M] = provider
        self._compose: Callable[[Notification], Composed[M]] = compose
        self._references = references
        self._rate = rate
        self._publisher = publisher
        self._clock = clock
        self._metrics = metrics
        self._in_flight = 0
        self._unanswered = 0
        self._room = asyncio.Event()
        self._answers: asyncio.Queue[Answered] = asyncio.Queue()
        self._tasks: set[asyncio.Task[Any]] = set()

    async def run(self) -> None:
        """Send until cancelled; then wait a few seconds for the answers to what was handed over, and save them."""
        await self._provider.start()
        work = (asyncio.create_task(self._hand_over()), asyncio.create_task(self._settle_answers()))
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for ended in done:
                ended.result()
        finally:
            await self._wind_up(work)

    async def begin(self, limit: int) -> Turn[M]:
        """Take due rows and mark those to be sent, durably, before anything is handed over.

        The others are settled and only have to be told: what can't be written, what lost its sender, what was not
        told in time.
        """
        now = self._clock.now()
        ready: dict[str, M] = {}
        moved: list[Held] = []
        untold: list[Held] = []
        for held in await self._ledger.take(now, limit):
            notification = held.notification
            match notification.status:
                case State.PLANNED:
                    try:
                        composed = self._compose(notification)
                    except Unsendable as error:
                        moved.append(Held(domain.refused(notification, now, reason=str(error)), held.version))
                        continue
                    ready[notification.id] = composed.message
                    begun = domain.begin(
                        notification,
                        template=composed.template,
                        segments=composed.segments,
                        provider=self._provider.name,
                    )
                    moved.append(Held(begun, held.version))
                case State.SENDING:
                    moved.append(Held(domain.lost_sight(notification, now, reason="sender_lost"), held.version))
                case _:
                    untold.append(held)
        lost = [held.notification for held in moved if held.notification.status is State.UNKNOWN]
        await self._references.keep(lost)
        saved = await self._save(moved, now)
        self._warn_of_unknown(saved)
        return Turn(
            begun=[Begun(held, ready[held.notification.id]) for held in saved if held.notification.id in ready],
            untold=untold + [held for held in saved if held.notification.id not in ready],
        )

    async def settle(self, answered: Sequence[Answered]) -> None:
        """Save what the provider said, then tell it."""
        now = self._clock.now()
        moved = [Held(_after(each), each.held.version) for each in answered]
        # First, so that a crash in between leaves a row that its receipts can still find.
        await self._references.keep([held.notification for held in moved])
        saved = await self._save(moved, now)
        self._warn_of_unknown(saved)
        await self.announce([held for held in saved if held.notification.outbox])

    async def announce(self, untold: Sequence[Held]) -> None:
        """Tell the mesh; what can't be told now comes up again."""
        await announce(untold, ledger=self._ledger, publisher=self._publisher, clock=self._clock)

    async def hand_over(self, begun: Begun[M]) -> Answered:
        """The provider's answer to one message, in bounded time."""
        started = self._clock.monotonic()
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                answer = await self._provider.send(begun.message)
        except TimeoutError:
            answer = Unknown("no_answer")
        except Exception:
            log.exception("a provider failed in a way of its own", provider=self._provider.name)
            answer = Unknown("provider_error")
        name = self._provider.name
        self._metrics.provider_seconds.labels(name).observe(self._clock.monotonic() - started)
        self._metrics.attempts.labels(name, _OUTCOME[type(answer)]).inc()
        if isinstance(begun.message, ShortMessage):
            self._metrics.segments.inc(max(0, len(answer.references) - len(begun.message.accepted)))
        return Answered(begun.held, answer, self._clock.now())

    async def _hand_over(self) -> None:
        while True:
            await self._provider.available()
            granted = await self._rate.take(await self._free())
            self._ledger.bell.clear()
            # A turn is finished even if we are cancelled: a row marked and not sent would end as unknown.
            taken = await asyncio.shield(self._start(self._turn(granted)))
            if taken == 0:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._ledger.bell.wait(), IDLE_SECONDS)

    async def _turn(self, granted: int) -> int:
        turn: Turn[M] = Turn([], [])
        try:
            turn = await self.begin(granted)
        except StoreUnavailable as error:
            log.warning("the ledger can't be read", provider=self._provider.name, detail=str(error))
        self._rate.settle(sum(max(1, each.held.notification.segments) for each in turn.begun) - granted)
        self._unanswered += len(turn.begun)
        self._in_flight += len(turn.begun)
        for each in turn.begun:
            self._start(self._deliver(each))
        self._start(self.announce(turn.untold))
        return len(turn.begun)

    async def _deliver(self, begun: Begun[M]) -> None:
        answered = await self.hand_over(begun)
        self._unanswered -= 1
        self._answers.put_nowait(answered)
        self._room.set()

    async def _settle_answers(self) -> None:
        while True:
            answered = [await self._answers.get()]
            while not self._answers.empty() and len(answered) < SETTLED_AT_ONCE_MAX:
                answered.append(self._answers.get_nowait())
            while True:
                try:
                    await self.settle(answered)
                    break
                except StoreUnavailable as error:
                    log.warning("answers can't be saved yet", provider=self._provider.name, detail=str(error))
                    await asyncio.sleep(STORE_RETRY_SECONDS)
            self._in_flight -= len(answered)
            self._room.set()
            for _ in answered:
                self._answers.task_done()

    async def _free(self) -> int:
        """Room in the provider's window, once there is room for half of it.

        Each turn costs a few store calls, however many messages it is for: a busy sender takes them by the dozen. As
        many again may have their answer and wait to be saved; a crash would leave the fate of all of these unknown.
        """
        window = self._provider.window
        while (free := min(window - self._unanswered, 2 * window - self._in_flight)) < max(1, window // 2):
            self._room.clear()
            await self._room.wait()
        return free

    def _warn_of_unknown(self, saved: Sequence[Held]) -> None:
        for notification in (held.notification for held in saved if held.notification.status is State.UNKNOWN):
            log.warning(
                "nobody knows whether a message was sent",
                provider=self._provider.name,
                notification=notification.id,
                reason=notification.reason,
            )

    async def _save(self, moved: Sequence[Held], now: datetime) -> list[Held]:
        saved = await self._ledger.save(moved, now)
        for held in saved:
            self._metrics.notifications.labels(self._provider.channel, held.notification.status).inc()
        return saved

    def _start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _wind_up(self, work: tuple[asyncio.Task[None], asyncio.Task[None]]) -> None:
        hand_over, settle_answers = work
        hand_over.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DRAIN_SECONDS):
                while self._tasks:
                    await asyncio.wait(self._tasks)
                if not settle_answers.done():
                    await self._answers.join()
        for task in (settle_answers, *self._tasks):
            task.cancel()
        await asyncio.gather(hand_over, settle_answers, *self._tasks, return_exceptions=True)
        await self._provider.stop()


def _after(answered: Answered) -> Notification:
    notification, now = answered.held.notification, answered.at
    match answered.answer:
        case Sent(references):
            return domain.sent(notification, now, references=references)
        case Refused(reason):
            return domain.refused(notification, now, reason=reason)
        case Later(reason, retry_after, references):
            return domain.postponed(notification, now, reason=reason, retry_after=retry_after, references=references)
        case Unknown(reason, references):
            return domain.lost_sight(notification, now, reason=reason, references=references)
        case never:
            assert_never(never)
