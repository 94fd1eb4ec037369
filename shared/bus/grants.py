"""Who may do what, on a cluster whose brokers know their clients by name.

An agency is known by its topic's name, and nothing that it writes could prove more: so on a cluster that others than
the mesh can reach, it alone may be allowed to write there.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

from aiokafka.errors import SecurityDisabled, for_code
from aiokafka.protocol.admin import CreateAclsRequest

from shared.bus.access import KafkaAccess
from shared.bus.admin import administering
from shared.contract.topics import MESH_TOPICS, agency_topic

SERVICES = "guichet"
"""The name under which all services of the mesh speak to Kafka."""

_ALLOW = 3
_ANYWHERE = "*"


class Kind(IntEnum):
    """Of what a grant is, by Kafka's numbers."""

    TOPIC = 2
    GROUP = 3


class Pattern(IntEnum):
    """Whether one thing is meant by its name, or all whose names begin with it; by Kafka's numbers."""

    LITERAL = 3
    PREFIXED = 4


class Operation(IntEnum):
    """What is allowed, by Kafka's numbers. Who may read or write may look, too."""

    READ = 3
    WRITE = 4


class NoAuthorizer(Exception):
    """The brokers let everybody do everything, and have nowhere to keep a grant."""


@dataclass(frozen=True, slots=True)
class Grant:
    """That a user may do something with a topic or a group."""

    user: str
    operation: Operation
    kind: Kind
    name: str
    pattern: Pattern = Pattern.LITERAL


def grants(agencies: Sequence[str]) -> list[Grant]:
    """What the mesh needs: each agency, under its own name, may write to its topic, and nothing else; the services may
    read what agencies write, and read and write the topics of the mesh.

    No agency may read those: what all citizens asked of all agencies stands on them.
    """
    return [
        *(Grant(agency, Operation.WRITE, Kind.TOPIC, agency_topic(agency)) for agency in agencies),
        Grant(SERVICES, Operation.READ, Kind.TOPIC, "agency.", Pattern.PREFIXED),
        *(
            Grant(SERVICES, operation, Kind.TOPIC, topic.name)
            for topic in MESH_TOPICS
            for operation in (Operation.READ, Operation.WRITE)
        ),
        Grant(SERVICES, Operation.READ, Kind.GROUP, "guichet-", Pattern.PREFIXED),
    ]


async def apply_grants(access: KafkaAccess, wanted: Sequence[Grant]) -> None:
    """Let these be allowed, besides what is; safe to repeat. NoAuthorizer, or Unavailable if no broker answers."""
    async with administering(access) as client:
        for grant in wanted:
            # aiokafka's admin client knows the request, but has no call of its own for it.
            answer = await client._send_request(
                CreateAclsRequest(
                    grant.kind,
                    grant.name,
                    grant.pattern,
                    f"User:{grant.user}",
                    _ANYWHERE,
                    grant.operation,
                    _ALLOW,
                )
            )
            for code, message in answer.creation_responses:
                if code == SecurityDisabled.errno:
                    raise NoAuthorizer("the brokers have no authorizer: see authorizer.class.name in Kafka's settings")
                if code:
                    raise for_code(code)(message)
