"""Reference data of a jurisdiction: its agencies, its service catalogue, its offices. Data only, no rules.

Read from three files of the folder that JURISDICTION_DIR names: jurisdiction.yaml, agencies.yaml, services.yaml.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from phonenumbers import SUPPORTED_REGIONS
from pydantic import AfterValidator, Field, StringConstraints

from shared.config import ConfigError, ConfigFile, ConfigModel, read_config
from shared.contract.agency import Code
from shared.contract.events import Language, Office
from shared.contract.topics import AGENCY_ID


def key_digest(secret: str) -> str:
    """How the secret half of an API key `<agency id>.<secret>` is stored: `sha256:<hex>`.

    Secrets are 256 random bits, which no slow hash could protect any better.
    """
    return f"sha256:{sha256(secret.encode()).hexdigest()}"


@dataclass(frozen=True, slots=True)
class Agency:
    """Who may send requests. `language` is that of its citizens who gave none; `key_digests` as by key_digest."""

    id: str
    name: str
    language: Language | None = None
    key_digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Service:
    """What a citizen can ask for. `names` always has the default language."""

    code: str
    names: Mapping[Language, str]
    default_language: Language

    def name_in(self, language: Language) -> str:
        """Its name in a language, or in the default language where there is none."""
        return self.names.get(language) or self.names[self.default_language]


@dataclass(frozen=True, slots=True)
class Jurisdiction:
    """A country or a city that runs the mesh. Agencies and offices by id, services by code, in the files' order.

    `phone_region` is an ISO 3166 code; `mobile_prefixes` are what national mobile numbers begin with, none meaning
    that the numbering plan of the region is enough; `sms_sender` is a sender id of up to 11 letters and digits.
    """

    name: str
    timezone: ZoneInfo
    phone_region: str
    default_language: Language
    sms_sender: str
    mail_from: str
    agencies: Mapping[str, Agency]
    services: Mapping[str, Service]
    offices: Mapping[str, Office]
    mobile_prefixes: tuple[str, ...] = ()


def load_jurisdiction(directory: Path) -> Jurisdiction:
    """Read the reference data of a jurisdiction's folder; ConfigError with what is wrong."""
    about = read_config(directory / "jurisdiction.yaml", _AboutFile).content
    agencies = read_config(directory / "agencies.yaml", _AgenciesFile)
    catalogue = read_config(directory / "services.yaml", _ServicesFile)
    problems = [
        *agencies.repetitions((("agencies", i, "id"), entry.id) for i, entry in enumerate(agencies.content.agencies)),
        *catalogue.repetitions((("services", i, "code"), e.code) for i, e in enumerate(catalogue.content.services)),
        *catalogue.repetitions((("offices", i, "id"), entry.id) for i, entry in enumerate(catalogue.content.offices)),
        *_unnamed(catalogue, about.default_language),
    ]
    if problems:
        raise ConfigError(problems)
    return Jurisdiction(
        name=about.name,
        timezone=ZoneInfo(about.timezone),
        phone_region=about.phone_region,
        default_language=about.default_language,
        sms_sender=about.sms_sender,
        mail_from=about.mail_from,
        agencies={
            entry.id: Agency(entry.id, entry.name, entry.language, entry.key_digests)
            for entry in agencies.content.agencies
        },
        services={
            entry.code: Service(entry.code, entry.names, about.default_language) for entry in catalogue.content.services
        },
        offices={entry.id: Office(id=entry.id, name=entry.name) for entry in catalogue.content.offices},
        mobile_prefixes=about.mobile_prefixes,
    )


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{name!r} is no time zone of the IANA database") from error
    return name


def _phone_region(code: str) -> str:
    if code not in SUPPORTED_REGIONS:
        raise ValueError(f"{code!r} is no region with a numbering plan; write its ISO 3166 code, like DJ")
    return code


def _agency_id(text: str) -> str:
    if not AGENCY_ID.fullmatch(text):
        raise ValueError("should be up to 48 of a-z, 0-9 and inner hyphens, since it names the agency's topic")
    return text


_UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")


def _one_line(text: str) -> str:
    if _UNPRINTABLE.search(text):
        raise ValueError("should be one line without control characters")
    return text


Name = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_one_line)]
Digest = Annotated[str, StringConstraints(pattern=r"^sha256:[0-9a-f]{64}$")]


class _AboutFile(ConfigModel):
    name: Name
    timezone: Annotated[str, AfterValidator(_time_zone)]
    phone_region: Annotated[str, AfterValidator(_phone_region)]
    mobile_prefixes: tuple[Annotated[str, StringConstraints(pattern=r"^[0-9]{1,6}$")], ...] = ()
    default_language: Language
    sms_sender: Annotated[str, StringConstraints(pattern=r"^(?:[A-Za-z0-9][A-Za-z0-9 ]{0,10}|[0-9]{3,15})$")]
    mail_from: Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s<>]+@[^@\s<>]+\.[^@\s<>]+$")]


class _AgencyEntry(ConfigModel):
    id: Annotated[str, AfterValidator(_agency_id)]
    name: Name
    language: Language | None = None
    key_digests: tuple[Digest, ...] = ()


class _AgenciesFile(ConfigModel):
    agencies: Annotated[tuple[_AgencyEntry, ...], Field(min_length=1)]


class _ServiceEntry(ConfigModel):
    code: Code
    names: Annotated[dict[Language, Name], Field(min_length=1)]


class _OfficeEntry(ConfigModel):
    id: Code
    name: Name


class _ServicesFile(ConfigModel):
    services: Annotated[tuple[_ServiceEntry, ...], Field(min_length=1)]
    offices: Annotated[tuple[_OfficeEntry, ...], Field(min_length=1)]


def _unnamed(file: ConfigFile[_ServicesFile], default_language: Language) -> Iterator[str]:
    for index, service in enumerate(file.content.services):
        if default_language not in service.names:
            field = ("services", index, "names", default_language.value)
            yield file.problem(field, "field required, as this is the jurisdiction's default language")
