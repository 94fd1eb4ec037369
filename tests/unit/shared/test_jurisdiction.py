import json
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
import yaml

from shared.config import ConfigError
from shared.contract.events import Language, Office
from shared.jurisdiction import Agency, Jurisdiction, Service, key_digest, load_jurisdiction

JURISDICTION = Jurisdiction(
    name="Freedonia: a test",
    timezone=ZoneInfo("America/Chicago"),
    phone_region="US",
    default_language=Language.ENGLISH,
    sms_sender="Guichet",
    mail_from="guichet@example.org",
    agencies={
        "streets": Agency("streets", "Streets & Sons", Language.ENGLISH, (key_digest("secret"),)),
        "no": Agency("no", "007"),
    },
    services={
        "WGH-1": Service("WGH-1", {Language.ENGLISH: "Weeds", Language.ARABIC: "أعشاب"}, Language.ENGLISH),
        "1e5": Service("1e5", {Language.ENGLISH: "yes"}, Language.ENGLISH),
    },
    offices={"forestry": Office(id="forestry", name="FORESTRY: trees"), "12": Office(id="12", name="null")},
    mobile_prefixes=("77", "078"),
)


FILES: dict[str, dict[str, Any]] = {
    "jurisdiction.yaml": {
        "name": "Freedonia: a test",
        "timezone": "America/Chicago",
        "phone_region": "US",
        "mobile_prefixes": ["77", "078"],
        "default_language": "en",
        "sms_sender": "Guichet",
        "mail_from": "guichet@example.org",
    },
    "agencies.yaml": {
        "agencies": [
            {"id": "streets", "name": "Streets & Sons", "language": "en", "key_digests": [key_digest("secret")]},
            {"id": "no", "name": "007"},
        ]
    },
    "services.yaml": {
        "services": [
            {"code": "WGH-1", "names": {"en": "Weeds", "ar": "أعشاب"}},
            {"code": "1e5", "names": {"en": "yes"}},
        ],
        "offices": [{"id": "forestry", "name": "FORESTRY: trees"}, {"id": "12", "name": "null"}],
    },
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / name).write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return tmp_path


def problems_of(folder: Path) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as refused:
        load_jurisdiction(folder)
    return tuple(problem.removeprefix(f"{folder}/") for problem in refused.value.problems)


def rewrite(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def test_the_three_files_are_the_reference_data(folder: Path) -> None:
    assert load_jurisdiction(folder) == JURISDICTION


def test_a_folder_written_as_json_is_read_alike(tmp_path: Path) -> None:
    for name, content in FILES.items():
        (tmp_path / name).write_text(json.dumps(content, indent=2, ensure_ascii=False), encoding="utf-8")
    assert load_jurisdiction(tmp_path) == JURISDICTION


def test_a_service_has_a_name_in_every_language() -> None:
    service = JURISDICTION.services["WGH-1"]
    assert service.name_in(Language.ARABIC) == "أعشاب"
    assert service.name_in(Language.AFAR) == "Weeds"


def test_a_key_is_stored_as_the_sha_256_of_its_secret() -> None:
    # FIPS 180-2, appendix B.1
    assert key_digest("abc") == "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_a_service_without_a_name_in_the_default_language_is_refused(folder: Path) -> None:
    rewrite(folder / "jurisdiction.yaml", "default_language: en", "default_language: ar")
    assert problems_of(folder) == (
        "services.yaml:7: services[1].names.ar: field required, as this is the jurisdiction's default language",
    )


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("agencies.yaml", "id: 'no'", "id: streets", "agencies.yaml:7: agencies[1].id: 'streets' is used already"),
        ("services.yaml", "code: 1e5", "code: WGH-1", "services.yaml:6: services[1].code: 'WGH-1' is used already"),
        ("services.yaml", "'12'", "forestry", "services.yaml:12: offices[1].id: 'forestry' is used already"),
    ],
)
def test_an_id_used_twice_is_refused(folder: Path, file: str, old: str, new: str, problem: str) -> None:
    rewrite(folder / file, old, new)
    (found,) = problems_of(folder)
    assert found.startswith(problem)


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("America/Chicago", "America/Gotham", "timezone"),
        ("America/Chicago", "../../../etc/passwd", "timezone"),
        ("America/Chicago", "America", "timezone"),
        ("phone_region: US", "phone_region: XX", "phone_region"),
        ("sms_sender: Guichet", "sms_sender: More than eleven", "sms_sender"),
        ("sms_sender: Guichet", "sms_sender: Délégué", "sms_sender"),
        ("guichet@example.org", "guichet", "mail_from"),
        ("guichet@example.org", '"a@example.org\\r\\nBcc: b@example.org"', "mail_from"),
        ("default_language: en", "default_language: xx", "default_language"),
        ("- 078", "- 7-8", "mobile_prefixes[1]"),
        ("Freedonia: a test", r"a\nb", "name"),
    ],
)
def test_reference_data_that_can_not_be_true_is_refused(folder: Path, old: str, new: str, field: str) -> None:
    rewrite(folder / "jurisdiction.yaml", "'Freedonia: a test'", '"Freedonia: a test"')
    rewrite(folder / "jurisdiction.yaml", old, new)
    (problem,) = problems_of(folder)
    assert f": {field}: " in problem


@pytest.mark.parametrize("agency_id", ["Streets", "a.b", "-a", "a" * 49, "a/b", '"a\\n"', "é"])
def test_an_agency_id_that_can_not_name_a_topic_is_refused(folder: Path, agency_id: str) -> None:
    rewrite(folder / "agencies.yaml", "id: streets", f"id: {agency_id}")
    (problem,) = problems_of(folder)
    assert problem.startswith("agencies.yaml:2: agencies[0].id: ")


def test_a_key_in_clear_is_refused(folder: Path) -> None:
    rewrite(folder / "agencies.yaml", key_digest("secret"), "streets.secret")
    (problem,) = problems_of(folder)
    assert problem.startswith("agencies.yaml:6: agencies[0].key_digests[0]: ")
