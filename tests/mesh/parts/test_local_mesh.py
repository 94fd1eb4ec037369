"""The mesh as a whole, with stand-ins where the four services go."""

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from deploy.local.mesh import LocalMesh
from deploy.local.ports import listens
from deploy.local.process import PartFailed
from deploy.local.state import running
from shared.bus.access import KafkaAccess

if TYPE_CHECKING:
    from tests.mesh.parts.conftest import Eventually

# Ready at once, tells what it was told, and drains when asked to stop.
STAND_IN = """
import json, os, signal, sys
from http.server import BaseHTTPRequestHandler, HTTPServer

class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        assert os.path.isdir(os.environ["DATA_DIR"])
        self.send_response(200 if self.path in ("/ready", "/env") else 404)
        self.end_headers()
        self.wfile.write(json.dumps({**os.environ, "PID": os.getpid()}).encode())

def drain(*_):
    print("drained", flush=True)
    sys.exit(0)

signal.signal(signal.SIGTERM, drain)
HTTPServer((os.environ["HTTP_HOST"], int(os.environ["HTTP_PORT"])), Answer).serve_forever()
"""


def stand_in(_service: str) -> list[str]:
    return [sys.executable, "-c", STAND_IN]


async def apply_topics(kafka: KafkaAccess, replication: int) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka.servers)
    await admin.start()
    try:
        await admin.create_topics([NewTopic("requests.accepted", 4, replication)])
    finally:
        await admin.close()


async def nothing(_kafka: KafkaAccess, _replication: int) -> None: ...


async def told(mesh: LocalMesh, service: str) -> dict[str, Any]:
    async with aiohttp.request("GET", f"{mesh.service_url(service)}/env") as answer:
        return dict(json.loads(await answer.text()))


