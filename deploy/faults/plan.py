"""Which faults come, in which order: a pure function of the seed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Final

from shared.failpoints import Action, Point


class Lane(StrEnum):
    """Faults of one lane come one after the other, each recovered from before the next; the lanes run side by side."""

    MESH = "mesh"
    PROVIDERS = "providers"


class Kind(StrEnum):
    """What goes wrong."""

    SERVICE_KILLED = "service_killed"
    KILLED_AT_FAILPOINT = "killed_at_failpoint"
    FAILED_AT_FAILPOINT = "failed_at_failpoint"
    STALLED_AT_FAILPOINT = "stalled_at_failpoint"
    SERVICE_FROZEN = "service_frozen"
    SERVICE_TERMINATED = "service_terminated"
    REBALANCE_STORM = "rebalance_storm"
    LEADER_KILLED = "leader_killed"
    BROKER_FROZEN = "broker_frozen"
    BROKERS_SHORT = "brokers_short"
    BROKERS_RESTARTED = "brokers_restarted"
    STORE_LOCKED = "store_locked"
    STORE_FULL = "store_full"
    POISON = "poison"
    SMSC_KILLED = "smsc_killed"
    SMSC_FROZEN = "smsc_frozen"
    SMSC_SLOW = "smsc_slow"
    SMSC_THROTTLING = "smsc_throttling"
    SMSC_FAILING = "smsc_failing"
    SMSC_CUT = "smsc_cut"
    SMSC_GARBLING = "smsc_garbling"
    RECEIPTS_DOUBLED = "receipts_doubled"
    RECEIPTS_LATE = "receipts_late"
    RECEIPTS_EARLY = "receipts_early"
    RECEIPTS_FORGED = "receipts_forged"
    RECEIPTS_FAILED = "receipts_failed"
    RECEIPTS_MISSING = "receipts_missing"
    SMTP_KILLED = "smtp_killed"
    SMTP_FROZEN = "smtp_frozen"
    SMTP_SLOW = "smtp_slow"
    SMTP_FAILING = "smtp_failing"
    SMTP_CUT = "smtp_cut"
    SMTP_GARBLING = "smtp_garbling"


FAILPOINTS: Final[Mapping[str, Sequence[Point]]] = {
    "intake": (Point.RECEIVED, Point.DECIDED, Point.STORED, Point.PARTLY_PUBLISHED, Point.PUBLISHED, Point.COMMITTED),
    "routing": (Point.RECEIVED, Point.DECIDED, Point.STORED, Point.PARTLY_PUBLISHED, Point.PUBLISHED, Point.COMMITTED),
    "notify": tuple(Point),
    "metrics": (Point.RECEIVED, Point.DECIDED, Point.STORED, Point.PUBLISHED, Point.COMMITTED),
}
"""The points that each service passes; metrics publishes nothing, so no part of it either."""

REPLICAS: Final[Mapping[str, int]] = {"intake": 1, "routing": 2, "notify": 2, "metrics": 1}
PROVIDERS: Final = 2
BROKERS: Final = 3


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault. `target` is a service, or the name of a process; empty where the kind says all.

    `seconds`: how long it lasts, or how long after a kill the process stays away. `failpoints`: what the process is
    told, in the words of `shared.failpoints`.
    """

    kind: Kind
    target: str = ""
    seconds: float = 0.0
    failpoints: str = ""

    def __str__(self) -> str:
        """As it is shown and reported."""
        lasting = f" {self.seconds:g} s" if self.seconds else ""
        return " ".join(filter(None, (self.kind, self.target, self.failpoints))) + lasting


MESH_KINDS: Final = tuple(Kind)[: tuple(Kind).index(Kind.SMSC_KILLED)]
PROVIDER_KINDS: Final = tuple(Kind)[len(MESH_KINDS) :]

_OFTEN: Final = (Kind.SERVICE_KILLED, Kind.KILLED_AT_FAILPOINT, Kind.KILLED_AT_FAILPOINT, Kind.KILLED_AT_FAILPOINT)
"""These come more often than the others: there are many places for them."""


