"""YAML files read into strict models, with errors that name file, line and field.

Only `true`, `false`, `null` and plain decimal numbers are not text, so YAML 1.1's traps are none here: `no` is the
text "no", 2026-06-27, 08:30 and 007 are texts, and a model that wants a date reads it from its text. Whatever
PyYAML's safe dumper writes comes back as it was. Duplicate keys, aliases and tags are refused.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

FieldPath = tuple[str | int, ...]
"""Where a field stands in its file: ("services", 3, "names", "fr")."""


class ConfigError(Exception):
    """What is wrong with a configuration: one sentence for each problem, `file:line: field: what`."""

    def __init__(self, problems: Iterable[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(self.problems))


class ConfigModel(BaseModel):
    """A frozen piece of a configuration file that refuses what it does not know and coerces nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class ConfigFile(Generic[M]):
    """A file that was read: its content, and the line on which each field stands."""

    path: Path
    content: M
    lines: Mapping[FieldPath, int]

    def line_of(self, field: FieldPath) -> int:
        """The line of a field, or of the nearest part around it that is written out."""
        return _line_of(self.lines, field)

    def problem(self, field: FieldPath, what: str) -> str:
        """One sentence for a ConfigError about a field of this file."""
        return _sentence(self.path, self.line_of(field), field, what)

    def repetitions(self, values: Iterable[tuple[FieldPath, str]]) -> Iterator[str]:
        """A problem for each field whose value an earlier one has."""
        first: dict[str, FieldPath] = {}
        for field, value in values:
            if value in first:
                yield self.problem(field, f"{value!r} is used already on line {self.line_of(first[value])}")
            first.setdefault(value, field)


def read_config(path: Path, model: type[M]) -> ConfigFile[M]:
    """Read a YAML file; ConfigError with everything that is wrong with it."""
    reading = _compose(path)
    try:
        content = model.model_validate_json(json.dumps(reading.value), strict=True)
    except ValidationError as error:
        for details in error.errors(include_url=False, include_context=False):
            field, what = _explain(details, reading.lines)
            reading.refuse(field, what)
    if reading.problems:
        raise ConfigError(what for _, what in sorted(reading.problems))
    return ConfigFile(path, content, reading.lines)


_TAG = "tag:yaml.org,2002:"


class _JsonScalars(yaml.SafeLoader):
    """Composes nodes; takes a plain scalar for anything but text only where JSON would, too."""

    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own name and form)

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event: yaml.NodeEvent = self.peek_event()  # type: ignore[no-untyped-call]
        mark: Any = event.start_mark
        if isinstance(event, yaml.AliasEvent):
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=mark)
        if getattr(event, "tag", None) not in (None, "!"):
            raise yaml.MarkedYAMLError(problem="tags are not allowed", problem_mark=mark)
        return super().compose_node(parent, index)


_JsonScalars.add_implicit_resolver(f"{_TAG}bool", re.compile(r"^(?:true|false)$"), list("tf"))
_JsonScalars.add_implicit_resolver(f"{_TAG}null", re.compile(r"^(?:null|~|)$"), ["n", "~", ""])
_JsonScalars.add_implicit_resolver(f"{_TAG}int", re.compile(r"^-?(?:0|[1-9][0-9]{0,17})$"), list("-0123456789"))
_JsonScalars.add_implicit_resolver(
    f"{_TAG}float", re.compile(r"^-?(?:0|[1-9][0-9]{0,17})\.[0-9]{1,17}$"), list("-0123456789")
)


class _Reading:
    """Plain JSON values out of YAML nodes, with a line for each field and what was wrong on the way."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.value: Any = None
        self.lines: dict[FieldPath, int] = {(): 1}
        self.problems: list[tuple[int, str]] = []

    def refuse(self, field: FieldPath, what: str, line: int | None = None) -> None:
        line = line or _line_of(self.lines, field)
        self.problems.append((line, _sentence(self._path, line, field, what)))

    def convert(self, node: yaml.Node, field: FieldPath) -> Any:
        self.lines.setdefault(field, node.start_mark.line + 1)
        if isinstance(node, yaml.MappingNode):
            return self._convert_mapping(node, field)
        if isinstance(node, yaml.SequenceNode):
            return [self.convert(item, (*field, index)) for index, item in enumerate(node.value)]
        return _scalar(node.tag.removeprefix(_TAG), node.value)

    def _convert_mapping(self, node: yaml.MappingNode, field: FieldPath) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key_node, value_node in node.value:
            line = key_node.start_mark.line + 1
            if not isinstance(key_node, yaml.ScalarNode):
                self.refuse(field, "a key must be text", line)
                continue
            key = key_node.value
            inner = (*field, key)
            if key in mapping:
                self.refuse(inner, f"written twice, first on line {self.lines[inner]}", line)
                continue
            self.lines[inner] = line
            mapping[key] = self.convert(value_node, inner)
        return mapping


def _scalar(kind: str, text: str) -> str | int | float | bool | None:
    return text if kind == "str" else json.loads("null" if text in ("", "~") else text)


def _compose(path: Path) -> _Reading:
    reading = _Reading(path)
    try:
        node = yaml.compose(path.read_text(encoding="utf-8"), Loader=_JsonScalars)
        if node is not None:
            reading.value = reading.convert(node, ())
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from error
    except UnicodeDecodeError as error:
        raise ConfigError([f"{path}: is not UTF-8 text: {error.reason} at byte {error.start}"]) from error
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        what = " ".join(part for part in (error.context, error.problem) if part)
        raise ConfigError([_sentence(path, line, (), what)]) from error
    except yaml.YAMLError as error:
        raise ConfigError([f"{path}: is not YAML: {' '.join(str(error).split())}"]) from error
    except RecursionError as error:
        raise ConfigError([f"{path}: is nested too deeply"]) from error
    return reading


def _explain(details: ErrorDetails, lines: Mapping[FieldPath, int]) -> tuple[FieldPath, str]:
    """The field as it stands in the file, and what is wrong with it."""
    kind, message = details["type"], details["msg"]
    if kind == "missing":
        return details["loc"], "field required"
    field = details["loc"]
    while field not in lines:  # pydantic also names members of unions and keys there
        field = field[:-1]
    if kind == "extra_forbidden":
        return field, "unknown field"
    if kind == "string_type" and isinstance(details["input"], int | float):
        return field, "should be text; put it in quotes"
    if kind == "value_error":
        return field, message.removeprefix("Value error, ")
    return field, message[:1].lower() + message[1:]


def _line_of(lines: Mapping[FieldPath, int], field: FieldPath) -> int:
    while field not in lines:
        field = field[:-1]
    return lines[field]


def _sentence(path: Path, line: int, field: FieldPath, what: str) -> str:
    name = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in field).removeprefix(".")
    return f"{path}:{line}: {name}: {what}" if name else f"{path}:{line}: {what}"
