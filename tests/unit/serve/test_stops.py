from hypothesis import given
from hypothesis import strategies as st

from kit.serve.api.answer import StopScanner


def scan(pieces: list[str], stops: list[str]) -> tuple[list[str], bool]:
    scanner, passed = StopScanner(stops), []
    for piece in pieces:
        text, stopped = scanner.add(piece)
        passed.append(text)
        if stopped:
            return passed, True
    return [*passed, scanner.finish()], False


def test_nothing_is_held_back_without_stop_strings() -> None:
    assert scan(["ab", "c"], []) == (["ab", "c", ""], False)


def test_only_what_could_begin_a_stop_string_is_held_back() -> None:
    assert scan(["one E", "ND", "x EN", "."], ["END."]) == (["one ", "", "ENDx ", "EN.", ""], False)


def test_a_stop_string_across_pieces_ends_the_text_before_it() -> None:
    assert scan(["one E", "N", "D two"], ["END"]) == (["one ", "", ""], True)


def test_of_overlapping_stop_strings_the_first_to_be_complete_counts() -> None:
    assert scan(["xabc"], ["abc", "b"]) == (["xa"], True)
    assert scan(["x", "a", "b", "c"], ["abc", "b"]) == (["x", "", "a"], True)


def test_of_two_that_end_together_the_longer_counts() -> None:
    assert scan(["xab"], ["b", "ab"]) == (["x"], True)


def test_a_held_back_beginning_can_hold_the_next_one() -> None:
    assert scan(["a", "a", "b"], ["ab"]) == (["", "a", ""], True)


short = st.text("ab ", max_size=12)


@given(short, st.lists(st.text("ab ", min_size=1, max_size=4), max_size=4), st.data())
def test_cuts_make_no_difference_and_no_stop_string_leaks(
    text: str, stops: list[str], data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6)))
    pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    at_once, stopped = scan([text], stops)
    passed, also_stopped = scan(pieces, stops)
    assert ("".join(passed), also_stopped) == ("".join(at_once), stopped)
    assert text.startswith("".join(passed))
    assert stopped == any(stop in text for stop in stops)
    assert not any(stop in "".join(passed) for stop in stops)