def plan(seed: int, lane: Lane) -> Iterator[Fault]:
    """The faults of a lane, without end. Each kind comes once before any comes again."""
    rng = Random(f"{seed}/{lane}")  # noqa: S311 (nothing here is secret)
    deck = [*MESH_KINDS, *_OFTEN] if lane is Lane.MESH else list(PROVIDER_KINDS)
    while True:
        rng.shuffle(deck)
        for kind in deck:
            yield _drawn(kind, rng)


def sweep() -> list[list[Fault]]:
    """Each service killed at each of its failpoints, once; its replicas take turns, each in a lane of its own."""
    return [
        [
            Fault(Kind.KILLED_AT_FAILPOINT, numbered(service, replica), failpoints=f"{point}:{Action.KILL}")
            for point in FAILPOINTS[service][replica::replicas]
        ]
        for service, replicas in REPLICAS.items()
        for replica in range(replicas)
    ]


def each_once(seed: int, kinds: Sequence[Kind]) -> list[Fault]:
    """Each of these kinds once, as the seed draws them."""
    rng = Random(f"{seed}/once")  # noqa: S311 (nothing here is secret)
    return [_drawn(kind, rng) for kind in kinds]


def _drawn(kind: Kind, rng: Random) -> Fault:
    match kind:
        case Kind.SERVICE_KILLED:
            return Fault(kind, _process(rng), seconds=rng.choice((0.0, 0.0, 3.0)))
        case Kind.KILLED_AT_FAILPOINT:
            return _at_failpoint(kind, Action.KILL, rng, seconds=rng.choice((0.0, 0.0, 3.0)))
        case Kind.FAILED_AT_FAILPOINT:
            return _at_failpoint(kind, rng.choice((Action.RAISE, Action.AFTER)), rng)
        case Kind.STALLED_AT_FAILPOINT:
            return _at_failpoint(kind, Action.STALL, rng)
        case Kind.SERVICE_FROZEN:
            return Fault(kind, _process(rng), seconds=rng.choice((8.0, 10.0, 12.0)))  # a session lasts 6 s
        case Kind.SERVICE_TERMINATED:
            return Fault(kind, _process(rng))
        case Kind.REBALANCE_STORM:
            return Fault(kind, rng.choice(("routing", "notify")), seconds=12.0)
        case Kind.STORE_LOCKED:
            return Fault(kind, rng.choice(tuple(FAILPOINTS)), seconds=rng.choice((3.0, 8.0)))  # busy after 5 s
        case Kind.STORE_FULL:
            return Fault(kind, rng.choice(tuple(FAILPOINTS)), seconds=6.0)
        case Kind.LEADER_KILLED | Kind.BROKER_FROZEN:
            return Fault(kind, str(rng.randrange(BROKERS)), seconds=8.0)
        case Kind.BROKERS_SHORT:
            return Fault(kind, str(rng.randrange(BROKERS)), seconds=8.0)
        case Kind.BROKERS_RESTARTED | Kind.POISON:
            return Fault(kind)
        case Kind.SMSC_KILLED | Kind.SMSC_FROZEN | Kind.SMTP_KILLED | Kind.SMTP_FROZEN:
            return Fault(kind, _provider(kind, rng), seconds=rng.choice((3.0, 10.0)))
        case _:
            return Fault(kind, _provider(kind, rng), seconds=8.0)


def _process(rng: Random) -> str:
    service = rng.choice(tuple(REPLICAS))
    return numbered(service, rng.randrange(REPLICAS[service]))


def _at_failpoint(kind: Kind, action: Action, rng: Random, *, seconds: float = 0.0) -> Fault:
    service = rng.choice(tuple(FAILPOINTS))
    point = rng.choice(FAILPOINTS[service])
    return Fault(kind, service, seconds, f"{point}:{action}:{rng.randint(1, 4)}")


def _provider(kind: Kind, rng: Random) -> str:
    return numbered("smtp" if kind.startswith("smtp") else "smsc", rng.randrange(PROVIDERS))


def numbered(name: str, index: int) -> str:
    """What the local mesh calls the process of this index, from 0."""
    return name if index == 0 else f"{name}-{index + 1}"
