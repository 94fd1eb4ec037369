"""The HTTP door: CloudEvents 1.0 over HTTP, structured, binary or batched.

202 is said only once every in-sync replica has what was accepted. Whatever is wrong is said in RFC 9457 problem
details, with the same reason codes as at the Kafka door.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, partial
from typing import Any
from urllib.parse import unquote

from fastapi import FastAPI, Request
from fastapi.responses import Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.intake.agency_event import AgencyEvent
from services.intake.domain import Received, RequestState, Verdict
from services.intake.keys import Authenticator
from services.intake.openapi import (
    BATCH,
    EVENT_CALL,
    EVENT_RESPONSES,
    JSON,
    LOOK_UP_CALL,
    LOOK_UP_RESPONSES,
    PROBLEM,
    STRUCTURED,
    VIEW_CALL,
    VIEW_RESPONSES,
    BatchResult,
    EventResult,
    ProblemDetails,
    RequestView,
    StatusStep,
    complete,
)
from services.intake.reference import normalise
from services.intake.validation import Refused, check_event, read_event, read_json, refuse, write_json
from shared.bus.gather import Gatherer
from shared.bus.port import Unavailable
from shared.clock import Clock
from shared.contract.agency import MAX_BATCH_BYTES, MAX_BATCH_EVENTS, MAX_EVENT_BYTES
from shared.contract.events import Door, Part, Problem, RequestRejected
from shared.contract.reasons import MEANINGS, Reason
from shared.http import Answer, Fields
from shared.jurisdiction import Agency
from shared.log import get_logger
from shared.metrics import IntakeMetrics
from shared.store.port import Collection, StoreUnavailable

EVENTS = "/v1/events"
REQUESTS = "/v1/requests"
REQUEST = "/v1/requests/{reference}"
ROUTES = frozenset({EVENTS, REQUESTS, REQUEST})
RETRY_AFTER_SECONDS = 5

Find = Callable[[str, str], Awaitable[RequestState | None]]
"""The request that an agency, by its id, knows by a number of its own."""

log = get_logger(__name__)

_STATUS_OF = {
    Reason.EMPTY: 400,
    Reason.NOT_UTF8: 400,
    Reason.NOT_JSON: 400,
    Reason.DUPLICATE_KEY: 400,
    Reason.TOO_DEEP: 400,
    Reason.NUMBER_OUT_OF_RANGE: 400,
    Reason.INVALID_HEADER: 400,
    Reason.TOO_LARGE: 413,
    Reason.UNSUPPORTED_MEDIA_TYPE: 415,
    Reason.EVENT_ID_REUSED: 409,
    Reason.DUPLICATE_REQUEST: 409,
    Reason.REQUEST_CLOSED: 409,
    Reason.STATUS_SUPERSEDED: 409,
    Reason.TOO_MANY_CHANGES: 409,
    Reason.UNAUTHENTICATED: 401,
    Reason.NOT_FOUND: 404,
    Reason.METHOD_NOT_ALLOWED: 405,
    Reason.UNAVAILABLE: 503,
}


@dataclass(frozen=True, slots=True)
class Head:
    """What the headers of a call to publish say, and when they came."""

    fields: Fields
    agency: Agency
    kind: str
    received_at: datetime

    @property
    def limit(self) -> int:
        """How long its body may be, in bytes."""
        return MAX_BATCH_BYTES if self.kind == BATCH else MAX_EVENT_BYTES


class HttpDoor:
    """Reads HTTP calls of agencies, has them decided in gathered batches, and says what became of them."""

    def __init__(
        self,
        *,
        authenticator: Authenticator,
        gatherer: Gatherer[Received, Verdict],
        requests: Collection,
        find: Find,
        clock: Clock,
        phone_region: str,
        metrics: IntakeMetrics,
    ) -> None:
        self._authenticator = authenticator
        self._gatherer = gatherer
        self._requests = requests
        self._find = find
        self._clock = clock
        self._phone_region = phone_region
        self._durations = Durations(metrics)

    async def publish(self, scope: Scope, receive: Receive) -> Answer:
        """The answer to a call with one event (structured or binary mode) or a batch of up to 500."""
        try:
            head = self._head(scope["headers"])
            events = self._events(head, await _body(head, receive))
            return _said(head, await self._gatherer.submit(events))
        except asyncio.CancelledError:
            # Only a server that is told to stop cancels a call, and lets it still be answered.
            return _why_not(Unavailable("the service stops"))
        except _TOLD as why:
            return _why_not(why)

    def take(self, fields: Fields, body: bytes, answer: Callable[[Answer], None]) -> None:
        """As `publish`, of a call that is there whole: hands over the answer, now or later."""
        started = time.perf_counter()

        def tell(said: Answer) -> None:
            self._durations.observe(EVENTS, said.status, started)
            answer(said)

        def decided(head: Head, verdicts: asyncio.Future[Sequence[Verdict]]) -> None:
            why = verdicts.exception()
            tell(_said(head, verdicts.result()) if why is None else _why_not(why))

        try:
            head = self._head(fields)
            _check_length(len(body), head.limit)
            verdicts = self._gatherer.submit(self._events(head, body))
        except Exception as why:
            tell(_why_not(why))
            return
        verdicts.add_done_callback(partial(decided, head))

    async def view(self, scope: Scope, reference: str) -> Answer:
        """A request, to the agency that owns it; to any other it does not exist."""
        try:
            return await self._view(scope["headers"], reference)
        except _TOLD as why:
            return _why_not(why)

    async def look_up(self, scope: Scope, agency_reference: str) -> Answer:
        """The request that the calling agency knows by this number of its own."""
        try:
            agency = self._authenticated(_first(scope["headers"]))
            if not agency_reference:
                refuse(Reason.MISSING_FIELD, "say which number of yours: ?agency_reference=…", "agency_reference")
            state = await self._find(agency.id, agency_reference)
            if state is None:
                refuse(Reason.NOT_FOUND, "this agency has submitted no request under this agency_reference")
            return _shown(state)
        except _TOLD as why:
            return _why_not(why)

    def _head(self, fields: Fields) -> Head:
        headers = _first(fields)
        agency = self._authenticated(headers)
        return Head(fields, agency, _media_type(headers), self._clock.now())

    def _events(self, head: Head, body: bytes) -> list[Received]:
        def received(event: AgencyEvent | Refused, content: bytes) -> Received:
            return Received(head.agency.id, Door.HTTP, event, head.received_at, content)

        if head.kind == BATCH:
            return [received(self._checked(head, value, content), content) for value, content in _split(body)]
        return [received(*self._read(head, body))]

    async def _view(self, fields: Fields, reference: str) -> Answer:
        agency = self._authenticated(_first(fields))
        wanted = normalise(reference)
        if wanted is None:
            refuse(Reason.NOT_FOUND, "this is no reference: it has a wrong length or check character")
        row = (await self._requests.get_many([wanted])).get(wanted)
        state = RequestState.from_json(row.body) if row else None
        if state is None or state.accepted.data.request.agency != agency.id:
            refuse(Reason.NOT_FOUND, "this agency has no request of this reference")
        return _shown(state)

    def _authenticated(self, headers: Mapping[bytes, bytes]) -> Agency:
        agency = self._authenticator.agency(headers.get(b"authorization", b"").decode("latin-1"))
        if agency is None:
            detail = "no agency has this key, or there is none: send Authorization: Bearer <agency id>.<secret>"
            refuse(Reason.UNAUTHENTICATED, detail)
        return agency

    def _read(self, head: Head, body: bytes) -> tuple[AgencyEvent | Refused, bytes]:
        """What a call with one event says, and the event as JSON."""
        try:
            # The content type tells structured from binary mode, whatever other headers say.
            if head.kind == JSON and any(name.startswith(b"ce-") for name, _ in head.fields):
                value = _binary(head.fields, body)
                content = write_json(value)
                return self._checked(head, value, content), content
            return read_event(body, now=head.received_at, phone_region=self._phone_region), body
        except Refused as refusal:
            return refusal, body

    def _checked(self, head: Head, value: Any, content: bytes) -> AgencyEvent | Refused:
        if len(content) > MAX_EVENT_BYTES:
            problem = Problem(reason=Reason.TOO_LARGE, detail=f"an event has at most {MAX_EVENT_BYTES} bytes")
            return Refused(problem)
        try:
            return check_event(value, content, now=head.received_at, phone_region=self._phone_region)
        except Refused as refusal:
            return refusal


class Durations:
    """How long calls take, by route and status class; both are closed lists."""

    def __init__(self, metrics: IntakeMetrics) -> None:
        self._histograms = cache(metrics.http_seconds.labels)

    def observe(self, path: str, status: int, started: float) -> None:
        """Take in a call that ends now; `started` is what time.perf_counter() said when it began."""
        route = path if path in ROUTES else "unmatched"
        self._histograms(route, f"{status // 100}xx").observe(time.perf_counter() - started)


class Timed:
    """ASGI middleware that measures each call."""

    def __init__(self, app: ASGIApp, *, metrics: IntakeMetrics) -> None:
        self._app = app
        self._durations = Durations(metrics)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        status = 500

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, noting)
        finally:
            self._durations.observe(getattr(scope.get("route"), "path", ""), status, started)


def build_http(door: HttpDoor, metrics: IntakeMetrics) -> FastAPI:
    """The HTTP application of intake, with its OpenAPI document at /openapi.json and /docs."""
    api = FastAPI(
        title="Guichet intake",
        version="1",
        summary="Agencies publish citizens' requests here and see what became of them.",
        redoc_url=None,
        redirect_slashes=False,
        # Nothing here is told by OpenTelemetry, and to look at each call whether it should be takes 11 µs of it.
        telemetry={"tracing": False, "metrics": False, "logs": False},
    )
    api.add_middleware(Timed, metrics=metrics)

    @api.post(EVENTS, response_model=None, status_code=202, responses=EVENT_RESPONSES, openapi_extra=EVENT_CALL)
    async def publish(request: Request) -> Response:
        """Publish one event or a batch; 202 means that it is durable and will be told to citizen and office."""
        return _response(await door.publish(request.scope, request.receive))

    @api.get(REQUESTS, response_model=None, responses=LOOK_UP_RESPONSES, openapi_extra=LOOK_UP_CALL)
    async def look_up(request: Request) -> Response:
        """A request of the calling agency, by the agency's own number: whichever door it came in at."""
        return _response(await door.look_up(request.scope, request.query_params.get("agency_reference", "")))

    @api.get(REQUEST, response_model=None, responses=VIEW_RESPONSES, openapi_extra=VIEW_CALL)
    async def view(request: Request, reference: str) -> Response:
        """A request of the calling agency, by the citizen's reference."""
        return _response(await door.view(request.scope, reference))

    @api.exception_handler(HTTPException)
    async def not_served(_request: Request, error: HTTPException) -> Response:
        # Only the router raises these: an unknown path or a method that a path does not have.
        reason = Reason.METHOD_NOT_ALLOWED if error.status_code == 405 else Reason.NOT_FOUND
        return _response(_problem((Problem(reason=reason, detail=str(error.detail)),), headers=error.headers))

    complete(api)
    return api


