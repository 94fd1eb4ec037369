"""The folder of a replay's jurisdiction, as the services read it, with API keys of its own for every agency."""

import json
import os
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy.replay.steps import Catalogue, Promise
from shared.jurisdiction import Agency, key_digest, load_jurisdiction

KEYS = "keys.json"
MAIL_FROM = "guichet@example.org"


def write_jurisdiction(jurisdiction: Catalogue | Path, directory: Path) -> None:
    """Write the folder, from what a file told of a city or as a copy of one that exists.

    The keys, `<agency id>.<secret>` by agency, lie beside in keys.json, which nobody but its owner may read;
    agencies.yaml holds their digests only.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if isinstance(jurisdiction, Path):
        agencies: Iterable[Agency] = load_jurisdiction(jurisdiction).agencies.values()
        for file in jurisdiction.glob("*.yaml"):
            shutil.copyfile(file, directory / file.name)
    else:
        agencies = [Agency(named, name) for named, name in jurisdiction.agencies.items()]
        for name, content in _files(jurisdiction).items():
            _write(directory / name, content)
    keys = {agency.id: f"{agency.id}.{secrets.token_urlsafe(32)}" for agency in agencies}
    _write(directory / "agencies.yaml", {"agencies": [_entry(agency, keys[agency.id]) for agency in agencies]})
    _write_privately(directory / KEYS, json.dumps(keys, indent=2))


def read_keys(directory: Path) -> Mapping[str, str]:
    """The API key of each agency of a folder that `write_jurisdiction` wrote."""
    keys: dict[str, str] = json.loads((directory / KEYS).read_text())
    return keys


def _entry(agency: Agency, key: str) -> dict[str, Any]:
    secret = key.removeprefix(f"{agency.id}.")
    language = {"language": agency.language} if agency.language else {}
    return {"id": agency.id, "name": agency.name, **language, "key_digests": [key_digest(secret)]}


def _files(city: Catalogue) -> dict[str, Any]:
    return {
        "jurisdiction.yaml": {
            "name": city.name,
            "timezone": city.timezone,
            "phone_region": city.phone_region,
            "default_language": city.default_language,
            "sms_sender": city.sms_sender,
            "mail_from": MAIL_FROM,
        },
        "services.yaml": {
            "services": [
                {"code": code, "names": {city.default_language: name}} for code, name in city.services.items()
            ],
            "offices": [{"id": agency, "name": name} for agency, name in city.agencies.items()],
        },
        "rules.yaml": {"rules": list(_rules(city.promises))},
        "calendar.yaml": {"weekend": list(city.weekend), "holidays": {"country": city.country}},
    }


def _rules(promises: Iterable[Promise]) -> Iterable[dict[str, Any]]:
    """One rule for all services that an office promises alike; those of a named agency come first."""
    services: dict[tuple[bool, str, str, int], list[str]] = defaultdict(list)
    for promise in promises:
        services[promise.agency is None, promise.agency or "any", promise.office, promise.days].append(promise.service)
    for (anybody, agency, office, days), served in sorted(services.items()):
        when: dict[str, Any] = {"service": served} if anybody else {"agency": agency, "service": served}
        named = f"any-{office}-{days}" if anybody else f"{office}-{days}"
        yield {"id": named, "when": when, "office": office, "promise_days": days}


def _write(path: Path, content: Mapping[str, Any]) -> None:
    # JSON is YAML in which every text is quoted, so none can be read as something else.
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_privately(path: Path, content: str) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(content)
