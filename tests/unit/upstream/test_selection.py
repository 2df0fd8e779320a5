"""Which rewrites are chosen, and what their digest depends on."""

from dataclasses import replace

import pytest

from kit.errors import UsageError
from kit.upstream.rewrite import Definition, Rewrite, Text, added_files, read_added
from kit.upstream.selection import (
    DEFAULT_GROUPS,
    GROUPS,
    MEANING,
    all_rewrites,
    rewrite_digest,
    select,
)

EDITS = {"a.py": (Text("x", "y"),)}
KNOWN = [
    Rewrite(name, group, "why", "when", EDITS)
    for name, group in [
        ("z-mask", "memory-serving"),
        ("b-apex", "portability"),
        ("a-nvcc", "portability"),
        ("first-cpu", "loading-cpu-first"),
        ("stream", "loading-stream"),
    ]
]


def names(*arguments, **options):
    return [rewrite.name for rewrite in select(*arguments, known=KNOWN, **options)]


def test_every_group_has_a_meaning():
    assert tuple(MEANING) == GROUPS


def test_the_default_is_all_but_the_published_way_to_load():
    assert set(GROUPS) - set(DEFAULT_GROUPS) == {"loading-cpu-first"}
    assert names() == ["a-nvcc", "b-apex", "stream", "z-mask"]


def test_groups_names_and_exceptions():
    assert names(["portability"]) == ["a-nvcc", "b-apex"]
    assert names(["portability", "loading-cpu-first"]) == ["a-nvcc", "b-apex", "first-cpu"]
    assert names(names=["stream", "a-nvcc"]) == ["a-nvcc", "stream"]
    assert names(["memory-serving"], names=["stream"]) == ["stream", "z-mask"]
    assert names(without=["b-apex", "memory-serving"]) == ["a-nvcc", "stream"]
    assert names([]) == []


@pytest.mark.parametrize(
    "options",
    [
        {"groups": ["loading-cpu-first", "loading-stream"]},
        {"groups": ["loading-stream"], "names": ["first-cpu"]},
        {"groups": GROUPS},
    ],
)
def test_two_ways_to_load_exclude_each_other(options):
    with pytest.raises(UsageError, match=r"loading-cpu-first and loading-stream .* exclude"):
        names(**options)
    assert "first-cpu" not in names(**options, without=["loading-cpu-first"])


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"groups": ["portable"]}, "group named portable"),
        ({"names": ["a-nvcc", "apex"]}, "rewrite named apex"),
        ({"without": ["stream", "loading"]}, "rewrite or group named loading"),
    ],
)
def test_unknown_names_are_refused(options, what):
    with pytest.raises(UsageError, match=what) as caught:
        names(**options)
    assert "kit upstream list" in caught.value.hint


def test_the_kits_own_rewrites_are_found_in_order():
    found = all_rewrites()
    assert list(found) == sorted(found, key=lambda each: (GROUPS.index(each.group), each.name))
    assert len({rewrite.name for rewrite in found}) == len(found)
    assert list(select()) == [rewrite for rewrite in found if rewrite.group in DEFAULT_GROUPS]


def test_every_rewrite_says_why_where_and_when_it_can_go():
    for rewrite in all_rewrites():
        assert rewrite.why, rewrite.name
        assert rewrite.retire_when, rewrite.name
        assert rewrite.edits or rewrite.adds, rewrite.name
        for name in added_files([rewrite]):
            assert read_added(name), name


def test_the_digest_is_of_what_goes_into_the_tree():
    one, two = KNOWN[:2]
    digest = rewrite_digest([one, two])
    assert len(digest) == 64
    assert rewrite_digest([two, one]) == digest
    assert rewrite_digest([replace(one, why="else", retire_when="else"), two]) == digest
    others = [
        [one],
        [one, two, KNOWN[2]],
        [replace(one, edits={"b.py": EDITS["a.py"]}), two],
        [replace(one, edits={"a.py": (Text("x", "z"),)}), two],
        [replace(one, edits={"a.py": (Text("x", "y", count=2),)}), two],
        [replace(one, edits={"a.py": (Definition("x", "y"),)}), two],
        [replace(one, adds=("__init__.py",)), two],
    ]
    digests = [rewrite_digest(each) for each in others]
    assert len({digest, *digests}) == len(others) + 1
