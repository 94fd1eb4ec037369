"""What the HTTP door answers with, and its OpenAPI document: the same models that the door itself goes by."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from msgspec.json import schema_components
from pydantic.json_schema import models_json_schema

from shared.contract.agency import (
    MAX_BATCH_EVENTS,
    AgencyEvent,
    RequestSubmitted,
    RequestSubmittedData,
    StatusChanged,
    StatusChangedData,
)
from shared.contract.events import Moment, Part, Problem, Status
from shared.contract.reasons import Reason

JSON = "application/json"
STRUCTURED = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"
PROBLEM = "application/problem+json"


class EventResult(Part, frozen=True, kw_only=True):
    """What became of one event. Sent again with the same id and content, an event has the same result."""

    event_id: str | None = None
    status: int
    outcome: str
    request_id: str | None = None
    reference: str | None = None
    problems: tuple[Problem, ...] | None = None


class BatchResult(Part, frozen=True, kw_only=True):
    """What became of each event of a batch, in its order."""

    results: list[EventResult]


class ProblemDetails(Part, frozen=True, kw_only=True):
    """RFC 9457, with the reason code and, for an event, everything that is wrong with it."""

    type: str
    title: str
    status: int
    reason: Reason
    detail: str
    event_id: str | None = None
    problems: tuple[Problem, ...] | None = None


class StatusStep(Part, frozen=True, kw_only=True):
    """One change of a request's status."""

    status: Status
    at: Moment
    note: str | None = None


class RequestView(Part, frozen=True, kw_only=True):
    """A request as its agency sees it."""

    reference: str
    request_id: str
    agency_reference: str
    service_code: str
    status: Status
    submitted_at: Moment
    accepted_at: Moment | None = None
    history: list[StatusStep]


EXAMPLES: Mapping[str, dict[str, Any]] = {
    "RequestSubmitted": {
        "specversion": "1.0",
        "id": "2026-000123/submitted",
        "source": "/etat-civil/guichet-1",
        "type": RequestSubmitted.TYPE,
        "time": "2026-01-31T08:30:00+03:00",
        "data": {
            "agency_reference": "2026-000123",
            "service_code": "birth-certificate",
            "applicant": {"phone": "77 00 00 00", "email": "citoyen@example.org", "language": "fr"},
            "description": "Extrait d'acte de naissance, deux copies",
            "place": {"zone": "Balbala", "latitude": 11.57, "longitude": 43.12},
            "attributes": {"copies": 2},
        },
    },
    "StatusChanged": {
        "specversion": "1.0",
        "id": "2026-000123/resolved",
        "source": "/etat-civil/guichet-1",
        "type": StatusChanged.TYPE,
        "time": "2026-02-01T10:00:00+03:00",
        "data": {
            "agency_reference": "2026-000123",
            "status": "resolved",
            "note": "Vos copies vous attendent au guichet 1.",
        },
    },
}
"""An event of each type, valid in Djibouti."""

_REF = "#/components/schemas/"
_EVENT = {
    "oneOf": [{"$ref": f"{_REF}{name}"} for name in EXAMPLES],
    "discriminator": {
        "propertyName": "type",
        "mapping": {example["type"]: f"{_REF}{name}" for name, example in EXAMPLES.items()},
    },
}
_DATA = {"anyOf": [{"$ref": f"{_REF}{model.__name__}"} for model in (RequestSubmittedData, StatusChangedData)]}
_TAKEN = (RequestSubmitted, StatusChanged)
_ANSWERED = (EventResult, BatchResult, ProblemDetails, RequestView)


def _binary_attributes() -> list[dict[str, Any]]:
    """The attributes of CloudEvents as headers: in binary mode, and in no other."""
    return [
        {
            "name": f"ce-{name}",
            "in": "header",
            "required": False,
            "description": f"Binary mode: the attribute `{name}`, percent-encoded."
            + (" Required there." if attribute.is_required() else ""),
            "schema": {"type": "string"},
        }
        for name, attribute in AgencyEvent.model_fields.items()
        if name != "datacontenttype"
    ]


