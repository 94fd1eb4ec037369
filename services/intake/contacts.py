"""How a citizen can be reached: phone numbers in E.164, mail addresses with their domain in ASCII. Pure.

phonenumbers and email-validator say what is a contact, at 20 µs each. Nearly all are written plainly, and for these a
pattern made of the same rules answers in one; it leaves to the libraries whatever it does not take.
"""

import re
from functools import cache
from typing import Any

import phonenumbers
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumberType

_PHONE_WRITING = re.compile(r"^[+\uff0b]?[\d\s().\-\u2010-\u2015/]+$")
_REACHABLE_TYPES = frozenset(
    {PhoneNumberType.MOBILE, PhoneNumberType.FIXED_LINE, PhoneNumberType.FIXED_LINE_OR_MOBILE, PhoneNumberType.VOIP}
)
_REACHABLE = ("fixed_line", "mobile", "voip")
_UNREACHABLE = ("premium_rate", "toll_free", "shared_cost", "personal_number", "pager", "uan", "voicemail")
_INTERNATIONAL = re.compile(r"\+([1-9][0-9]{6,14})")
_CALLING_CODE_DIGITS = (1, 2, 3)

_PLAIN_MAIL_LENGTH_MAX = 64
"""Up to here no part of an address can be too long."""

_PLAIN_MAIL = re.compile(
    r"[a-z0-9_+-]+(?:\.[a-z0-9_+-]+)*@"
    rf"(?!(?:.*\.)?(?:{'|'.join(map(re.escape, SPECIAL_USE_DOMAIN_NAMES))})$)"
    r"(?:[a-z0-9]+(?:-[a-z0-9]+)*\.)+[a-z]{2,}"
)


def e164(written: str, region: str) -> str | None:
    """The number in E.164, or None if it is no ordinary subscriber's: short codes, premium rates, extensions.

    `region` (ISO 3166) is the country whose national numbers need no country code.
    """
    return _plain_e164(written, region) or _parsed_e164(written, region)


def mail_address(written: str) -> str | None:
    """The address with its domain in ASCII, or None. Local parts beyond ASCII can't be relied on in transit."""
    if len(written) <= _PLAIN_MAIL_LENGTH_MAX and _PLAIN_MAIL.fullmatch(written):
        return written
    try:
        checked = validate_email(written, check_deliverability=False, allow_smtputf8=False, strict=True)
    except EmailNotValidError:
        return None
    return checked.ascii_email


def _plain_e164(written: str, region: str) -> str | None:
    """The number, if it is made of digits and spaces alone; None if only the library can tell."""
    digits = written.replace(" ", "")
    if not digits.startswith("+"):
        digits = f"+{phonenumbers.country_code_for_region(region)}{digits}"
    number = _INTERNATIONAL.fullmatch(digits)
    if number is None:
        return None
    for length in _CALLING_CODE_DIGITS:
        code = int(number[1][:length])
        if code in COUNTRY_CODE_TO_REGION_CODE:
            subscribers = _subscribers(code)
            return digits if subscribers and subscribers.fullmatch(number[1], length) else None
    return None


def _parsed_e164(written: str, region: str) -> str | None:
    if not _PHONE_WRITING.match(written):
        return None
    try:
        number = phonenumbers.parse(" ".join(written.split()), region)
    except phonenumbers.NumberParseException:
        return None
    if number.extension or not phonenumbers.is_valid_number(number):
        return None
    if phonenumbers.number_type(number) not in _REACHABLE_TYPES:
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


@cache
def _subscribers(code: int) -> re.Pattern[str] | None:
    """Matches national numbers behind a calling code at which a citizen can be reached; None where regions share it.

    Not those that begin as something to be dialled before a number does: the library may take that off.
    """
    regions = COUNTRY_CODE_TO_REGION_CODE[code]
    metadata = PhoneMetadata.metadata_for_region(regions[0], None) if len(regions) == 1 else None
    if metadata is None:
        return None
    before = [metadata.national_prefix_for_parsing, metadata.international_prefix, "0"]
    reachable, unreachable = (
        [_written(desc) for name in names if (desc := getattr(metadata, name)) and desc.national_number_pattern]
        for names in (_REACHABLE, _UNREACHABLE)
    )
    return re.compile(
        rf"(?!{'|'.join(f'(?:{prefix})' for prefix in before if prefix)})"
        rf"(?={_written(metadata.general_desc)}$)"
        rf"{''.join(f'(?!{kind}$)' for kind in unreachable)}"
        rf"(?:{'|'.join(reachable)})"
    )


def _written(desc: Any) -> str:
    lengths = "|".join(rf"\d{{{length}}}$" for length in desc.possible_length)
    return rf"(?:(?={lengths})(?:{desc.national_number_pattern}))"
