"""Apache Kafka itself, in KRaft combined mode (each process is broker and controller), on loopback."""

import asyncio
import base64
import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from deploy.local.jars import JAVA, SMALL_JVM, class_path, jars
from deploy.local.ports import LOOPBACK, free_port, listens
from deploy.local.process import Process, together
from deploy.local.tls import Certificate, make_certificate
from shared.bus.access import KafkaAccess

KAFKA_VERSION = "4.4.0"
_KAFKA = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
# Kafka brings log4j but nothing that ties slf4j to it, and would log nothing. Resolved apart, and only the
# tie is taken: together, one's bill of materials quietly replaces the other's versions (kafka-clients fell
# back to 3.9.1).
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"
_START_SECONDS = 60.0

_LOG4J = """\
status = error
shutdownHook = disable
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = [%d] %p %m (%c)%n
rootLogger.level = info
rootLogger.appenderRef.console.ref = console
logger.config.name = org.apache.kafka.common.config
logger.config.level = warn
"""


class KafkaCluster:
    """`brokers` Kafka processes on free loopback ports, their data and logs under `directory`.

    Records are replicated to every broker, up to three, and an acks=all write needs all of these but one. What was
    written stays when the cluster is stopped, and is there again for a cluster on the same directory. `settings` are
    further broker settings, and win over ours.

    With `users` (passwords by name) every broker has a second listener, with TLS and SCRAM, at which a user may do what
    grants say; at the first one anybody may do anything.
    """

    version = KAFKA_VERSION

    def __init__(
        self,
        directory: Path,
        brokers: int = 1,
        *,
        settings: Mapping[str, object] | None = None,
        users: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory
        self._further_settings = settings or {}
        self._users = users or {}
        self._certificate: Certificate | None = None
        self._secured_ports = [free_port() for _ in range(brokers if self._users else 0)]
        self.replication = min(brokers, 3)
        self._ports = [free_port() for _ in range(brokers)]
        self._controller_ports = [free_port() for _ in range(brokers)]
        self.processes: list[Process] = []

    @property
    def bootstrap(self) -> str:
        """`host:port` of every broker, separated by commas."""
        return ",".join(map(self._address, range(len(self._ports))))

    @property
    def access(self) -> KafkaAccess:
        """The way to them, which asks for nothing."""
        return KafkaAccess(self.bootstrap)

    def access_as(self, user: str) -> KafkaAccess:
        """The way to them for one of `users`, once they were started."""
        if self._certificate is None:
            raise RuntimeError("the brokers were not started with users")
        return KafkaAccess(
            ",".join(f"{LOOPBACK}:{port}" for port in self._secured_ports),
            protocol="SASL_SSL",
            username=user,
            password=self._users[user],
            ca_file=self._certificate.ca_file,
        )

    async def start(self) -> None:
        """Return when every broker answers and knows all the others; after `stop` or `kill_all`, with their old data.

        Raises PartFailed.
        """
        kafka, logging = await jars(_KAFKA), await jars(_LOGGING)
        classes = class_path([*kafka, *(jar for jar in logging if jar.name.startswith("log4j-slf4j"))])
        cluster_id = self._cluster_id()
        if self._users and self._certificate is None:
            self._certificate = await make_certificate(self.directory / "tls")
        self.processes = [self._process(index, classes) for index in range(len(self._ports))]
        await together(*(self._format(index, classes, cluster_id) for index in range(len(self._ports))))
        for process in self.processes:
            process.start()
        await together(*(self._in_service(index) for index in range(len(self._ports))))

    async def stop(self) -> None:
        """Stop all brokers; what they acknowledged is kept."""
        # Brokers say goodbye to the quorum's leader. When all go, most wait for one in vain, and need not: they
        # find their data again as after a crash.
        grace_seconds = 10.0 if len(self.processes) == 1 else 2.0
        await asyncio.gather(*(process.stop(grace_seconds) for process in self.processes))

    async def kill(self, index: int) -> None:
        """End one broker with SIGKILL, as a crash would. Brokers are counted from 0; their Kafka node ids from 1."""
        await self.processes[index].kill()

    async def kill_all(self) -> None:
        """End all brokers at once, as a power cut would."""
        await asyncio.gather(*(process.kill() for process in self.processes))

    async def restart(self, index: int) -> None:
        """Start a broker that was killed, or stop and start one that runs; on its old port, with its old data."""
        await self.processes[index].stop()
        self.processes[index].start()
        await self._in_service(index)

    async def leader(self, topic: str, partition: int) -> int | None:
        """Which broker leads a partition, counted from 0; None while none does.

        Any broker may be asked: raises KafkaError if that one does not answer, as for some seconds after one ended.
        """
        client = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap, request_timeout_ms=3000)
        try:
            await client.start()
            [described] = await client.describe_topics([topic])
        finally:
            await client.close()
        nodes = {one["partition"]: one["leader"] for one in described["partitions"]}
        return nodes[partition] - 1 if nodes[partition] > 0 else None

    def _address(self, index: int) -> str:
        return f"{LOOPBACK}:{self._ports[index]}"

    def _home(self, index: int) -> Path:
        return self.directory / f"broker-{index}"

    def _cluster_id(self) -> str:
        """The same for ever in one directory, so that its data is recognised after a restart."""
        file = self.directory / "cluster-id"
        if not file.exists():
            self.directory.mkdir(parents=True, exist_ok=True)
            # The storage tool takes a leading hyphen for another option: Kafka's own ids never begin with one.
            identity = next(one for one in iter(_random_id, "") if not one.startswith("-"))
            file.write_text(identity)
        return file.read_text()

    def _process(self, index: int, classes: str) -> Process:
        home = self._home(index)
        home.mkdir(parents=True, exist_ok=True)
        (home / "log4j2.properties").write_text(_LOG4J)
        (home / "server.properties").write_text(_properties(self._settings(index)))
        return Process(
            f"kafka-{index}",
            _java(classes, home, "kafka.Kafka", str(home / "server.properties")),
            env=os.environ,
            log_path=self.directory / f"kafka-{index}.log",
        )

    async def _format(self, index: int, classes: str, cluster_id: str) -> None:
        home = self._home(index)
        if (home / "data" / "meta.properties").exists():
            return
        users = (f"SCRAM-SHA-512=[name={name},password={password}]" for name, password in self._users.items())
        arguments = (
            *("format", "--cluster-id", cluster_id, "--config", str(home / "server.properties")),
            *(part for user in users for part in ("--add-scram", user)),
        )
        formatting = Process(
            f"kafka-{index}-format",
            _java(classes, home, "kafka.tools.StorageTool", *arguments),
            env=os.environ,
            log_path=self.directory / f"kafka-{index}.log",
        )
        formatting.start()
        await formatting.completes(within_seconds=_START_SECONDS)

    async def _in_service(self, index: int) -> None:
        await self.processes[index].answers(lambda: self._knows_all(index), within_seconds=_START_SECONDS)

    async def _knows_all(self, index: int) -> bool:
        if not await listens(self._ports[index]):
            return False  # asked first because the client would log each refusal as an error
        client = AIOKafkaAdminClient(bootstrap_servers=self._address(index), request_timeout_ms=3000)
        try:
            await client.start()
            known = (await client.describe_cluster())["brokers"]
        except (KafkaError, OSError):
            return False
        finally:
            await client.close()
        running = sum(process.alive for process in self.processes)
        return len(known) >= running

    def _settings(self, index: int) -> Mapping[str, object]:
        count = len(self._ports)
        in_sync = max(1, self.replication - 1)
        clients = f"PLAINTEXT://{self._address(index)}"
        if self._users:
            clients += f",SECURED://{LOOPBACK}:{self._secured_ports[index]}"
        voters = (f"{node}@{LOOPBACK}:{port}" for node, port in enumerate(self._controller_ports, start=1))
        return {
            "process.roles": "broker,controller",
            "node.id": index + 1,
            "controller.quorum.voters": ",".join(voters),
            "controller.listener.names": "CONTROLLER",
            "listeners": f"{clients},CONTROLLER://{LOOPBACK}:{self._controller_ports[index]}",
            "advertised.listeners": clients,
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,SECURED:SASL_SSL,CONTROLLER:PLAINTEXT",
            "log.dirs": self._home(index) / "data",
            "auto.create.topics.enable": "false",
            "group.initial.rebalance.delay.ms": 0,
            "default.replication.factor": self.replication,
            "min.insync.replicas": in_sync,
            "offsets.topic.replication.factor": self.replication,
            "transaction.state.log.replication.factor": self.replication,
            "transaction.state.log.min.isr": in_sync,
            "share.coordinator.state.topic.replication.factor": self.replication,
            "share.coordinator.state.topic.min.isr": in_sync,
            # Fifty partitions, the default, are made when the first consumer comes, and moved when a broker
            # dies.
            "offsets.topic.num.partitions": 4 * count,
            "transaction.state.log.num.partitions": 4 * count,
            # Notice a dead broker in 3 s rather than 9, and elect at once: writers wait 4 s at most instead
            # of 12.
            "broker.session.timeout.ms": 3000,
            "broker.heartbeat.interval.ms": 500,
            "controller.quorum.election.timeout.ms": 500,
            "controller.quorum.fetch.timeout.ms": 1000,
            "controller.quorum.request.timeout.ms": 1000,
            **self._security(),
            **self._further_settings,
        }

    def _security(self) -> Mapping[str, object]:
        if self._certificate is None:
            return {}
        login = "org.apache.kafka.common.security.scram.ScramLoginModule required;"
        return {
            "sasl.enabled.mechanisms": "SCRAM-SHA-512",
            "listener.name.secured.scram-sha-512.sasl.jaas.config": login,
            "ssl.keystore.type": "PKCS12",
            "ssl.keystore.location": self._certificate.keystore,
            "ssl.keystore.password": self._certificate.password,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }


def _random_id() -> str:
    return base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()


def _properties(settings: Mapping[str, object]) -> str:
    return "".join(f"{key}={value}\n" for key, value in settings.items())


def _java(classes: str, home: Path, main_class: str, *arguments: str) -> list[str | Path]:
    logging = f"-Dlog4j2.configurationFile={home / 'log4j2.properties'}"
    return [JAVA, "-Xmx512m", *SMALL_JVM, logging, "-cp", classes, main_class, *arguments]
