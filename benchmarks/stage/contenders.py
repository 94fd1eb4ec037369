"""Who runs: the mesh's services on either store, and the peers."""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import count
from pathlib import Path

from benchmarks.harness.rounds import Contender, Figures, Wrong
from benchmarks.peers.environments import python_peer, streams_peer
from benchmarks.stage.inputs import Inputs, office_and_due
from benchmarks.stage.run import Program, run
from benchmarks.stage.topics import Content, Topics
from deploy.local.kafka import KafkaCluster
from deploy.local.mesh import service_argv
from deploy.local.mongo import MongoServer
from deploy.local.ports import LOOPBACK, free_port
from deploy.local.process import project_env
from shared.bus.port import Publication
from shared.contract import topics as mesh
from shared.contract.topics import agency_topic
from shared.store import open_store

PEERS_TOPIC = "peers.assigned"

PYTHON_PEERS = ("aiokafka", "confluent", "faststream", "quix", "faust")
BARE = ("aiokafka", "confluent")
"""Peers that run twice: with the whole job that the others do, and (`…_forward`) handing the bytes on as they are."""

KEEPS = {
    "notify": (("notifications_sms", "notifications_email", "notifications_unreachable"), 1),
    "metrics": (("requests",), 2),
}
"""What a stage that publishes nothing keeps instead, and at most how many events make one row."""


class Field:
    """The parts on which all contenders run, each run in a folder of its own."""

    def __init__(
        self, directory: Path, inputs: Inputs, topics: Topics, kafka: KafkaCluster, mongo: MongoServer
    ) -> None:
        self._directory = directory
        self._inputs = inputs
        self._topics = topics
        self._bootstrap = kafka.bootstrap
        self._mongodb_url = mongo.url
        self._servers = {"kafka_cpu_us": kafka.processes[0].pid or 0}
        self._mongo = {"mongodb_cpu_us": mongo.process.pid or 0}
        self._expected = {one.key.encode(): office_and_due(one.value) for one in inputs.assigned}
        self._accepted = {mesh.ACCEPTED.name: _content(inputs.accepted)}
        self._followed = self._accepted | {mesh.ASSIGNED.name: _content(inputs.assigned)}
        self._published: dict[str, list[tuple[bytes, bytes]]] = {}
        for step in inputs.published:
            self._published.setdefault(agency_topic(step.agency), []).append(
                (step.agency_reference.encode(), step.body)
            )
        self._numbers = count(1)

    def stage(self, name: str, store: str, *, stored: Path | None = None) -> Contender:
        """A service as it always runs, on a store that is empty, or on a SQLite file that is there. Notify finds no
        provider, and only plans."""

        async def once() -> Figures:
            directory, env = self.place(name, stored)
            servers = self._servers
            if store == "mongodb":
                env |= {"MONGODB_URL": self._mongodb_url, "MONGODB_DATABASE": directory.name}
                servers = servers | self._mongo
            return await self._run(self._service(name, env), directory, servers)

        return once

    def place(self, name: str, stored: Path | None = None) -> tuple[Path, dict[str, str]]:
        """A new folder for a service, with this file as its store, and the environment to run it in."""
        directory = self._directory / f"run-{next(self._numbers)}-{name}"
        if stored is not None:
            directory.mkdir()
            # The file itself, which the run adds to: copies of gigabytes would take longer than all that is measured.
            (directory / f"{name}.sqlite").hardlink_to(stored)
        return directory, self._service_env(directory)

    async def peers(self) -> dict[str, Contender]:
        """Every peer, by name."""
        peers: dict[str, Contender] = {}
        for name in PYTHON_PEERS:
            argv = await python_peer(name)
            peers[name] = self._peer(name, argv)
            if name in BARE:
                peers[f"{name}_forward"] = self._peer(f"{name}_forward", argv, "--forward")
        # Java compiles as it runs: for its first few ten thousand events it is several times slower than later.
        streams = await streams_peer(self._directory / "streams")
        peers["kafka_streams"] = self._peer("kafka_streams", streams, warm_seconds=10.0, warm_share=0.6)
        return peers

    def _peer(
        self, name: str, argv: Sequence[str], *flags: str, warm_seconds: float = 1.0, warm_share: float = 0.1
    ) -> Contender:
        async def once() -> Figures:
            directory = self._directory / f"run-{next(self._numbers)}-{name}"
            task = ["--bootstrap", self._bootstrap, "--source", mesh.ACCEPTED.name, "--target", PEERS_TOPIC]
            # A group of its own each time: one that was not left in good order still has its member.
            task += ["--group", directory.name, "--book", str(self._inputs.book)]
            program = Program(
                name,
                [*argv, *task, *flags],
                project_env(),
                directory.name,
                self._accepted,
                writes=[PEERS_TOPIC],
                assigns=not flags,
                warm_seconds=warm_seconds,
                warm_share=warm_share,
            )
            return await self._run(program, directory, self._servers)

        return once

    async def _run(self, program: Program, directory: Path, servers: Mapping[str, int]) -> Figures:
        return await run(program, directory, topics=self._topics, servers=servers, expected=self._expected)

    def _service(self, name: str, env: Mapping[str, str]) -> Program:
        metrics_url = f"http://{LOOPBACK}:{env['HTTP_PORT']}/metrics"
        start = partial(Program, name, service_argv(name), env, f"guichet-{name}", metrics_url=metrics_url)
        match name:
            case "intake":
                return start(self._published, writes=[mesh.ACCEPTED.name, mesh.UPDATED.name, mesh.REJECTED.name])
            case "routing":
                return start(self._accepted, skips=[mesh.UPDATED.name], writes=[mesh.ASSIGNED.name], assigns=True)
            case "notify":
                return start(self._followed, skips=[mesh.UPDATED.name], checked=partial(_kept, name, env))
        others = [topic.name for topic in mesh.MESH_TOPICS if topic.name not in self._followed]
        return start(self._followed, skips=others, checked=partial(_kept, name, env))

    def _service_env(self, directory: Path) -> dict[str, str]:
        nowhere = str(free_port())
        env = project_env(
            KAFKA_BOOTSTRAP_SERVERS=self._bootstrap,
            HTTP_HOST=LOOPBACK,
            HTTP_PORT=str(free_port()),
            JURISDICTION_DIR=str(self._inputs.jurisdiction_dir),
            DATA_DIR=str(directory),
            LOG_LEVEL="warning",
            SMPP_HOST=LOOPBACK,
            SMPP_PORT=nowhere,
            SMPP_SYSTEM_ID="nobody",
            SMPP_PASSWORD="nobody",  # noqa: S106
            SMTP_HOST=LOOPBACK,
            SMTP_PORT=nowhere,
        )
        env.pop("MONGODB_URL", None)
        return env


async def _kept(name: str, env: Mapping[str, str], committed: int) -> None:
    """Raise Wrong unless the stage's own store holds what so many events have to leave there."""
    collections, events_a_row = KEEPS[name]
    store = open_store(
        name,
        mongodb_url=env.get("MONGODB_URL"),
        mongodb_database=env.get("MONGODB_DATABASE", ""),
        data_dir=Path(env["DATA_DIR"]),
    )
    await store.open()
    try:
        rows = sum([1 for collection in collections async for _ in store.collection(collection).scan()])
    finally:
        await store.close()
    if rows < committed // events_a_row:
        raise Wrong(f"{name} committed {committed} events and kept only {rows} rows")


def _content(publications: Sequence[Publication]) -> Content:
    return [(one.key.encode(), one.value) for one in publications]
