import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.notify.sms import Encoding, encode, offending_characters
from shared.contract.events import Language


@pytest.mark.parametrize(
    ("text", "encoding", "lengths"),
    [
        ("a" * 160, Encoding.GSM, [160]),
        ("a" * 161, Encoding.GSM, [153, 8]),
        ("é" * 160, Encoding.GSM, [160]),
        ("a" * 158 + "€", Encoding.GSM, [159]),
        ("a" * 159 + "€", Encoding.GSM, [153, 7]),
        ("a" * 152 + "€" + "a" * 10, Encoding.GSM, [152, 11]),
        ("ç" * 70, Encoding.UCS2, [70]),
        ("ç" * 71, Encoding.UCS2, [67, 4]),
        ("ش" * 70, Encoding.UCS2, [70]),
        ("😀" * 35, Encoding.UCS2, [35]),
        ("ç" * 66 + "😀" + "ç" * 10, Encoding.UCS2, [66, 11]),
        ("", Encoding.GSM, [0]),
    ],
)
def test_a_text_is_cut_at_the_limits_of_its_alphabet(text: str, encoding: Encoding, lengths: list[int]) -> None:
    segmented = encode(text)
    assert segmented.encoding is encoding
    assert [len(part) for part in segmented.parts] == lengths


@given(st.text(alphabet=st.sampled_from("aé€^{ç😀ش \n"), max_size=600))
def test_no_text_loses_a_character_and_no_part_is_longer_than_140_octets(text: str) -> None:
    segmented = encode(text)
    assert "".join(segmented.parts) == text
    for octets in segmented.octets(7):
        if segmented.encoding is Encoding.UCS2:
            assert len(octets) <= 140
        else:
            header = 6 if len(segmented.parts) > 1 else 0
            assert len(octets) - header <= (153 if header else 160)


def test_parts_carry_one_reference_their_number_and_how_many_there_are() -> None:
    first, second = encode("a" * 161).octets(0xAB)
    assert first[:6] == bytes((5, 0, 3, 0xAB, 2, 1))
    assert second[:6] == bytes((5, 0, 3, 0xAB, 2, 2))
    assert first[6:] == b"a" * 153


def test_an_escape_pair_is_two_octets_in_the_same_part() -> None:
    first, second = encode("a" * 152 + "€" + "b" * 20).octets(1)
    assert first[6:] == b"a" * 152
    assert second[6:].startswith(b"\x1be")


def test_what_keeps_a_text_out_of_gsm_is_named_once_and_in_order() -> None:
    assert offending_characters("Reçue à l’état civil, reçue") == ("ç", "’")
    assert offending_characters("éèùàÉÇ ^{}[]~\\|€") == ()


def test_a_text_of_more_than_255_parts_is_refused() -> None:
    assert len(encode("a" * (153 * 255)).parts) == 255
    with pytest.raises(ValueError, match="256 parts"):
        encode("a" * (153 * 255 + 1))


def test_every_language_of_the_contract_has_a_direction_and_digits_we_control() -> None:
    assert {language.value for language in Language} == {"fr", "ar", "so", "aa", "en"}
