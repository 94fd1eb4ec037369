"""The contract as documents: a JSON Schema for each event type and one AsyncAPI document, generated from the models.

`python -m shared.contract` writes them to docs/contract. The same contract gives the same bytes.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

import yaml
from msgspec.json import schema_components
from pydantic.json_schema import GenerateJsonSchema

from shared.contract.agency import AgencyEvent, RequestSubmitted, StatusChanged
from shared.contract.events import Event
from shared.contract.reasons import MEANINGS, Reason
from shared.contract.topics import (
    ACCEPTED,
    ASSIGNED,
    DEAD_LETTERS,
    MESH_TOPICS,
    OUTCOME,
    OVERDUE,
    REJECTED,
    UNROUTABLE,
    UPDATED,
    Topic,
)

EventType = type[Event] | type[AgencyEvent]

AGENCY_EVENTS: tuple[type[AgencyEvent], ...] = (RequestSubmitted, StatusChanged)
MESH_EVENTS: tuple[type[Event], ...] = tuple(topic.event for topic in MESH_TOPICS)
EVENTS: tuple[EventType, ...] = (*AGENCY_EVENTS, *MESH_EVENTS)
"""Every event type of the contract, in its present version."""

DIALECT = "https://json-schema.org/draft/2020-12/schema"

RECEIVES: Mapping[str, tuple[Topic, ...]] = {
    "intake": (),
    "routing": (ACCEPTED, UPDATED),
    "notify": (ACCEPTED, UPDATED, ASSIGNED),
    "metrics": MESH_TOPICS,
}
"""The topics of the mesh that each service reads. Intake reads the agencies' topics."""

SENDS: Mapping[str, tuple[Topic, ...]] = {
    "intake": (ACCEPTED, REJECTED, UPDATED, DEAD_LETTERS),
    "routing": (ASSIGNED, OVERDUE, UNROUTABLE, DEAD_LETTERS),
    "notify": (OUTCOME, DEAD_LETTERS),
    "metrics": (DEAD_LETTERS,),
}
"""The topics that each service writes to."""

_AGENCY_CHANNEL = "agency.events"
_AGENCY_KEY = (
    "Any, or none; it proves nothing. With the agency's own number for a request as key, the request's events keep "
    "their order."
)


def documents() -> dict[str, str]:
    """Every generated file: its path below docs/contract, and its text."""
    files = {
        f"schemas/{event.TYPE}.json": json.dumps(event_schema(event), indent=2, sort_keys=True, ensure_ascii=False)
        + "\n"
        for event in EVENTS
    }
    heading = "# Generated from shared/contract by `python -m shared.contract`.\n"
    files["asyncapi.yaml"] = heading + yaml.dump(
        asyncapi(), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110
    )
    return files