def _answers(*parts: type[Part], description: str, media_type: str = JSON) -> dict[str, Any]:
    schemas = [{"$ref": f"{_REF}{part.__name__}"} for part in parts]
    schema = schemas[0] if len(schemas) == 1 else {"oneOf": schemas}
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _problem(description: str, headers: Mapping[str, str] | None = None) -> dict[str, Any]:
    answer = _answers(ProblemDetails, description=description, media_type=PROBLEM)
    if headers:
        described = {name: {"description": about, "schema": {"type": "string"}} for name, about in headers.items()}
        answer["headers"] = described
    return answer


_UNAUTHENTICATED = _problem("No valid key.", {"WWW-Authenticate": "Always `Bearer`."})
_UNAVAILABLE = _problem("Nobody can say now: make the same call again.", {"Retry-After": "In seconds."})
_OTHERWISE = _problem("Another problem.")

_WITH_KEY: dict[str, Any] = {"security": [{"key": []}]}

EVENT_CALL: dict[str, Any] = {
    **_WITH_KEY,
    "parameters": _binary_attributes(),
    "requestBody": {
        "required": True,
        "content": {
            STRUCTURED: {"schema": _EVENT, "examples": {name: {"value": value} for name, value in EXAMPLES.items()}},
            BATCH: {
                "schema": {"type": "array", "items": _EVENT, "maxItems": MAX_BATCH_EVENTS},
                "examples": {"both": {"value": list(EXAMPLES.values())}},
            },
            JSON: {
                "schema": {"anyOf": [_EVENT, _DATA]},
                "examples": {
                    **{name: {"summary": "Structured mode", "value": value} for name, value in EXAMPLES.items()},
                    **{
                        f"{name}Data": {"summary": "Binary mode, with ce- headers", "value": value["data"]}
                        for name, value in EXAMPLES.items()
                    },
                },
            },
        },
    },
}

EVENT_RESPONSES: dict[int | str, dict[str, Any]] = {
    202: _answers(EventResult, BatchResult, description="Taken over, durably: the event, or every one of the batch."),
    207: _answers(BatchResult, description="A batch of which some events were refused: see each status."),
    400: _problem("The body or a header can't be read."),
    401: _UNAUTHENTICATED,
    409: _problem("It contradicts what was sent before."),
    413: _problem("Too large."),
    415: _problem("Not JSON in UTF-8, or compressed."),
    422: _problem("The event is not valid; problems names every field."),
    503: _UNAVAILABLE,
    "default": _OTHERWISE,
}

VIEW_CALL = _WITH_KEY

VIEW_RESPONSES: dict[int | str, dict[str, Any]] = {
    200: _answers(RequestView, description="Where the request stands."),
    401: _UNAUTHENTICATED,
    404: _problem("This agency has no such request."),
    503: _UNAVAILABLE,
    "default": _OTHERWISE,
}

LOOK_UP_CALL: dict[str, Any] = {
    **_WITH_KEY,
    "parameters": [
        {
            "name": "agency_reference",
            "in": "query",
            "required": True,
            "description": "The agency's own number for the request.",
            "schema": {"type": "string", "minLength": 1},
        }
    ],
}

LOOK_UP_RESPONSES: dict[int | str, dict[str, Any]] = {
    **VIEW_RESPONSES,
    422: _problem("The call does not say which number."),
}


def complete(api: FastAPI) -> None:
    """Give an application's OpenAPI document the models that the calls refer to, and the key that they need."""
    document = get_openapi(title=api.title, version=api.version, summary=api.summary, routes=api.routes)
    _, taken = models_json_schema([(model, "validation") for model in _TAKEN], ref_template=_REF + "{model}")
    _, answered = schema_components(_ANSWERED, ref_template=_REF + "{name}")
    document["components"] = {
        "schemas": {**taken["$defs"], **answered},
        "securitySchemes": {
            "key": {"type": "http", "scheme": "bearer", "description": "The agency's key: `<agency id>.<secret>`."}
        },
    }
    api.openapi = lambda: document  # type: ignore[method-assign] # FastAPI's own way to extend a document
