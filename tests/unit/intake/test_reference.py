"""The number a citizen is given."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.intake.domain import own_key
from services.intake.reference import ALPHABET, normalise, reference_of

SECRET = b"a secret of the tests"
REQUESTS = [own_key("cnss", str(number)) for number in range(200)]
ids = st.uuids().map(str)


def grouped(characters: str) -> str:
    return f"{characters[:4]}-{characters[4:8]}-{characters[8:]}"


@given(ids)
def test_a_reference_is_twelve_characters_that_cannot_be_mistaken_in_three_groups(request: str) -> None:
    reference = reference_of(request, SECRET)
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{4}(-[0-9A-HJKMNP-TV-Z]{4}){2}", reference)
    assert normalise(reference) == reference


def test_the_same_request_always_has_the_same_reference() -> None:
    # Written down: a change of this value would make every citizen's paper void.
    assert reference_of("6f1f7e0b-9d7a-5c55-8a0e-2f9d1f0c6d01", SECRET) == "98RH-FQER-GEZZ"


def test_a_reference_copied_from_an_arabic_message_is_read_with_its_mark() -> None:
    assert normalise("\u200e98RH-FQER-GEZZ") == "98RH-FQER-GEZZ"


def test_without_the_secret_a_reference_cannot_be_told_from_a_request_id() -> None:
    ours = {reference_of(request, SECRET) for request in REQUESTS}
    theirs = {reference_of(request, b"another secret, as long") for request in REQUESTS}
    assert len(ours) == len(theirs) == len(REQUESTS)
    assert not ours & theirs


def test_a_further_attempt_gives_another_reference() -> None:
    assert len({reference_of(REQUESTS[0], SECRET, attempt) for attempt in range(10)}) == 10


def test_every_character_of_the_alphabet_comes_up_at_every_place() -> None:
    columns = zip(*(reference_of(f"{n}", SECRET).replace("-", "") for n in range(1000)), strict=True)
    assert all(set(column) == set(ALPHABET) for column in columns)


@pytest.mark.parametrize("request_id", REQUESTS[:10])
def test_any_one_wrong_character_is_seen(request_id: str) -> None:
    right = reference_of(request_id, SECRET).replace("-", "")
    for place, character in enumerate(right):
        for wrong in set(ALPHABET) - {character}:
            assert normalise(grouped(right[:place] + wrong + right[place + 1 :])) is None


@pytest.mark.parametrize("request_id", REQUESTS)
def test_any_two_characters_swapped_are_seen(request_id: str) -> None:
    right = reference_of(request_id, SECRET).replace("-", "")
    for first in range(12):
        for second in range(first + 1, 12):
            swapped = list(right)
            swapped[first], swapped[second] = swapped[second], swapped[first]
            if right[first] != right[second]:
                assert normalise(grouped("".join(swapped))) is None


@given(ids, st.data())
def test_a_reference_is_read_however_it_is_written(request: str, data: st.DataObject) -> None:
    reference = reference_of(request, SECRET)
    spellings = {"0": "0Oo", "1": "1IiLl", "-": ["", " ", "-", " - "]}
    written = "".join(
        data.draw(st.sampled_from(spellings.get(character, [character, character.lower()]))) for character in reference
    )
    assert normalise(f" {written} ") == reference


@pytest.mark.parametrize(
    "written", ["", "-", "7K3M", "7K3M-9XQ2-HTB", "7K3M-9XQ2-HTB44", "UUUU-UUUU-UUUU", "\0", "é" * 12]
)
def test_what_is_no_reference_is_read_as_none(written: str) -> None:
    assert normalise(written) is None


@given(st.text(max_size=100))
def test_whatever_is_typed_is_a_reference_or_none(written: str) -> None:
    read = normalise(written)
    assert read is None or normalise(read) == read