def event_schema(event: EventType) -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of an event type, named `urn:guichet:schema:<type>`.

    For mesh events it says what readers rely on: fields a newer writer added are allowed. For agency events it says
    what intake takes, save for rules that need more than one value: the form of phones and mail addresses, times.
    """
    schema = _mesh_schema(event) if issubclass(event, Event) else event.model_json_schema(schema_generator=_Untitled)
    required = sorted({*schema["required"], "specversion", "type"})
    return {"$schema": DIALECT, "$id": f"urn:guichet:schema:{event.TYPE}", **schema, "required": required}


def asyncapi() -> dict[str, Any]:
    """The AsyncAPI 3.0 document, from the point of view of the mesh's services."""
    return {
        "asyncapi": "3.0.0",
        "id": "urn:guichet",
        "info": {
            "title": "Guichet",
            "version": "1.0.0",
            "description": _ABOUT + _reason_table(),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": "application/cloudevents+json",
        "channels": {_AGENCY_CHANNEL: _agency_channel(), **{topic.name: _channel(topic) for topic in MESH_TOPICS}},
        "operations": dict(_operations()),
        "components": {"messages": {event.TYPE: _message(event) for event in EVENTS}},
    }


def _mesh_schema(event: type[Event]) -> dict[str, Any]:
    _, parts = schema_components([event], ref_template="#/$defs/{name}")
    return {**parts.pop(event.__name__), "$defs": parts}


class _Untitled(GenerateJsonSchema):
    """Leaves out the titles that only repeat the names of fields."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 (pydantic's own form)
        return False

    def default_schema(self, schema: Any) -> dict[str, Any]:
        """Absent means null, or nothing in it, everywhere; saying so at every field would drown what is said."""
        generated = super().default_schema(schema)
        if not isinstance(generated.get("default"), str | int):
            generated.pop("default", None)
        return generated


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as they read."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represent_text)


def _agency_channel() -> dict[str, Any]:
    return {
        "address": "agency.{agency}.events",
        "description": "What one agency publishes. Only that agency may write to its topic: its name is who it is.",
        "parameters": {"agency": {"description": "The agency's id in the jurisdiction's register."}},
        "messages": _message_refs(AGENCY_EVENTS),
    }


def _channel(topic: Topic) -> dict[str, Any]:
    configuration: dict[str, Any] = {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms}
    configuration.update({name: int(value) for name, value in sorted(topic.settings.items())})
    return {
        "address": topic.name,
        "description": topic.about,
        "messages": _message_refs((topic.event,)),
        "bindings": {"kafka": {"topicConfiguration": configuration, "bindingVersion": "0.5.0"}},
    }


def _message_refs(events: Iterable[EventType]) -> dict[str, Any]:
    return {event.TYPE: {"$ref": f"#/components/messages/{event.TYPE}"} for event in events}


def _message(event: EventType) -> dict[str, Any]:
    key = next((topic.key for topic in MESH_TOPICS if topic.event is event), _AGENCY_KEY)
    return {
        "name": event.TYPE,
        "summary": event.__doc__,
        "contentType": "application/cloudevents+json",
        "payload": {"$ref": f"./schemas/{event.TYPE}.json"},
        "bindings": {"kafka": {"key": {"type": "string", "description": key}, "bindingVersion": "0.5.0"}},
    }


def _operations() -> Iterable[tuple[str, dict[str, Any]]]:
    yield f"intake.receive.{_AGENCY_CHANNEL}", _operation("intake", "receive", _AGENCY_CHANNEL, AGENCY_EVENTS)
    for service in RECEIVES:
        for topic in RECEIVES[service]:
            yield f"{service}.receive.{topic.name}", _operation(service, "receive", topic.name, (topic.event,))
        for topic in SENDS[service]:
            yield f"{service}.send.{topic.name}", _operation(service, "send", topic.name, (topic.event,))


def _operation(service: str, action: str, channel: str, events: Iterable[EventType]) -> dict[str, Any]:
    reference = f"#/channels/{channel}"
    operation: dict[str, Any] = {
        "action": action,
        "channel": {"$ref": reference},
        "tags": [{"name": service}],
        "messages": [{"$ref": f"{reference}/messages/{event.TYPE}"} for event in events],
    }
    if action == "receive":
        group = {"type": "string", "const": f"guichet-{service}"}
        operation["bindings"] = {"kafka": {"groupId": group, "bindingVersion": "0.5.0"}}
    return operation


_ABOUT = """\
An event mesh that carries citizens' requests for public services from agencies to the offices that answer them.

Every event is a CloudEvent 1.0 in structured JSON. Readers tolerate fields they do not know in events of the mesh;
in the `data` of agencies' events unknown fields are refused. A field is added, never retyped, renamed or reused.

Keys and partitions: every topic of the mesh has the same number of partitions, and the partition of a key is
`crc32(key) % partitions`; so all events of one request keep one partition number, and their order, on every topic.

An event may stand on a topic more than once, with the same bytes and the same `id`: drop what has been seen.

Reason codes, the same at every door. Codes are added, never renamed:

"""


def _reason_table() -> str:
    rows = [f"| `{reason.value}` | {MEANINGS[reason]} |" for reason in Reason]
    return "\n".join(["| code | meaning |", "|---|---|", *rows]) + "\n"
