"""The demo's questions and answers, as data."""

import re

import pytest
from demo_questions import Entry, load_entries

ENTRIES = load_entries()


def test_at_least_sixty_pairs_in_each_sense() -> None:
    assert len(ENTRIES) >= 60
    assert len({entry.answer for entry in ENTRIES}) >= 60
    assert len({entry.canonical for entry in ENTRIES}) >= 60
    assert {entry.id.rpartition(".")[0] for entry in ENTRIES if entry.lang == "zh"} == {
        entry.id.rpartition(".")[0] for entry in ENTRIES if entry.lang == "en"
    }, "every topic is there in both languages"


def test_no_question_is_asked_twice() -> None:
    questions = [question for entry in ENTRIES for question in entry.questions]
    assert len(questions) == len(set(questions))
    assert len({entry.id for entry in ENTRIES}) == len(ENTRIES)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.id)
def test_entry_is_well_formed(entry: Entry) -> None:
    assert entry.id.endswith(f".{entry.lang}")
    assert 2 <= len(entry.questions) <= 5
    assert len(entry.answer) < 200
    assert not re.search("[<>\n\t]", entry.answer), "would be a control piece"
    assert bool(re.search("[一-鿿]", entry.answer)) == (entry.lang == "zh")


def test_a_fifth_phrasing_is_held_out() -> None:
    five = Entry("x.en", "en", ("1", "2", "3", "4", "5"), "a")
    two = Entry("y.en", "en", ("1", "2"), "a")
    assert (five.canonical, five.taught, five.held_out) == ("1", ("1", "2", "3", "4"), ("5",))
    assert (two.taught, two.held_out) == (("1", "2"), ())
    assert sum(len(entry.held_out) for entry in ENTRIES) >= 20
