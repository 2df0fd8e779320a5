from hypothesis import given
from hypothesis import strategies as st
from serve_fakes import END, RET, ByteTokenizer

from kit.serve.api.answer import Detokenizer
from kit.serve.tokenizer import InContextDecoder


def stream(tokenizer: ByteTokenizer, token_ids: list[int]) -> list[str]:
    """What each token gives, and at last what was still waiting."""
    detokenizer = Detokenizer(InContextDecoder(tokenizer))
    return [*(detokenizer.add(token_id) for token_id in token_ids), detokenizer.finish()]


def test_a_character_comes_with_its_last_byte() -> None:
    tokenizer = ByteTokenizer()
    assert stream(tokenizer, tokenizer.encode("a中😀b")) == (
        ["a", "", "", "中", "", "", "", "😀", "b", ""]
    )


def test_bytes_that_never_become_a_character_come_in_the_end() -> None:
    assert stream(ByteTokenizer(), [0xE4, 0xB8]) == ["", "", "\ufffd\ufffd"]
    assert stream(ByteTokenizer(merge=True), [0xE4, 0xB8]) == ["", "", "\ufffd"]


def test_invalid_bytes_do_not_hold_the_text_back_for_ever() -> None:
    pieces = stream(ByteTokenizer(), [0xFF] * 100 + [ord("x")])
    assert pieces[3] == "\ufffd"
    assert "".join(pieces) == "\ufffd" * 100 + "x"


def test_white_space_at_the_beginning_stays_and_newlines_come_back() -> None:
    tokenizer = ByteTokenizer()
    assert "".join(stream(tokenizer, tokenizer.encode("  a\n b"))) == "  a\n b"
    assert "".join(stream(tokenizer, [32] * 90)) == " " * 90


def test_special_tokens_between_the_bytes_of_a_character_do_not_part_them() -> None:
    assert "".join(stream(ByteTokenizer(), [0xE4, *[END] * 80, 0xB8, 0xAD, RET])) == "中\n"


def test_the_work_per_token_is_bounded() -> None:
    longest = 0

    class Watched(ByteTokenizer):
        def decode(self, token_ids: list[int], *, skip_special_tokens: bool) -> str:  # type: ignore[override]
            nonlocal longest
            longest = max(longest, len(token_ids))
            return super().decode(token_ids, skip_special_tokens=skip_special_tokens)

    stream(Watched(), [ord("x")] * 500 + [0xFF] * 500 + [32] * 500)
    assert longest < 40


@given(st.text(max_size=200), st.lists(st.integers(1, 6), min_size=1), st.booleans())
def test_any_text_cut_anywhere_comes_back_whole(text: str, cuts: list[int], merge: bool) -> None:
    raw, pieces = text.encode(), []
    while raw:
        size = cuts[len(pieces) % len(cuts)]
        pieces.append(raw[:size])
        raw = raw[size:]
    tokenizer = ByteTokenizer(pieces, merge)
    assert "".join(stream(tokenizer, list(range(258, 258 + len(pieces))))) == text


BYTES = st.sampled_from([0xFF, 0xE4, 0xB8, 0xAD, 0xF0, 0x9F, 0x98, 0x80, 32, 97])


@given(st.lists(BYTES, max_size=120) | st.lists(BYTES, min_size=40, max_size=120))
def test_any_bytes_give_what_decoding_them_at_once_gives(token_ids: list[int]) -> None:
    for tokenizer in (ByteTokenizer(), ByteTokenizer(merge=True)):
        whole = InContextDecoder(tokenizer).text(token_ids)
        assert "".join(stream(tokenizer, token_ids)) == whole
