"""What a replay looks like while it runs: a table in a terminal, plain lines elsewhere."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sized
from time import monotonic

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from deploy.replay.tally import Latencies, Tally
from deploy.replay.watcher import Watcher
from shared.contract.events import (
    NotificationOutcome,
    NotificationStatus,
    RequestAccepted,
    RequestAssigned,
    RequestRejected,
    RequestUnroutable,
    RequestUpdated,
)

OFFICES_SHOWN = 12
FRAME_SECONDS = 0.25
LAG_SECONDS = 1.0
LINE_SECONDS = 5.0


class Progress:
    """Draws a tally, and how far the services lag behind their topics. `answered` grows while the replay runs."""

    def __init__(self, title: str, tally: Tally, *, steps: int, answered: Sized) -> None:
        self._title = title
        self._tally = tally
        self._steps = steps
        self._answered = answered
        self._lags: Mapping[str, int] = {}
        self._started = monotonic()

    @contextlib.asynccontextmanager
    async def shown(self, console: Console, watcher: Watcher) -> AsyncIterator[None]:
        """Keep it in sight for as long as the block runs."""
        lagging = asyncio.create_task(self._follow_lags(watcher))
        shows = self._animate if console.is_terminal else self._write_lines
        showing = asyncio.create_task(shows(console))
        try:
            yield
        finally:
            for task in (lagging, showing):
                task.cancel()
            await asyncio.gather(lagging, showing, return_exceptions=True)

    def picture(self) -> RenderableType:
        """Everything, for a terminal."""
        return Group(self._heading(), self._services(), self._offices())

    def line(self) -> str:
        """The same in one line."""
        counts, tally = self._tally.counts, self._tally
        lag = " ".join(f"{service}={count}" for service, count in self._lags.items()) or "unknown"
        return (
            f"{self._seconds():5.0f} s  published {len(self._answered)}/{self._steps}"
            f"  accepted {counts[RequestAccepted]}  rejected {counts[RequestRejected]}"
            f"  updated {counts[RequestUpdated]}  assigned {counts[RequestAssigned]}"
            f"  unroutable {counts[RequestUnroutable]}  sent {tally.notified[NotificationStatus.SENT]}"
            f"  delivered {tally.notified[NotificationStatus.DELIVERED]}"
            f"  published to sent {_both(tally.published_to_sent)}  lag {lag}"
        )

    def _heading(self) -> RenderableType:
        done, of = len(self._answered), self._steps
        grid = Table.grid(padding=(0, 2))
        grid.add_row(
            Text(self._title, style="bold"),
            ProgressBar(total=max(of, 1), completed=done, width=40),
            f"{done:,} of {of:,} events",
            f"{self._seconds():.0f} s",
        )
        return grid

    def _services(self) -> Table:
        counts, notified = self._tally.counts, self._tally.notified
        table = Table(title="Services", title_justify="left", expand=True)
        for column in ("service", "done", "step"):
            table.add_column(column)
        for column in ("p50", "p95", "lag"):
            table.add_column(column, justify="right", min_width=8)
        table.add_row(
            "intake",
            _counts(accepted=counts[RequestAccepted], updated=counts[RequestUpdated], rejected=counts[RequestRejected]),
            "published → accepted",
            *_latency(self._tally.published_to_accepted),
            self._lag("intake"),
        )
        table.add_row(
            "routing",
            _counts(assigned=counts[RequestAssigned], unroutable=counts[RequestUnroutable]),
            "accepted → assigned",
            *_latency(self._tally.accepted_to_assigned),
            self._lag("routing"),
        )
        table.add_row(
            "notify",
            _counts(**{status.value: notified[status] for status in NotificationStatus if notified[status]}),
            "its cause → sent",
            *_latency(self._tally.caused_to_sent),
            self._lag("notify"),
        )
        table.add_row("metrics", "", "", "", "", self._lag("metrics"))
        table.add_section()
        table.add_row(
            "all", _counts(notifications=counts[NotificationOutcome]), "published → sent",
            *_latency(self._tally.published_to_sent), "", style="bold",
        )  # fmt: skip
        return table

    def _offices(self) -> Table:
        busiest = sorted(self._tally.offices.values(), key=lambda office: -office.assigned)
        others = len(busiest) - OFFICES_SHOWN
        caption = f"and {others} other offices" if others > 0 else None
        table = Table(title="Offices", title_justify="left", caption=caption, expand=True)
        table.add_column("office")
        for column in ("assigned", "sent", "delivered", "failed", "p50", "p95"):
            table.add_column(column, justify="right", min_width=8)
        for office in busiest[:OFFICES_SHOWN]:
            shown = (NotificationStatus.SENT, NotificationStatus.DELIVERED, NotificationStatus.FAILED)
            table.add_row(
                Text(office.name),
                f"{office.assigned:,}",
                *(f"{office.notified[status]:,}" for status in shown),
                *_latency(office.published_to_sent),
            )
        return table

    def _lag(self, service: str) -> str:
        return f"{self._lags[service]:,}" if service in self._lags else "–"

    def _seconds(self) -> float:
        return monotonic() - self._started

    async def _follow_lags(self, watcher: Watcher) -> None:
        while True:
            self._lags = await watcher.lags()
            await asyncio.sleep(LAG_SECONDS)

    async def _animate(self, console: Console) -> None:
        with Live(self.picture(), console=console, auto_refresh=False) as live:
            try:
                await _every(FRAME_SECONDS, lambda: live.update(self.picture(), refresh=True))
            finally:
                live.update(self.picture(), refresh=True)

    async def _write_lines(self, console: Console) -> None:
        try:
            await _every(LINE_SECONDS, lambda: console.print(self.line(), soft_wrap=True, highlight=False))
        finally:
            console.print(self.line(), soft_wrap=True, highlight=False)


async def _every(seconds: float, act: Callable[[], None]) -> None:
    while True:
        await asyncio.sleep(seconds)
        act()


def _counts(**counts: int) -> str:
    return "  ".join(f"{count:,} {name}" for name, count in counts.items())


def _latency(latencies: Latencies) -> tuple[str, str]:
    return in_words(latencies.recent(0.5)), in_words(latencies.recent(0.95))


def _both(latencies: Latencies) -> str:
    return " / ".join(_latency(latencies))


def in_words(seconds: float | None) -> str:
    """A latency for people: milliseconds below a second."""
    if seconds is None:
        return "–"
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"
