"""What agencies send in a load: submissions that cost nothing to make, and that intake has to take seriously."""

from collections.abc import Iterator
from itertools import count
from time import gmtime, strftime, time
from typing import Final

AGENCY: Final = "etat-civil"

_EVENT: Final = (
    b'{"specversion":"1.0","id":"%(run)s-%(number)d","source":"/agencies/etat-civil",'
    b'"type":"guichet.request.submitted.v1","time":"%(time)s","datacontenttype":"application/json",'
    b'"data":{"agency_reference":"%(run)s-%(number)d","service_code":"birth-certificate",'
    b'"applicant":{"name":"Amina Omar Guelleh","language":"fr",%(contact)s},'
    b'"description":"Trois copies pour une inscription scolaire",'
    b'"place":{"zone":"Balbala","address":"Cit\xc3\xa9 Hodan"},"attributes":{"copies":3,"taken_by":"counter"}}}'
)
_PHONE: Final = b'"phone":"+25377%06d"'
_MAIL: Final = b'"email":"citizen-%d@example.org"'

MAIL_EVERY: Final = 5
"""One citizen in so many has a mail address and no phone."""


def submissions(run: str) -> Iterator[tuple[str, bytes]]:
    """Agency's references and events, without an end. `run` tells them from those of other runs."""
    named, second, moment = run.encode(), 0, b""
    for number in count():
        contact = _MAIL if number % MAIL_EVERY == 0 else _PHONE
        if (now := int(time())) != second:
            second, moment = now, strftime("%Y-%m-%dT%H:%M:%SZ", gmtime(now)).encode()
        yield (
            f"{run}-{number}",
            _EVENT % {b"run": named, b"number": number, b"time": moment, b"contact": contact % (number % 1_000_000)},
        )
