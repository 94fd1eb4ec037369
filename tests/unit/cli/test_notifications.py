"""`guichet notifications`, on a ledger of its own."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from deploy.cli.main import app
from deploy.cli.notifications import masked
from deploy.cli.running import Exit
from services.notify import domain
from services.notify.domain import UNKNOWNS_MAX, Notification, Policy, State, Step
from services.notify.ledger import Ledger
from shared.contract.events import Channel, Language, Timeline
from shared.store.sqlite import SqliteStore

NOW = datetime.now(UTC)
PHONE, MAIL = "+25377112233", "amina@example.org"
WINDOW = timedelta(minutes=15)


def planned(key: str, *, channel: Channel = Channel.SMS, policy: Policy, minutes_ago: int = 5) -> Notification:
    at = NOW - timedelta(minutes=minutes_ago)
    return Notification(
        id=key,
        cause=f"cause of {key}",
        request_id=f"request of {key}",
        reference="7K3M-9XQ2-HTB4",
        agency="port",
        service_code="birth",
        step=Step.RESOLVED,
        channel=channel,
        language=Language.FRENCH,
        template="v1",
        recipient=PHONE if channel is Channel.SMS else MAIL,
        personalisation={},
        status=State.PLANNED,
        not_before=at,
        policy=policy,
        timeline=Timeline(planned=at),
    )


def unknown(notification: Notification) -> Notification:
    begun = domain.begin(notification, template="v1", segments=1, provider="smpp2")
    return domain.lost_sight(begun, notification.not_before, reason="no_answer", window=WINDOW)


LEDGER = {
    "notifications_sms": (
        unknown(planned("again", policy=Policy.AT_LEAST_ONCE)),
        unknown(planned("never", policy=Policy.AT_MOST_ONCE, minutes_ago=300)),
        unknown(replace(planned("no more", policy=Policy.AT_LEAST_ONCE), unknowns=UNKNOWNS_MAX - 1)),
        planned("waiting", policy=Policy.AT_LEAST_ONCE),
    ),
    "notifications_email": (unknown(planned("mail", channel=Channel.EMAIL, policy=Policy.AT_LEAST_ONCE)),),
}


async def write(folder: Path) -> None:
    store = SqliteStore(folder / "notify.sqlite")
    await store.open()
    for name, notifications in LEDGER.items():
        await Ledger(store.collection(name)).add(notifications)
    await store.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MONGODB_URL", raising=False)
    asyncio.run(write(tmp_path))
    return tmp_path


def notifications(folder: Path, *options: str) -> Result:
    nowhere = ("--dir", str(folder / "no mesh"))
    return CliRunner().invoke(app, ["notifications", "--notify-data", str(folder), *nowhere, *options])


def listed(folder: Path, *options: str) -> dict[str, dict[str, Any]]:
    told = notifications(folder, "--json", *options)
    assert told.exit_code == Exit.DONE, told.output
    return {each["id"]: each for each in json.loads(told.stdout)}


def test_those_of_which_nobody_knows_are_listed_with_what_happens_next(folder: Path) -> None:
    found = listed(folder, "--unknown")
    assert list(found) == ["never", "again", "no more", "mail"]
    assert found["again"]["next_at"] == (NOW - timedelta(minutes=5) + WINDOW).isoformat()
    assert "sent again at" in found["again"]["next"]
    for key in ("never", "no more"):
        assert (found[key]["next"], found[key]["next_at"]) == (
            "is never sent again; a receipt would still settle it",
            None,
        )
    assert found["never"]["policy"] == "at_most_once"
    assert (found["again"]["provider"], found["again"]["reason"]) == ("smpp2", "no_answer")
    assert found["never"]["since"] == (NOW - timedelta(minutes=300)).isoformat()


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ((), {"again", "never", "no more", "waiting", "mail"}),
        (("--status", "planned"), {"waiting"}),
        (("--unknown", "--channel", "email"), {"mail"}),
        (("--unknown", "--since", "1h"), {"again", "no more", "mail"}),
        (("--status", "failed"), set()),
    ],
)
def test_they_are_listed_by_where_they_stand_by_channel_and_since_when(
    folder: Path, options: tuple[str, ...], keys: set[str]
) -> None:
    assert set(listed(folder, *options)) == keys


@pytest.mark.parametrize("options", [(), ("--json",), ("--unknown", "--json")])
def test_no_list_holds_a_contact(folder: Path, options: tuple[str, ...]) -> None:
    told = notifications(folder, *options).output
    for contact in (PHONE, PHONE[4:], MAIL, "example.org"):
        assert contact not in told


def test_people_get_a_table_and_how_many_there_are(folder: Path) -> None:
    told = notifications(folder, "--unknown")
    assert told.exit_code == Exit.DONE
    assert "4 notifications" in told.stdout


def test_what_is_masked_can_still_be_told_apart() -> None:
    assert masked(PHONE) == "…33"
    assert masked(MAIL) == "a…@…"
    assert masked(None) is None


def test_without_a_ledger_it_says_how_to_name_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MONGODB_URL", raising=False)
    told = notifications(tmp_path)
    assert told.exit_code == Exit.CONFIGURATION
    assert "--notify-data" in told.stderr


def test_two_statuses_at_once_are_a_wrong_call(folder: Path) -> None:
    assert notifications(folder, "--unknown", "--status", "sent").exit_code == Exit.CONFIGURATION
