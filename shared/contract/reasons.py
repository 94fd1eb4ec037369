"""Every reason for which the mesh refuses something: a closed list, the same at every door.

Agencies program against these codes. A code is added, never renamed and never given another meaning.
"""

from collections.abc import Mapping
from enum import StrEnum


class Reason(StrEnum):
    """Why something was refused; the value is what machines read."""

    # the record or body as such
    EMPTY = "empty"
    NOT_HTTP = "not_http"
    TOO_SLOW = "too_slow"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    NOT_UTF8 = "not_utf8"
    NOT_JSON = "not_json"
    DUPLICATE_KEY = "duplicate_key"
    TOO_DEEP = "too_deep"
    NUMBER_OUT_OF_RANGE = "number_out_of_range"
    FORBIDDEN_CHARACTER = "forbidden_character"
    INVALID_HEADER = "invalid_header"
    UNREADABLE_BATCH = "unreadable_batch"
    # the event's form
    NOT_A_CLOUDEVENT = "not_a_cloudevent"
    UNKNOWN_EVENT_TYPE = "unknown_event_type"
    UNSUPPORTED_VERSION = "unsupported_version"
    MISSING_FIELD = "missing_field"
    UNKNOWN_FIELD = "unknown_field"
    WRONG_TYPE = "wrong_type"
    INVALID_VALUE = "invalid_value"
    TOO_LONG = "too_long"
    TOO_MANY = "too_many"
    INVALID_TIME = "invalid_time"
    TIME_OUT_OF_RANGE = "time_out_of_range"
    INVALID_PHONE = "invalid_phone"
    INVALID_EMAIL = "invalid_email"
    # what it asks for
    EVENT_ID_REUSED = "event_id_reused"
    DUPLICATE_REQUEST = "duplicate_request"
    UNKNOWN_REQUEST = "unknown_request"
    REQUEST_CLOSED = "request_closed"
    STATUS_SUPERSEDED = "status_superseded"
    TOO_MANY_CHANGES = "too_many_changes"
    # who asks
    UNAUTHENTICATED = "unauthenticated"
    UNKNOWN_AGENCY = "unknown_agency"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    # what the mesh could not do
    UNAVAILABLE = "unavailable"
    HANDLER_ERROR = "handler_error"
    # routing
    UNKNOWN_SERVICE = "unknown_service"
    NO_RULE = "no_rule"


MEANINGS: Mapping[Reason, str] = {
    Reason.EMPTY: "There is nothing in it.",
    Reason.NOT_HTTP: "The call can't be read as HTTP/1.1.",
    Reason.TOO_SLOW: "The call was not there whole in time.",
    Reason.TOO_LARGE: "The event, or the head or body of an HTTP call, has more bytes than are taken.",
    Reason.UNSUPPORTED_MEDIA_TYPE: "The body is of a kind, or in an encoding, that is not taken.",
    Reason.NOT_UTF8: "It is not UTF-8 without a byte-order mark.",
    Reason.NOT_JSON: "It is not exactly one JSON value.",
    Reason.DUPLICATE_KEY: "An object has the same key twice.",
    Reason.TOO_DEEP: "It is nested too deeply.",
    Reason.NUMBER_OUT_OF_RANGE: "A number is not finite, or longer than any that is taken.",
    Reason.FORBIDDEN_CHARACTER: "A text holds a character that texts may not hold, such as NUL or a lone surrogate.",
    Reason.INVALID_HEADER: "A header of a CloudEvent in binary mode, or of a Kafka record, can't be read.",
    Reason.UNREADABLE_BATCH: "Kafka's batch of records can't be unpacked, so none of them can be read.",
    Reason.NOT_A_CLOUDEVENT: "It is no CloudEvent 1.0, or no array of them where a batch is due.",
    Reason.UNKNOWN_EVENT_TYPE: "The contract has no event of this type.",
    Reason.UNSUPPORTED_VERSION: "The version of CloudEvents, or of this event type, is not known here.",
    Reason.MISSING_FIELD: "A field that must be there is not.",
    Reason.UNKNOWN_FIELD: "A field is there that the contract does not have.",
    Reason.WRONG_TYPE: "A value has another JSON type than the field has; nothing is converted.",
    Reason.INVALID_VALUE: "A value is none of those that the field may have.",
    Reason.TOO_LONG: "A text is longer than its limit.",
    Reason.TOO_MANY: "There are more entries, or more events in a batch, than the limit.",
    Reason.INVALID_TIME: "A time is no RFC 3339 date and time with its zone.",
    Reason.TIME_OUT_OF_RANGE: "A time lies in the future, or too far in the past.",
    Reason.INVALID_PHONE: "No message can reach this phone number.",
    Reason.INVALID_EMAIL: "No message can reach this mail address.",
    Reason.EVENT_ID_REUSED: "The event's id was used before, for an event that says something else.",
    Reason.DUPLICATE_REQUEST: "The agency submitted a request under this agency_reference before.",
    Reason.UNKNOWN_REQUEST: "The agency submitted no request under this agency_reference.",
    Reason.REQUEST_CLOSED: "The request is resolved or cancelled, and nothing can follow.",
    Reason.STATUS_SUPERSEDED: "Something that happened later was reported before.",
    Reason.TOO_MANY_CHANGES: "The request has changed as often as a request may.",
    Reason.UNAUTHENTICATED: "There is no key, or not the agency's.",
    Reason.UNKNOWN_AGENCY: "The register has no agency of this name.",
    Reason.METHOD_NOT_ALLOWED: "This HTTP method does nothing here.",
    Reason.NOT_FOUND: "There is nothing here, or nothing that this agency may see.",
    Reason.UNAVAILABLE: "A part of the mesh did not answer; nothing was taken, send it again.",
    Reason.HANDLER_ERROR: "The mesh failed on this record. It is kept, and an operator has to look.",
    Reason.UNKNOWN_SERVICE: "The jurisdiction's catalogue has no service of this code.",
    Reason.NO_RULE: "No rule names an office for the request.",
}
"""What each code means, for people."""