_TOLD = (Refused, Unavailable, StoreUnavailable, ClientDisconnect)
"""What a call may meet with and its agency is told of."""


def _why_not(why: BaseException) -> Answer:
    """In problem details why there is no other answer."""
    match why:
        case Refused():
            return _problem(why.problems, event_id=why.event_id)
        case Unavailable() | StoreUnavailable():
            log.warning("an agency is told to try again", cause=type(why).__name__, detail=str(why))
            # What failed is in the log and in /ready; an agency needs to know only that it may try again.
            detail = "no answer can be given now; make the same call again, an event with the same id"
            return _problem((Problem(reason=Reason.UNAVAILABLE, detail=detail),))
        case ClientDisconnect():
            return _problem((Problem(reason=Reason.EMPTY, detail="the connection ended before the body did"),))
        case _:
            log.error("a call could not be answered", exc_info=why)
            return Answer(500, "text/plain", b"Internal Server Error")


def _response(answer: Answer) -> Response:
    return Response(answer.body, answer.status, dict(answer.headers), answer.media_type)


def _first(fields: Fields) -> Mapping[bytes, bytes]:
    """The headers by name; of several with one name the first."""
    return dict(reversed(fields))


def _media_type(headers: Mapping[bytes, bytes]) -> str:
    if headers.get(b"content-encoding", b"identity").lower() != b"identity":
        refuse(Reason.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not taken", "content-encoding")
    written = headers.get(b"content-type", b"").decode("latin-1")
    kind, _, parameters = written.partition(";")
    kind = kind.strip().lower()
    charset = parameters.replace(" ", "").lower()
    if kind not in (STRUCTURED, BATCH, JSON) or charset not in ("", "charset=utf-8", 'charset="utf-8"'):
        refuse(
            Reason.UNSUPPORTED_MEDIA_TYPE,
            f"send {STRUCTURED}, {BATCH} or {JSON}, in UTF-8",
            "content-type",
        )
    return kind


async def _body(head: Head, receive: Receive) -> bytes:
    """The body, refused before it is read whole or parsed if it is larger than may be."""
    declared = _first(head.fields).get(b"content-length", b"0")
    if declared.isdigit() and (len(declared) > 12 or int(declared) > head.limit):
        refuse(Reason.TOO_LARGE, f"at most {head.limit} bytes are taken, more were announced")
    body = bytearray()
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        body += message.get("body", b"")
        more = message.get("more_body", False)
        _check_length(len(body), head.limit)
    return bytes(body)


def _check_length(length: int, limit: int) -> None:
    if length > limit:
        refuse(Reason.TOO_LARGE, f"at most {limit} bytes are taken")


def _split(body: bytes) -> list[tuple[Any, bytes]]:
    values = read_json(body)
    if not isinstance(values, list):
        refuse(Reason.NOT_A_CLOUDEVENT, "a batch is a JSON array of events")
    if len(values) > MAX_BATCH_EVENTS:
        refuse(Reason.TOO_MANY, f"a batch has at most {MAX_BATCH_EVENTS} events, this one has {len(values)}")
    return [(value, write_json(value)) for value in values]


def _binary(fields: Fields, body: bytes) -> dict[str, Any]:
    """The event of CloudEvents binary mode: attributes in ce- headers, percent-encoded; the body is its data."""
    event: dict[str, Any] = {}
    for field, content in fields:
        name, written = field.decode("latin-1"), content.decode("latin-1")
        if not name.startswith("ce-"):
            continue
        attribute = name.removeprefix("ce-")
        if attribute in ("data", "datacontenttype"):
            refuse(Reason.INVALID_HEADER, "in binary mode this is no attribute", name)
        if attribute in event:
            refuse(Reason.INVALID_HEADER, "it is there twice", name)
        try:
            if not written.isascii():
                raise ValueError("a header is ASCII")
            event[attribute] = unquote(written, errors="strict")
        except ValueError:
            refuse(Reason.INVALID_HEADER, "it is not percent-encoded UTF-8", name)
    event["datacontenttype"] = JSON
    event["data"] = read_json(body)
    return event


def _said(head: Head, verdicts: Sequence[Verdict]) -> Answer:
    """What a call to publish is answered once its events are decided."""
    if head.kind == BATCH:
        results = [_result(verdict) for verdict in verdicts]
        return _json(BatchResult(results=results), 202 if all(result.status == 202 for result in results) else 207)
    (verdict,) = verdicts
    if verdict.problems:
        return _problem(verdict.problems, event_id=verdict.received.event_id)
    return _json(_result(verdict), 202)


def _shown(state: RequestState) -> Answer:
    """A request as its agency sees it."""
    card = state.accepted.data.request
    view = RequestView(
        reference=card.reference,
        request_id=card.request_id,
        agency_reference=card.agency_reference,
        service_code=card.service_code,
        status=state.status,
        submitted_at=card.submitted_at,
        accepted_at=state.accepted.data.timeline.accepted,
        history=[
            StatusStep(status=applied.status, at=applied.occurred_at, note=applied.note) for applied in state.changes
        ],
    )
    return _json(view, 200)


def _result(verdict: Verdict) -> EventResult:
    event = verdict.event
    if isinstance(event, RequestRejected):
        problems = event.data.problems
        return EventResult(
            event_id=verdict.received.event_id,
            status=_status(problems),
            outcome=verdict.outcome,
            problems=problems,
        )
    card = event.data.request
    return EventResult(
        event_id=verdict.received.event_id,
        status=202,
        outcome=verdict.outcome,
        request_id=card.request_id,
        reference=card.reference,
    )


def _status(problems: Sequence[Problem]) -> int:
    return _STATUS_OF.get(problems[0].reason, 422)


def _json(part: Part, status: int) -> Answer:
    return Answer(status, JSON, part.to_json())


def _problem(
    problems: tuple[Problem, ...],
    *,
    event_id: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    first = problems[0]
    status = _status(problems)
    details = ProblemDetails(
        type=f"urn:guichet:problem:{first.reason}",
        title=MEANINGS[first.reason],
        status=status,
        reason=first.reason,
        detail=f"{first.field}: {first.detail}" if first.field else first.detail,
        event_id=event_id,
        problems=problems,
    )
    extra = dict(headers or {})
    if status == 401:
        extra["WWW-Authenticate"] = "Bearer"
    if status == 503:
        extra["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return Answer(status, PROBLEM, details.to_json(), extra)
