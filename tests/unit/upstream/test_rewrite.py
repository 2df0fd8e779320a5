"""The engine: what it locates, what it refuses, what it makes."""

import ast
import textwrap
from collections.abc import Mapping

import pytest

from kit.errors import IntegrityError
from kit.upstream.rewrite import (
    Definition,
    Edit,
    Rewrite,
    Text,
    added_files,
    apply_rewrites,
    find_drift,
    read_added,
)

SOURCE = '''\
import slow, slow  # slow
from __future__ import annotations


def first(a):
    return "first"


class Layer:
    size = 1

    @staticmethod
    @decorated(
        "twice"
    )
    def forward(
        x,
    ):
        """Ünïcode before the end."""
        return [
            "first",
        ]

    async def later(self): return 1

    class Inner:
        def forward(self):
            return 2


if size:
\tdef tabbed():
\t\treturn 3

try:
    def last():
        def inside():
            return 4
        return inside
finally:
    pass
'''


def rewrite(name: str = "one", adds: tuple[str, ...] = (), **edits: tuple[Edit, ...]) -> Rewrite:
    """Edits of ``a.py`` as ``a=…``."""
    by_file = {f"{stem}.py": each for stem, each in edits.items()}
    return Rewrite(name, "portability", "it fails", "it does not", by_file, adds)


def apply(*rewrites: Rewrite, **files: str) -> Mapping[str, bytes]:
    pristine = {f"{stem}.py": text.encode() for stem, text in files.items()}
    return apply_rewrites(rewrites, pristine)


def applied(*edits: Edit, source: str = SOURCE) -> str:
    return apply(rewrite(a=edits), a=source)["a.py"].decode()


def test_a_text_is_replaced_at_every_match():
    assert applied(Text("slow", "fast", count=3)) == SOURCE.replace("slow", "fast")


def test_a_text_may_span_lines_and_hold_anything():
    result = applied(Text("x,\n    ):\n", "x, *y):  # \\1 $& {}\n"))
    assert result == SOURCE.replace("x,\n    ):\n", "x, *y):  # \\1 $& {}\n")


@pytest.mark.parametrize("find", ["slow.", "^import", "(", "\\"])
def test_a_text_is_no_pattern(find):
    assert Text(find, "").matches("ab") == []
    assert Text(find, "").matches(f"a{find}b") == [(1, 1 + len(find), "")]


@pytest.mark.parametrize(
    ("name", "old"),
    [
        ("first", 'def first(a):\n    return "first"'),
        ("Layer.later", "    async def later(self): return 1"),
        ("Layer.Inner", "    class Inner:\n        def forward(self):\n            return 2"),
        ("Layer.Inner.forward", "        def forward(self):\n            return 2"),
        ("tabbed", "\tdef tabbed():\n\t\treturn 3"),
        ("last.inside", "        def inside():\n            return 4"),
    ],
)
def test_a_definition_is_replaced_whole(name, old):
    new = "def other():\n    if 1:\n\n        return 5\n"
    indent = old[: len(old) - len(old.lstrip())]
    expected = SOURCE.replace(old, textwrap.indent(new, indent).rstrip("\n"))
    assert applied(Definition(name, new)) == expected
    assert applied(Definition(name, "\n\n" + textwrap.indent(new, "  "))) == expected


def test_a_definition_includes_its_decorators_and_nothing_else():
    result = applied(Definition("Layer.forward", "def forward(y): return y"))
    before, _, after = SOURCE.partition("    @staticmethod\n")
    after = after.partition("        ]\n")[2]
    assert result == f"{before}    def forward(y): return y\n{after}"


@pytest.mark.parametrize("name", ["forward", "Layer.last", "inside", "Inner", "Layer.size", "slow"])
def test_only_the_qualified_name_of_a_definition_counts(name):
    (drift,) = find_drift(rewrite(a=(Definition(name, "pass"),)), {"a.py": SOURCE.encode()})
    assert (drift.expected, drift.found) == (1, 0)


def test_a_definition_that_is_there_twice_is_refused():
    source = "if a:\n    def f(): pass\nelse:\n    def f(): pass\n"
    with pytest.raises(IntegrityError, match=r"a\.py: definition f expected 1 times, found 2"):
        applied(Definition("f", "def f(): return 1"), source=source)


