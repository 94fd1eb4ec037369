"""rules.yaml, checked against the jurisdiction, as Rules."""

import json
from collections.abc import Iterator, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BeforeValidator, Field, StringConstraints

from services.routing.domain import Condition, Rule, Rules, attribute_key, zone_key
from shared.config import ConfigError, ConfigFile, ConfigModel, FieldPath, read_config
from shared.contract.agency import Code
from shared.contract.events import AttributeValue, Language
from shared.jurisdiction import Jurisdiction

T = TypeVar("T")

LONGEST_PROMISE_DAYS = 2500
"""Ten years of working days: whatever is longer is a slip of the pen."""

Values = Annotated[
    tuple[T, ...],
    BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else (value,)),
    Field(min_length=1),
]


class _When(ConfigModel):
    service: Values[str] | None = None
    zone: Values[str] | None = None
    agency: Values[str] | None = None
    language: Values[Language] | None = None
    attributes: dict[str, Values[AttributeValue]] = Field(default_factory=dict)


class _RuleEntry(ConfigModel):
    id: Code
    when: _When = _When()
    office: str
    promise_days: Annotated[int, Field(ge=0, le=LONGEST_PROMISE_DAYS)]


class _RulesFile(ConfigModel):
    version: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{1,40}$")] | None = None
    rules: tuple[_RuleEntry, ...]


def load_rules(path: Path, jurisdiction: Jurisdiction) -> Rules:
    """Read the ordered rules; ConfigError with all that is wrong with them.

    The version is a digest of what the rules say, after the file's own label if it has one: `2026-11+0f4be1a9c3d2`.
    Comments, the order of keys and the order of values don't change it; the order of rules does.
    """
    file = read_config(path, _RulesFile)
    problems = [*_strangers(file, jurisdiction)]
    problems += file.repetitions((("rules", i, "id"), entry.id) for i, entry in enumerate(file.content.rules))
    conditions = [_condition(entry.when) for entry in file.content.rules]
    problems += _unreachable(file, conditions)
    if problems:
        raise ConfigError(problems)
    rules = [
        Rule(entry.id, when, jurisdiction.offices[entry.office], entry.promise_days)
        for entry, when in zip(file.content.rules, conditions, strict=True)
    ]
    return Rules(_version(file.content.version, rules), _by_service(rules, jurisdiction))


def _strangers(file: ConfigFile[_RulesFile], jurisdiction: Jurisdiction) -> Iterator[str]:
    """Offices, services and agencies that the jurisdiction doesn't have."""
    for index, entry in enumerate(file.content.rules):
        rule: FieldPath = ("rules", index)
        if entry.office not in jurisdiction.offices:
            yield file.problem((*rule, "office"), f"no office {entry.office!r} in services.yaml")
        for name, values, known, source in (
            ("service", entry.when.service, jurisdiction.services, "services.yaml"),
            ("agency", entry.when.agency, jurisdiction.agencies, "agencies.yaml"),
        ):
            for position, value in enumerate(values or ()):
                if value not in known:
                    field = (*rule, "when", name)
                    item = (*field, position)
                    yield file.problem(item if item in file.lines else field, f"no {name} {value!r} in {source}")


def _unreachable(file: ConfigFile[_RulesFile], conditions: Sequence[Condition]) -> Iterator[str]:
    for later, condition in enumerate(conditions):
        for earlier in range(later):
            if conditions[earlier].covers(condition):
                name, line = file.content.rules[earlier].id, file.line_of(("rules", earlier))
                yield file.problem(
                    ("rules", later), f"can't be reached: rule {name!r} on line {line} takes all that it would"
                )
                break


def _condition(when: _When) -> Condition:
    return Condition(
        services=_set(when.service),
        zones=_set(when.zone and [zone_key(zone) for zone in when.zone]),
        agencies=_set(when.agency),
        languages=_set(when.language),
        attributes=tuple(
            (name, frozenset(attribute_key(value) for value in values)) for name, values in when.attributes.items()
        ),
    )


def _set(values: Sequence[T] | None) -> frozenset[T] | None:
    return None if values is None else frozenset(values)


def _version(label: str | None, rules: Sequence[Rule]) -> str:
    said = [[rule.id, rule.office.id, rule.promise_days, _said(rule.when)] for rule in rules]
    digest = sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12]
    return f"{label}+{digest}" if label else digest


def _said(when: Condition) -> dict[str, Any]:
    parts = {"service": when.services, "zone": when.zones, "agency": when.agencies, "language": when.languages}
    return {
        **{name: sorted(values) for name, values in parts.items() if values is not None},
        "attributes": {name: sorted(json.dumps(value) for _, value in values) for name, values in when.attributes},
    }


def _by_service(rules: Sequence[Rule], jurisdiction: Jurisdiction) -> Mapping[str, Sequence[Rule]]:
    return {
        code: tuple(rule for rule in rules if rule.when.services is None or code in rule.when.services)
        for code in jurisdiction.services
    }
