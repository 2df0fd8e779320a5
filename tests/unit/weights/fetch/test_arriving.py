from pathlib import Path

import pytest

from kit.lock import LockedFile
from kit.weights.fetch.fetch import ARRIVING_NAME, add_arrived, arrived_from, clear_arrived

A = LockedFile(3, "aa" * 32, "observed", "https://example.org/a", "2024-05-01")
B = LockedFile(4, "bb" * 32, "observed", "https://example.org/b", "2024-05-02")


def test_what_a_source_has_sent_counts_for_that_source(tmp_path: Path) -> None:
    assert arrived_from(tmp_path, "one") == {}
    add_arrived(tmp_path, "one", {"a": A})
    add_arrived(tmp_path, "one", {"b": B})
    assert arrived_from(tmp_path, "one") == {"a": A, "b": B}
    assert arrived_from(tmp_path, "two") == {}
    add_arrived(tmp_path, "two", {"b": B})
    assert arrived_from(tmp_path, "two") == {"b": B}
    assert arrived_from(tmp_path, "one") == {}


def test_it_is_forgotten(tmp_path: Path) -> None:
    clear_arrived(tmp_path)
    add_arrived(tmp_path, "one", {"a": A})
    clear_arrived(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", ["", "[]", '{"source": "one"}', '{"source": "one", "files": {"a": {"size": 1}}}']
)
def test_damaged_it_costs_only_time(tmp_path: Path, content: str) -> None:
    (tmp_path / ARRIVING_NAME).write_text(content)
    assert arrived_from(tmp_path, "one") == {}
