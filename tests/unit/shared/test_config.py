from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from shared.config import ConfigError, ConfigModel, read_config


class Item(ConfigModel):
    code: str
    names: dict[str, str] = Field(default_factory=dict)


class Plan(ConfigModel):
    title: str
    start: date | None = None
    open: bool = False
    items: tuple[Item, ...] = ()


def problems_of(path: Path, text: str | bytes) -> tuple[str, ...]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ConfigError) as refused:
        read_config(path, Plan)
    return tuple(problem.removeprefix(f"{path}:") for problem in refused.value.problems)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "plan.yaml"


def test_a_file_is_read_into_its_model(path: Path) -> None:
    path.write_text(
        "title: Été\nstart: 2026-06-27\nopen: true\nitems:\n- code: a\n  names: {fr: un}\n", encoding="utf-8"
    )
    content = read_config(path, Plan).content
    assert content == Plan(title="Été", start=date(2026, 6, 27), open=True, items=(Item(code="a", names={"fr": "un"}),))


@pytest.mark.parametrize("word", ["no", "yes", "on", "off", "NO", "2026-06-27", "08:30", "1_000", "0x1F", "007", "1e5"])
def test_words_that_yaml_1_1_takes_for_something_else_are_text(path: Path, word: str) -> None:
    path.write_text(f"title: {word}\n")
    assert read_config(path, Plan).content.title == word


@pytest.mark.parametrize("word", ["12", "-3", "0.5", "true", "null", "~", ""])
def test_what_json_takes_for_something_else_is_not_coerced_to_text(path: Path, word: str) -> None:
    assert len(problems_of(path, f"title: {word}\n")) == 1


def test_a_number_where_text_is_due_is_told_to_be_quoted(path: Path) -> None:
    assert problems_of(path, "title: 12\n") == ("1: title: should be text; put it in quotes",)


def test_every_problem_of_a_file_is_told_at_once_with_its_line_and_field(path: Path) -> None:
    text = """\
titel: x
open: yes
items:
  - code: a
    names:
      fr: 1
  - names: {}
    colour: red
"""
    assert problems_of(path, text) == (
        "1: titel: unknown field",
        "1: title: field required",
        "2: open: input should be a valid boolean",
        "6: items[0].names.fr: should be text; put it in quotes",
        "7: items[1].code: field required",
        "8: items[1].colour: unknown field",
    )


def test_a_key_written_twice_is_refused_together_with_the_rest(path: Path) -> None:
    assert problems_of(path, "title: a\nopen: 1\ntitle: b\n") == (
        "2: open: input should be a valid boolean",
        "3: title: written twice, first on line 1",
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("title: [\n", 2),
        ("title: a\n\topen: true\n", 2),
        ("title: a\n---\ntitle: b\n", 2),
        ("title: &t a\nitems:\n  - code: *t\n", 3),
        ("title: a\nitems: !!python/object/apply:os.getcwd []\n", 2),
        ("title: a\n? [b]\n: c\n", 2),
    ],
)
def test_what_is_no_plain_yaml_is_refused_with_its_line(path: Path, text: str, line: int) -> None:
    (problem,) = problems_of(path, text)
    assert problem.startswith(f"{line}: ")


@pytest.mark.parametrize("text", [b"", b"# nothing\n", b"\xff\xfe", b"title: \x00\n", b"[" * 20_000])
def test_a_file_that_holds_nothing_readable_is_refused(path: Path, text: bytes) -> None:
    assert len(problems_of(path, text)) == 1


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml: cannot be read: No such file"):
        read_config(tmp_path / "absent.yaml", Plan)


def test_later_checks_can_name_line_and_field_too(path: Path) -> None:
    path.write_text("title: a\nitems:\n  - code: b\n  - code: b\n")
    file = read_config(path, Plan)
    field = ("items", 1, "names", "fr")
    assert file.problem(field, "is odd") == f"{path}:4: items[1].names.fr: is odd"
    codes = ((("items", i, "code"), item.code) for i, item in enumerate(file.content.items))
    assert [*file.repetitions(codes)] == [f"{path}:4: items[1].code: 'b' is used already on line 3"]


@settings(deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cc", "Cs", "Cn", "Co"])))
def test_text_written_by_the_safe_dumper_comes_back_as_it_was(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    path = tmp_path_factory.mktemp("config") / "plan.yaml"
    path.write_text(yaml.safe_dump({"title": text}), encoding="utf-8")
    assert read_config(path, Plan).content.title == text