def test_a_definition_in_what_is_no_python_is_not_found():
    with pytest.raises(IntegrityError, match="expected 1 times, found 0"):
        applied(Definition("f", "def f(): pass"), source="def f(:\n")


def test_edits_are_located_in_the_pristine_text():
    """What one edit makes is not looked at by another."""
    chain = rewrite("chain", a=(Text("one", "two"), Text("two", "three")))
    assert apply(chain, a="one + two\n")["a.py"] == b"two + three\n"


def test_the_order_of_rewrites_makes_no_difference():
    one = rewrite("one", a=(Text("first(a)", "first(b)"),), b=(Text("x", "y"),))
    two = rewrite("two", a=(Definition("Layer.later", "def later(self): ..."),))
    assert apply(one, two, a=SOURCE, b="x\n") == apply(two, one, a=SOURCE, b="x\n")


def test_only_what_is_changed_comes_back():
    assert apply(rewrite(a=(Text("x", "y"),)), a="x", b="x") == {"a.py": b"y"}
    assert apply(a="x") == {}


def test_every_drift_is_named_with_rewrite_file_and_counts():
    one = rewrite("one", a=(Text("x", "y", count=2), Text("gone", "y")))
    two = rewrite("two", c=(Text("x", "y"),), b=(Definition("f", "def f(): pass"),))
    with pytest.raises(IntegrityError) as caught:
        apply(one, two, a="x", b="x")
    message = caught.value.message
    assert "one: a.py: 'x' expected 2 times, found 1" in message
    assert "one: a.py: 'gone' expected 1 times, found 0" in message
    assert "two: c.py is missing" in message
    assert "two: b.py: definition f expected 1 times, found 0" in message
    assert caught.value.exit_code == 4


def test_a_drifted_file_need_not_be_text():
    (drift,) = find_drift(rewrite(a=(Text("x", "y"),)), {"a.py": b"\xff\x00"})
    assert drift.found == 0


def test_a_long_text_is_named_by_its_start():
    (drift,) = find_drift(rewrite(a=(Text("word\n" * 50, ""),)), {"a.py": b""})
    assert len(drift.edit) < 70
    assert drift.edit.startswith("'word word")


@pytest.mark.parametrize(
    "edits",
    [
        (Text("ab", "x"), Text("bc", "y")),
        (Text("abc", "x"), Text("b", "y")),
        (Text("abc", "x"), Text("abc", "x")),
        (Definition("abc", "def abc(): ..."), Text("():\n", "(x):\n")),
        (Definition("abc", "def abc(): ..."), Definition("abc.d", "def d(): ...")),
    ],
)
def test_overlapping_edits_are_refused(edits):
    one, two = (rewrite(name, a=(each,)) for name, each in zip(("one", "two"), edits, strict=True))
    source = "def abc():\n    def d(): ...\n"
    with pytest.raises(ValueError, match=r"a\.py: edits of (one|two) and (one|two) overlap"):
        apply(one, two, a=source)


def test_edits_may_touch():
    assert applied(Text("a", "x"), Text("b", "y"), source="abc") == "xyc"


def test_a_result_that_is_no_python_is_refused():
    with pytest.raises(ValueError, match=r"a\.py is no Python after one"):
        applied(Text("abc", "a b"), source="abc")


def test_other_files_need_not_be_python():
    edits = {"run.sh": (Text("a b", "a b c"),)}
    shell = Rewrite("shell", "portability", "", "", edits)
    assert apply_rewrites([shell], {"run.sh": b"a b\n"}) == {"run.sh": b"a b c\n"}


@pytest.mark.parametrize(("find", "count"), [("", 1), ("x", 0)])
def test_an_edit_that_cannot_fail_is_no_edit(find, count):
    with pytest.raises(ValueError, match="at least once"):
        Text(find, "", count)


def test_added_files_come_as_a_package_of_their_own():
    one, two = rewrite("one", adds=("__init__.py",)), rewrite("two")
    assert added_files([one, two]) == ["__init__.py"]
    assert added_files([two]) == []
    result = apply(one, two, a="x")
    assert result == {"megatron/spark_kit/__init__.py": read_added("__init__.py")}
    ast.parse(result["megatron/spark_kit/__init__.py"])


def test_an_added_file_takes_no_name_that_upstream_has():
    with pytest.raises(ValueError, match=r"__init__\.py is there already"):
        apply_rewrites([rewrite(adds=("__init__.py",))], {"megatron/spark_kit/__init__.py": b""})
