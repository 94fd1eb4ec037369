"""`guichet dlq` and `guichet offsets` on real Kafka."""

import asyncio
import base64
import json
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner, Result

from deploy.cli.main import app
from shared.bus.loop import WHOLE_RECORD_BYTES, dead_letter
from shared.bus.port import Record, Undecodable
from shared.contract.reasons import Reason
from shared.contract.topics import DEAD_LETTERS, Topic
from tests.mesh.bus.conftest import Tap

if TYPE_CHECKING:
    from tests.mesh.bus.conftest import Cluster


async def guichet(cluster: "Cluster", *words: str) -> Result:
    """What the command says, against this cluster. It has an event loop of its own."""
    return await asyncio.to_thread(CliRunner().invoke, app, [*words, "--bootstrap", cluster.bootstrap])


async def listed(cluster: "Cluster", *words: str) -> list[dict[str, Any]]:
    result = await guichet(cluster, "dlq", "list", "--json", *words)
    assert result.exit_code == 0, result.output
    found: list[dict[str, Any]] = json.loads(result.output)
    return found


async def set_aside(cluster: "Cluster", topic: Topic, *records: Record) -> None:
    """Have these stand among the dead letters."""
    for record in records:
        letter = dead_letter("test", record, Undecodable(Reason.NOT_JSON, "on purpose [bold]"))
        await cluster.send(DEAD_LETTERS, letter.value, key=letter.key.encode())


def record(topic: Topic, offset: int, value: bytes | None, **fields: Any) -> Record:
    return Record(topic.name, 1, offset, 0, None, fields.pop("key", b"key"), value, **fields)


async def test_dead_letters_are_listed_by_topic_reason_and_time(cluster: "Cluster") -> None:
    first, second = await cluster.create("first"), await cluster.create("second")
    await set_aside(cluster, first, record(first, 0, b"x"), record(first, 1, b"y"), record(first, 1, b"y"))
    await set_aside(cluster, second, record(second, 7, b"z"))
    places = [letter["record"] for letter in await listed(cluster, "--topic", first.name)]
    assert places == [f"{first.name}/1/0", f"{first.name}/1/1"]  # each once
    assert await listed(cluster, "--topic", first.name, "--reason", "empty") == []
    assert await listed(cluster, "--topic", first.name, "--since", "2999-01-01T00:00:00Z") == []
    assert len(await listed(cluster, "--topic", second.name, "--since", "1h")) == 1
    table = await guichet(cluster, "dlq", "list", "--topic", second.name)
    assert "1 dead letters" in table.output
    assert (await guichet(cluster, "dlq", "list", "--since", "yesterday")).exit_code == 2


async def test_a_dead_letter_is_shown_with_all_that_was_kept(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    odd = record(topic, 3, b"\xff\x00", headers=(("trace", b"[red]"), ("none", None)))
    await set_aside(cluster, topic, odd)
    shown = await guichet(cluster, "dlq", "show", f"{topic.name}/1/3")
    assert shown.exit_code == 0
    for line in ("value: b'\\xff\\x00'", "key: key", "header trace: [red]", "header none: none", "on purpose [bold]"):
        assert line in shown.output
    (letter,) = await listed(cluster, "--topic", topic.name)
    as_json = json.loads((await guichet(cluster, "dlq", "show", letter["id"], "--json")).output)
    assert base64.b64decode(as_json["value"]) == b"\xff\x00"
    assert (await guichet(cluster, "dlq", "show", "nobody")).exit_code == 1


async def test_a_replayed_record_comes_back_through_its_own_door_byte_for_byte(cluster: "Cluster") -> None:
    topic = await cluster.create("in", partitions=3)
    headers = (("content-type", b"a/b"), ("", b"\xff"), ("none", None))
    kept = [
        record(topic, 0, b"\xff\x00", headers=headers),
        record(topic, 1, None),
        record(topic, 2, b"no key", key=None),
    ]
    await set_aside(cluster, topic, *kept)
    tap = Tap()
    await cluster.consuming(tap)
    dry = await guichet(cluster, "dlq", "replay", "--topic", topic.name, "--dry-run")
    assert (dry.exit_code, dry.output.count("would be replayed")) == (0, 3)
    assert await cluster.ends(topic) == {}
    done = await guichet(cluster, "dlq", "replay", "--topic", topic.name, "--json", "--rate", "1000")
    assert [json.loads(line)["now"] for line in done.output.splitlines()] == [f"{topic.name}/1/{n}" for n in range(3)]
    await cluster.until_committed(topic, {1: 3})
    assert [(one.key, one.value, one.headers) for one in tap.handled] == [
        (one.key, one.value, one.headers) for one in kept
    ]
    assert len(await listed(cluster, "--topic", topic.name)) == 3  # they stay


async def test_a_record_whose_bytes_are_not_all_here_is_refused_and_the_others_are_replayed(
    cluster: "Cluster",
) -> None:
    topic = await cluster.create("in", partitions=2)
    cut = record(topic, 0, b"x" * (WHOLE_RECORD_BYTES + 1))
    await set_aside(cluster, topic, cut, record(topic, 1, None, cut=True), record(topic, 2, b"whole"))
    result = await guichet(cluster, "dlq", "replay", "--topic", topic.name)
    assert result.exit_code == 1
    assert "1 replayed, 2 refused, 0 not found" in result.output
    assert await cluster.ends(topic) == {1: 1}


async def test_replaying_by_id_says_which_are_not_there_and_everything_must_be_asked_for(cluster: "Cluster") -> None:
    topic = await cluster.create("in", partitions=2)
    await set_aside(cluster, topic, record(topic, 0, b"0"), record(topic, 1, b"1"))
    result = await guichet(cluster, "dlq", "replay", f"{topic.name}/1/1", "nobody")
    assert (result.exit_code, "1 replayed, 0 refused, 1 not found" in result.output) == (1, True)
    assert [found.value for found in await cluster.records(topic, 1)] == [b"1"]
    assert (await guichet(cluster, "dlq", "replay")).exit_code == 4


async def test_a_gap_is_listed_record_by_record_and_only_a_stopped_service_may_accept_it(cluster: "Cluster") -> None:
    topic = await cluster.create("in")
    await cluster.send(topic, b"0", b"1")
    bus = await cluster.consuming(Tap())
    await cluster.until_committed(topic, {0: 2})
    await bus.stop()
    await cluster.send(topic, b"2", b"3", b"4", b"5")
    await cluster.delete_before(topic, 4)
    stopped = await cluster.consuming(Tap())
    await cluster.until(lambda: stopped.stopped() is not None)

    words = ("offsets", "accept-gap", cluster.service)
    found = await guichet(cluster, *words)
    assert (found.exit_code, f"{topic.name}/0: records 2 to 3 are gone, 2 in number" in found.output) == (1, True)
    refused = await guichet(cluster, *words, "--yes")
    assert refused.exit_code == 4
    assert await cluster.committed(topic) == {0: 2}
    await stopped.stop()
    accepted = await guichet(cluster, *words, "--yes", "--json")
    assert accepted.exit_code == 0, accepted.output
    gap = {"topic": topic.name, "partition": 0, "committed": 2, "begins": 4, "ends": 6, "accepted": True}
    assert json.loads(accepted.output) == [gap]
    tap = Tap()
    await cluster.consuming(tap)
    await cluster.until_committed(topic, {0: 6})
    assert tap.values() == [b"4", b"5"]
    assert (await guichet(cluster, *words)).exit_code == 0
