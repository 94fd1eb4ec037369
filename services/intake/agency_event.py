"""An agency's event as intake works with it, once it is known to be valid. Pure.

The contract with agencies is told by the pydantic models in shared/contract/agency.py. Here are the same fields, with
the same limits, as structs: whichever way an event was read, it becomes one of these.
"""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field
from msgspec.structs import replace

from shared.contract.agency import RequestSubmitted, StatusChanged
from shared.contract.events import Applicant, Moment, Place, Status

_VISIBLE = r"^[\x21-\x7e]+$"
_Identifier = Annotated[str, Meta(max_length=128, pattern=_VISIBLE)]
_Code = Annotated[str, Meta(max_length=64, pattern=_VISIBLE)]
_UpTo64 = Annotated[str, Meta(min_length=1, max_length=64)]
_UpTo200 = Annotated[str, Meta(min_length=1, max_length=200)]
_UpTo256 = Annotated[str, Meta(min_length=1, max_length=256)]
_UpTo300 = Annotated[str, Meta(min_length=1, max_length=300)]
_UpTo500 = Annotated[str, Meta(min_length=1, max_length=500)]
_UpTo4000 = Annotated[str, Meta(min_length=1, max_length=4000)]
_Phone = Annotated[str, Meta(min_length=1, max_length=32)]
_Email = Annotated[str, Meta(min_length=3, max_length=254)]
_Integer = Annotated[int, Meta(ge=-(2**53), le=2**53)]
_Attribute = bool | _Integer | float | Annotated[str, Meta(max_length=500)]


class SubmittedApplicant(Applicant, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The citizen, within the limits of what an agency may send."""

    name: _UpTo200 | None = None
    phone: _Phone | None = None
    email: _Email | None = None


class SubmittedPlace(Place, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where the request is about, within the same limits."""

    address: _UpTo300 | None = None
    zone: _UpTo64 | None = None
    latitude: Annotated[float, Meta(ge=-90, le=90)] | None = None
    longitude: Annotated[float, Meta(ge=-180, le=180)] | None = None


class SubmissionData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    agency_reference: _Code
    service_code: _Code
    applicant: SubmittedApplicant = SubmittedApplicant()
    description: _UpTo4000 | None = None
    place: SubmittedPlace | None = None
    attributes: Annotated[dict[_Code, _Attribute], Meta(max_length=32)] = field(default_factory=dict)


class StatusChangeData(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    agency_reference: _Code
    status: Status
    note: _UpTo500 | None = None


class _Envelope(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What every event of an agency says of itself, with no extension attributes."""

    specversion: Literal["1.0"]
    id: _Identifier
    source: _UpTo256
    type: str
    subject: _UpTo256 | None = None
    time: Moment
    datacontenttype: Literal["application/json"] = "application/json"
    dataschema: _UpTo256 | None = None


class Submission(_Envelope, frozen=True, kw_only=True):
    """A citizen asked an agency for a service."""

    data: SubmissionData


class StatusChange(_Envelope, frozen=True, kw_only=True):
    """Something happened to a request that the agency submitted before."""

    data: StatusChangeData


AgencyEvent = Submission | StatusChange

EVENT_OF: Mapping[str, type[Submission] | type[StatusChange]] = {
    RequestSubmitted.TYPE: Submission,
    StatusChanged.TYPE: StatusChange,
}


def with_contacts(event: Submission, *, phone: str | None, email: str | None) -> Submission:
    """The submission with its citizen's contacts written like this."""
    applicant = event.data.applicant
    if (phone, email) == (applicant.phone, applicant.email):
        return event
    return replace(event, data=replace(event.data, applicant=replace(applicant, phone=phone, email=email)))
