"""Reads notify's ledger, wherever it is."""

from collections.abc import AsyncIterator
from pathlib import Path

from services.notify.domain import Notification
from shared.bus.port import Unavailable
from shared.store import MONGODB_DATABASE, open_store
from shared.store.port import StoreUnavailable

COLLECTIONS = ("notifications_sms", "notifications_email", "notifications_unreachable")


def is_there(*, notify_data: Path | None, mongodb_url: str | None) -> bool:
    """Whether there is a store to be read: MongoDB where it is named, else notify's SQLite file in its folder."""
    return mongodb_url is not None or (notify_data is not None and (notify_data / "notify.sqlite").exists())


async def read_notifications(
    *,
    notify_data: Path | None,
    mongodb_url: str | None,
    mongodb_database: str = MONGODB_DATABASE,
    due_only: bool = False,
) -> AsyncIterator[Notification]:
    """Every notification there is, or those about which something is still to be done.

    Unavailable if the store does not answer.
    """
    store = open_store(
        "notify", mongodb_url=mongodb_url, mongodb_database=mongodb_database, data_dir=notify_data or Path()
    )
    try:
        await store.open()
        for name in COLLECTIONS:
            async for row in store.collection(name).scan(due_only=due_only):
                yield Notification.from_json(row.body)
    except StoreUnavailable as error:
        raise Unavailable(f"the store of notify: {error}") from error
    finally:
        await store.close()
