"""What agencies publish: the strict half of the contract.

Unknown fields are refused, nothing is coerced, every text has a limit. What passes stays as it was sent, save that
intake writes phones in E.164 and the domains of mail addresses in ASCII.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from shared.contract.events import AttributeValue, Channel, Language, Status, utc

MAX_EVENT_BYTES = 64 * 1024
"""The largest event an agency may send, in bytes of JSON."""

MAX_BATCH_EVENTS = 500
"""The most events in one HTTP batch."""

MAX_BATCH_BYTES = 8 * 1024 * 1024
"""The largest HTTP body, in bytes."""

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[\x21-\x7e]+$")]
Code = Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[\x21-\x7e]+$")]


Moment = Annotated[AwareDatetime, AfterValidator(utc)]
"""An instant with its zone, held in UTC."""


class StrictPart(BaseModel):
    """A frozen piece of an agency's event that refuses what it does not know."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, hide_input_in_errors=True)


class SubmittedApplicant(StrictPart):
    """The citizen. With neither phone nor mail address nobody can be told anything, which is allowed."""

    name: Annotated[str, StringConstraints(min_length=1, max_length=200)] | None = None
    phone: Annotated[str, StringConstraints(min_length=1, max_length=32)] | None = Field(
        default=None, description="With country code, or national in the jurisdiction's own form."
    )
    email: Annotated[str, StringConstraints(min_length=3, max_length=254)] | None = None
    language: Language | None = None
    channel: Channel | None = Field(
        default=None, description="The citizen's wish; without it, SMS where there is a mobile phone, else mail."
    )


class SubmittedPlace(StrictPart):
    """Where the request is about. Degrees are WGS 84."""

    address: Annotated[str, StringConstraints(min_length=1, max_length=300)] | None = None
    zone: Annotated[str, StringConstraints(min_length=1, max_length=64)] | None = None
    latitude: Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)] | None = None
    longitude: Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)] | None = None


AttributeText = Annotated[str, StringConstraints(max_length=500)]
AttributeNumber = Annotated[float, Field(allow_inf_nan=False)]
AttributeInteger = Annotated[int, Field(ge=-(2**53), le=2**53)]


class RequestSubmittedData(StrictPart):
    """A citizen asked an agency for a service."""

    agency_reference: Code = Field(description="The agency's own number for the request; unique in the agency.")
    service_code: Code = Field(description="A code of the jurisdiction's service catalogue.")
    applicant: SubmittedApplicant = SubmittedApplicant()
    description: Annotated[str, StringConstraints(min_length=1, max_length=4000)] | None = None
    place: SubmittedPlace | None = None
    attributes: Annotated[
        dict[Code, bool | AttributeInteger | AttributeNumber | AttributeText], Field(max_length=32)
    ] = Field(default_factory=dict)


class StatusChangedData(StrictPart):
    """Something happened to a request that the agency submitted before."""

    agency_reference: Code
    status: Literal[Status.IN_PROGRESS, Status.WAITING_FOR_CITIZEN, Status.RESOLVED, Status.CANCELLED]
    note: Annotated[str, StringConstraints(min_length=1, max_length=500)] | None = Field(
        default=None, description="A sentence for the citizen. Sent by mail, never by SMS."
    )


class AgencyEvent(BaseModel):
    """The CloudEvents 1.0 attributes an agency sends. `id` is its idempotency key; `time` is when it happened.

    `source` is kept but proves nothing: who an agency is, its API key or its topic says. CloudEvents extension
    attributes are allowed, as the specification asks, and ignored; their values are strings, numbers or booleans.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, hide_input_in_errors=True)
    __pydantic_extra__: dict[str, AttributeValue]

    TYPE: ClassVar[str]

    specversion: Literal["1.0"]
    id: Identifier
    source: Annotated[str, StringConstraints(min_length=1, max_length=256)]
    type: str
    subject: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: Annotated[str, StringConstraints(min_length=1, max_length=256)] | None = None


class RequestSubmitted(AgencyEvent):
    """A citizen asked an agency for a service."""

    TYPE: ClassVar[str] = "guichet.request.submitted.v1"
    type: Literal["guichet.request.submitted.v1"]
    data: RequestSubmittedData


class StatusChanged(AgencyEvent):
    """Something happened to a request that the agency submitted before."""

    TYPE: ClassVar[str] = "guichet.request.status_changed.v1"
    type: Literal["guichet.request.status_changed.v1"]
    data: StatusChangedData
