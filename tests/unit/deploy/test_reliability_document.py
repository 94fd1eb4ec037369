import re
from pathlib import Path

PROJECT = Path(__file__).parents[3]
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def test_every_test_that_the_document_names_is_there() -> None:
    named = NAMED.findall((PROJECT / "docs" / "reliability.md").read_text())
    assert len(named) > 40
    gone = [f"{file}::{test}" for file, test in named if f"def {test}(" not in (PROJECT / file).read_text()]
    assert gone == []
