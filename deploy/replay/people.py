"""Citizens for requests that name none: contacts from ranges that belong to nobody, the same for the same request.

Phone numbers are German and Swedish mobile numbers that regulators and networks keep unassigned, for films and books
(Bundesnetzagentur, Mitteilung 148/2021; PTS, 2020). France's 06 39 98 and the United Kingdom's 07700 900 would do as
well, but numbering plans do not count those as valid, and the mesh refuses what is no valid number.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256

from shared.contract.events import Door, Language

PHONES = (
    *(f"+4917139200{n:02d}" for n in range(100)),
    *(f"+49176040690{n:02d}" for n in range(100)),
    *(f"+46701740{n}" for n in range(605, 700)),
)

DJIBOUTI: Mapping[Language, float] = {
    Language.FRENCH: 0.45,
    Language.SOMALI: 0.25,
    Language.ARABIC: 0.15,
    Language.AFAR: 0.10,
    Language.ENGLISH: 0.05,
}
UNITED_STATES: Mapping[Language, float] = {
    Language.ENGLISH: 0.90,
    Language.ARABIC: 0.04,
    Language.SOMALI: 0.03,
    Language.FRENCH: 0.03,
}

_WITH_PHONE = 0.79
_WITH_MAIL_ONLY = 0.19


@dataclass(frozen=True, slots=True)
class Citizen:
    """Who asks, as far as the mesh has to know."""

    language: Language
    phone: str | None = None
    email: str | None = None

    def as_applicant(self) -> dict[str, str]:
        """The applicant of a request, without what is not known."""
        contact = {"phone": self.phone, "email": self.email, "language": self.language.value}
        return {field: value for field, value in contact.items() if value is not None}


def citizen_of(agency: str, agency_reference: str, languages: Mapping[Language, float]) -> Citizen:
    """Four in five have a phone, most others a mail address only, one in fifty neither."""
    digest = _digest("citizen", agency, agency_reference)
    language = _pick(languages, _share(digest[0:4]))
    reach = _share(digest[4:8])
    if reach < _WITH_PHONE:
        return Citizen(language, phone=PHONES[int.from_bytes(digest[8:12]) % len(PHONES)])
    if reach < _WITH_PHONE + _WITH_MAIL_ONLY:
        return Citizen(language, email=f"citizen-{digest[8:14].hex()}@example.org")
    return Citizen(language)


def door_of(agency: str, agency_reference: str) -> Door:
    """Half of the requests come in by each door, all events of one by the same, so that their order is kept."""
    return Door.KAFKA if _digest("door", agency, agency_reference)[0] & 1 else Door.HTTP


def _digest(what: str, agency: str, agency_reference: str) -> bytes:
    return sha256(f"{what}\n{agency}\n{agency_reference}".encode()).digest()


def _share(octets: bytes) -> float:
    return float(int.from_bytes(octets) / (1 << 8 * len(octets)))


def _pick(shares: Mapping[Language, float], at: float) -> Language:
    for language, share in shares.items():
        at -= share
        if at < 0:
            return language
    return next(iter(shares))