async def answers(mesh: LocalMesh, service: str) -> bool:
    """Whether a service says anything within a moment."""
    try:
        async with asyncio.timeout(0.5):
            return bool(await told(mesh, service))
    except (TimeoutError, aiohttp.ClientError):
        return False


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that names every part, so that only services are started."""
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "SMPP_HOST", "SMTP_HOST"):
        monkeypatch.setenv(name, "elsewhere.example")


async def test_every_part_runs_every_service_is_told_where_and_afterwards_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_SECURITY_PROTOCOL", "SSL")  # as other brokers than these want it
    mesh = LocalMesh(tmp_path, tmp_path / "dj", apply_topics=apply_topics, argv=stand_in, mongodb=True)
    async with mesh:
        intake, notify = await told(mesh, "intake"), await told(mesh, "notify")
        assert intake["KAFKA_BOOTSTRAP_SERVERS"] == mesh.bootstrap
        assert "KAFKA_SECURITY_PROTOCOL" not in intake
        assert intake["JURISDICTION_DIR"] == str(tmp_path / "dj")
        assert intake["HTTP_HOST"] == "127.0.0.1"
        assert intake["DATA_DIR"] != notify["DATA_DIR"]
        assert intake["MONGODB_URL"].startswith("mongodb://127.0.0.1:")
        assert await listens(int(notify["SMPP_PORT"]))
        assert await listens(int(notify["SMTP_PORT"]))

        state = running(tmp_path)
        assert state
        assert state["pid"] == os.getpid()
        assert state["bootstrap"] == mesh.bootstrap
        assert state["services"]["intake"] == mesh.service_url("intake")
        assert state["pids"]["intake"] == intake["PID"]
        assert set(state["pids"]) == {
            *("kafka-0", "smsc", "smtp", "mongo"),
            *("intake", "routing", "notify", "metrics"),
        }
        with pytest.raises(PartFailed, match="already runs"):
            await LocalMesh(tmp_path, tmp_path / "dj", apply_topics=nothing, argv=stand_in).start()
        assert running(tmp_path)

    assert not any(process.alive for process in mesh.processes.values())
    assert mesh.logs["intake"].read_text().endswith("drained\n")
    assert running(tmp_path) is None


@pytest.mark.usefixtures("elsewhere")
async def test_parts_named_by_the_environment_are_used_and_not_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MONGODB_URL", "mongodb://elsewhere.example")
    seen: list[tuple[str, int]] = []

    async def topics(kafka: KafkaAccess, replication: int) -> None:
        seen.append((kafka.servers, replication))

    async with LocalMesh(tmp_path, tmp_path, apply_topics=topics, argv=stand_in, brokers=3) as mesh:
        assert set(mesh.processes) == {"intake", "routing", "notify", "metrics"}
        intake = await told(mesh, "intake")
        assert intake["SMPP_HOST"] == intake["SMTP_HOST"] == "elsewhere.example"
        assert intake["MONGODB_URL"] == "mongodb://elsewhere.example"
        # A server that serves others too: each mesh has databases of its own there.
        assert intake["MONGODB_DATABASE"].startswith("guichet_")
    assert seen == [("elsewhere.example", 3)]


@pytest.mark.usefixtures("elsewhere")
async def test_a_service_comes_back_where_it_was_after_a_kill(tmp_path: Path) -> None:
    async with LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("intake",)) as mesh:
        before = await told(mesh, "intake")
        await mesh.kill("intake")
        assert not mesh.processes["intake"].alive
        assert mesh.ended() == ["intake"]
        await mesh.restart("intake")
        assert mesh.ended() == []
        after = await told(mesh, "intake")
        same = ("HTTP_PORT", "DATA_DIR")
        assert [after[name] for name in same] == [before[name] for name in same]
        assert after["PID"] != before["PID"]
        state = running(tmp_path)
        assert state
        assert state["pids"]["intake"] == after["PID"]


@pytest.mark.usefixtures("elsewhere")
async def test_replicas_have_ports_and_logs_of_their_own_and_share_data(tmp_path: Path) -> None:
    mesh = LocalMesh(
        tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("intake",), replicas={"intake": 2}
    )
    async with mesh:
        first, second = await told(mesh, "intake"), await told(mesh, "intake-2")
        assert first["DATA_DIR"] == second["DATA_DIR"]
        assert [first[name] == second[name] for name in ("HTTP_PORT", "PID")] == [False, False]
        assert mesh.logs["intake-2"] == tmp_path / "intake-2.log"
        state = running(tmp_path)
        assert state
        assert state["services"]["intake-2"] == mesh.service_url("intake-2")
        await mesh.kill("intake-2")
        assert mesh.ended() == ["intake-2"]
        await mesh.restart("intake-2")
        assert (await told(mesh, "intake-2"))["HTTP_PORT"] == second["HTTP_PORT"]


@pytest.mark.usefixtures("elsewhere")
async def test_a_replica_joins_and_leaves_while_the_others_run(tmp_path: Path) -> None:
    async with LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("routing",)) as mesh:
        before = await told(mesh, "routing")
        assert [await mesh.add("routing"), await mesh.add("routing")] == ["routing-2", "routing-3"]
        assert (await told(mesh, "routing-3"))["DATA_DIR"] == before["DATA_DIR"]
        leaving, log = mesh.processes["routing-2"], mesh.logs["routing-2"]
        await mesh.remove("routing-2")
        assert not leaving.alive
        assert log.read_text().endswith("drained\n")
        state = running(tmp_path)
        assert state
        assert set(state["services"]) == {"routing", "routing-3"}
        assert mesh.ended() == []
        assert await mesh.add("routing") == "routing-2"  # the name that is free again
        assert (await told(mesh, "routing"))["PID"] == before["PID"]


@pytest.mark.usefixtures("elsewhere")
async def test_a_second_replica_of_metrics_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="metrics runs once"):
        LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, replicas={"metrics": 2})


@pytest.mark.usefixtures("elsewhere")
async def test_what_a_service_is_told_for_one_run_is_forgotten_by_the_next(tmp_path: Path) -> None:
    mesh = LocalMesh(
        tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("routing",), env={"LOG_LEVEL": "debug"}
    )
    async with mesh:
        assert (await told(mesh, "routing"))["LOG_LEVEL"] == "debug"
        await mesh.restart("routing", {"FAULT": "once", "LOG_LEVEL": "error"})
        once = await told(mesh, "routing")
        assert (once["FAULT"], once["LOG_LEVEL"]) == ("once", "error")
        await mesh.restart("routing")
        again = await told(mesh, "routing")
        assert "FAULT" not in again
        assert again["LOG_LEVEL"] == "debug"


@pytest.mark.usefixtures("elsewhere")
async def test_a_service_that_is_meant_to_crash_at_once_is_not_waited_for(
    tmp_path: Path, eventually: "Eventually"
) -> None:
    def argv(_service: str) -> list[str]:
        return [sys.executable, "-c", "import os\nif 'CRASH' in os.environ: os.abort()\n" + STAND_IN]

    async with LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=argv, services=("routing",)) as mesh:
        await mesh.restart("routing", {"CRASH": "1"}, ready=False)
        await eventually(lambda: mesh.ended() == ["routing"], within_seconds=10)
        await mesh.restart("routing")
        assert mesh.ended() == []


@pytest.mark.usefixtures("elsewhere")
async def test_what_is_frozen_answers_nothing_until_it_is_thawed(tmp_path: Path) -> None:
    async with LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("routing",)) as mesh:
        before = await told(mesh, "routing")
        mesh.freeze("routing")
        assert not await answers(mesh, "routing")
        assert mesh.ended() == []
        mesh.thaw("routing")
        assert (await told(mesh, "routing"))["PID"] == before["PID"]


async def test_a_second_provider_of_each_channel_runs_when_asked_for_and_notify_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "elsewhere.example")
    mesh = LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=("notify",), providers=2)
    async with mesh:
        assert set(mesh.processes) == {"smsc", "smsc-2", "smtp", "smtp-2", "notify"}
        notify = await told(mesh, "notify")
        ports = [smsc.port for smsc in mesh.smscs] + [sink.port for sink in mesh.sinks]
        for prefix, port in zip(("SMPP", "SMPP2", "SMTP", "SMTP2"), ports, strict=True):
            assert notify[f"{prefix}_PORT"] == str(port)
            assert await listens(port)
        assert (notify["SMPP2_HOST"], notify["SMTP2_HOST"]) == ("127.0.0.1", "127.0.0.1")
        assert (notify["SMPP2_SYSTEM_ID"], notify["SMPP2_PASSWORD"]) == (mesh.smscs[1].system_id, "guichet")
        state = running(tmp_path)
        assert state
        assert state["smsc_logs"] == [str(tmp_path / name) for name in ("smsc.jsonl", "smsc-2.jsonl")]
        assert state["smtp_logs"] == [str(tmp_path / name) for name in ("smtp.jsonl", "smtp-2.jsonl")]


async def test_a_part_that_ends_by_itself_is_told_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("KAFKA_BOOTSTRAP_SERVERS", "SMTP_HOST"):
        monkeypatch.setenv(name, "elsewhere.example")
    monkeypatch.delenv("SMPP_HOST", raising=False)
    async with LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=stand_in, services=()) as mesh:
        assert mesh.ended() == []
        await mesh.processes["smsc"].kill()
        with pytest.raises(PartFailed, match=r"smsc ended by itself.*smsc\.log"):
            mesh.ended()


@pytest.mark.usefixtures("elsewhere")
async def test_one_service_that_fails_to_start_is_named_and_stops_all(tmp_path: Path) -> None:
    def argv(service: str) -> list[str]:
        return stand_in(service) if service != "notify" else [sys.executable, "-c", "raise SystemExit('no templates')"]

    mesh = LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=argv)
    with pytest.raises(PartFailed, match=r"(?s)^notify ended.*no templates"):
        await mesh.start()
    assert not any(process.alive for process in mesh.processes.values())
    assert running(tmp_path) is None


@pytest.mark.usefixtures("elsewhere")
async def test_a_start_that_is_cancelled_leaves_nothing_behind(tmp_path: Path) -> None:
    def never_ready(_service: str) -> list[str]:
        return [sys.executable, "-c", "import time; time.sleep(60)"]

    mesh = LocalMesh(tmp_path, tmp_path, apply_topics=nothing, argv=never_ready)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await mesh.start()
    assert len(mesh.processes) == 4
    assert not any(process.alive for process in mesh.processes.values())
