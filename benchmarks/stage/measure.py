"""Every stage on both stores and every peer, round by round, on one broker."""

from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack

from benchmarks.harness.report import Bench, Outcome, Table
from benchmarks.harness.rounds import Rounds, interleaved
from benchmarks.peers.environments import versions
from benchmarks.stage.contenders import PEERS_TOPIC, Field
from benchmarks.stage.inputs import make_inputs
from benchmarks.stage.topics import topics_on
from deploy.local.kafka import KafkaCluster
from deploy.local.mongo import MongoServer
from shared.clock import SystemClock

EVENTS = 50_000
STAGES = ("intake", "routing", "notify", "metrics")
STORES = ("sqlite", "mongodb")


async def measure(bench: Bench) -> Outcome:
    """Each stage's rate and cost, and its rate as a multiple of each peer's."""
    stages = (bench.only,) if bench.only else STAGES
    bench.say(f"making {EVENTS:,} events of each sort")
    inputs = await make_inputs(EVENTS, bench.directory, SystemClock())
    kafka, mongo = KafkaCluster(bench.directory / "kafka"), MongoServer(bench.directory / "mongo")
    async with topics_on(kafka, inputs.jurisdiction_dir) as topics, AsyncExitStack() as stack:
        stack.push_async_callback(mongo.stop)
        await mongo.start()
        await topics.hold(PEERS_TOPIC, ())
        field = Field(bench.directory, inputs, topics, kafka, mongo)
        peers = await field.peers()
        ours = {_contender(stage, store): field.stage(stage, store) for stage in stages for store in STORES}
        # What MongoDB's stand-in makes of it is worth one look: its own work is nearly all that is seen there.
        slow = [_contender(stage, "mongodb") for stage in stages]
        rounds = await interleaved(ours | peers, bench.rounds, say=bench.say, first_round_only=slow)
    return _outcome(rounds, stages, list(peers))


def _outcome(rounds: Rounds, stages: Sequence[str], peers: Sequence[str]) -> Outcome:
    figures: dict[str, object] = {
        stage: {
            **{store: rounds.medians(_contender(stage, store)) for store in STORES},
            "ratio": _ratios(rounds, _contender(stage, "sqlite"), peers),
            "ratio_mongodb": _ratios(rounds, _contender(stage, "mongodb"), peers),
        }
        for stage in stages
    }
    figures["peers"] = {peer: rounds.medians(peer) for peer in peers}
    ours = [_contender(stage, store) for stage in stages for store in STORES]
    rates = [[one, *(f"{rounds.ratio(one, peer):.2f} ×" for peer in peers)] for one in ours]
    return Outcome(
        figures,
        [
            Table("Events a second, as a multiple of each peer's", ["", *peers], rates),
            Table(
                "Absolute, and CPU time by process",
                ["", "events/s", "own µs/event", "Kafka's µs/event", "MongoDB's µs/event"],
                [_absolute(one, rounds.medians(one)) for one in (*ours, *peers)],
            ),
        ],
        versions(),
    )


def _contender(stage: str, store: str) -> str:
    return f"{stage} {store}"


def _ratios(rounds: Rounds, contender: str, peers: Sequence[str]) -> dict[str, float]:
    return {peer: rounds.ratio(contender, peer) for peer in peers}


def _absolute(name: str, medians: Mapping[str, float]) -> list[str]:
    costs = (medians.get(f"{of}cpu_us") for of in ("", "kafka_", "mongodb_"))
    return [name, f"{medians['per_second']:,.0f}", *("" if cost is None else f"{cost:.1f}" for cost in costs)]
