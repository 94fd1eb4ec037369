"""Contacts in their normal writing: the patterns for plain ones say what the libraries say."""

import phonenumbers
import pytest
from email_validator import SPECIAL_USE_DOMAIN_NAMES, EmailNotValidError, validate_email
from hypothesis import given, settings
from hypothesis import strategies as st
from phonenumbers import PhoneNumberFormat, PhoneNumberType

from services.intake.contacts import e164, mail_address

REGIONS = st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS))
TYPES = sorted(PhoneNumberType.values())
ORDINARY = {
    PhoneNumberType.MOBILE,
    PhoneNumberType.FIXED_LINE,
    PhoneNumberType.FIXED_LINE_OR_MOBILE,
    PhoneNumberType.VOIP,
}


def by_the_library(written: str, region: str) -> str | None:
    try:
        number = phonenumbers.parse(written, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number) or phonenumbers.number_type(number) not in ORDINARY:
        return None
    return str(phonenumbers.format_number(number, PhoneNumberFormat.E164))


@st.composite
def numbers(draw: st.DrawFn) -> tuple[str, str]:
    """A number near one that a region has, as somebody there or abroad writes it, and where it is read."""
    region = draw(REGIONS)
    example = phonenumbers.example_number_for_type(region, draw(st.sampled_from(TYPES)))
    national = str(phonenumbers.national_significant_number(example)) if example else "2025550123"
    digits = list(national)
    for place in draw(st.lists(st.integers(0, len(digits) - 1), max_size=3)):
        digits[place] = draw(st.sampled_from("0123456789"))
    national = "".join(digits[: draw(st.integers(len(digits) - 1, len(digits)))])
    code = phonenumbers.country_code_for_region(region)
    written = draw(
        st.sampled_from(
            [f"+{code}{national}", f"+{code} {national[:2]} {national[2:]}", national, f"00{code}{national}"]
        )
    )
    return written, draw(st.sampled_from([region, "DJ", "US"]))


@settings(max_examples=500)
@given(numbers())
def test_a_phone_number_is_what_the_library_makes_of_it(number: tuple[str, str]) -> None:
    assert e164(*number) == by_the_library(*number)


@pytest.mark.parametrize("region", ["DJ", "DE", "FR", "SE", "ET", "SO", "IT"])
def test_an_ordinary_number_of_a_region_is_taken_however_it_is_written(region: str) -> None:
    number = phonenumbers.example_number_for_type(region, PhoneNumberType.MOBILE)
    assert number is not None
    writings = {phonenumbers.format_number(number, writing) for writing in (0, 1, 2)}
    assert {e164(written, region) for written in writings} == {
        phonenumbers.format_number(number, PhoneNumberFormat.E164)
    }


LOCAL = st.from_regex(r"[a-zA-Z0-9._+-]{1,12}", fullmatch=True) | st.sampled_from(
    ["postmaster", "Abuse", "x" * 64, "x" * 65]
)
LABEL = st.from_regex(r"[a-z0-9-]{1,6}", fullmatch=True) | st.sampled_from(["xn--4gbrim", "a--b", "x" * 63, "x" * 64])
TOP = st.sampled_from([*SPECIAL_USE_DOMAIN_NAMES, "org", "dj", "x", "co1", "ORG", "xn--mgbexc3i"])


@settings(max_examples=500)
@given(LOCAL, st.lists(LABEL, max_size=3), TOP)
def test_a_mail_address_is_what_the_library_makes_of_it(local: str, labels: list[str], top: str) -> None:
    written = f"{local}@{'.'.join([*labels, top])}"
    try:
        expected = validate_email(written, check_deliverability=False, allow_smtputf8=False, strict=True).ascii_email
    except EmailNotValidError:
        expected = None
    assert mail_address(written) == expected
