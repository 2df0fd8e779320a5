import argparse
import collections
import datetime
import decimal
import enum
import os
import pathlib
import pickle
import re
import subprocess
import sys
import types
import uuid

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.checkpoint.torch_objects import OPAQUE, Global
from kit.checkpoint.unpickle import MAX_PICKLE_BYTES, read_pickle
from kit.errors import IntegrityError, UnsafePickle

RAN: list[str] = []


def touch(text: str) -> str:
    RAN.append(text)
    return text


class CallsSystem:
    def __reduce__(self) -> tuple[object, ...]:
        return os.system, ("echo executed",)


class CallsOurs:
    def __reduce__(self) -> tuple[object, ...]:
        return touch, ("reduce",)


class SetsState:
    """A class whose __setstate__ and __init__ have effects."""

    def __init__(self, state: object = None) -> None:
        self.state = state

    def __getstate__(self) -> object:
        return {"state": self.state}

    def __setstate__(self, state: object) -> None:
        RAN.append("setstate")


@pytest.fixture(autouse=True)
def nothing_ran() -> object:
    RAN.clear()
    yield
    assert RAN == []


def read(data: bytes) -> object:
    return read_pickle(data, source="x.pt")


PLAIN = {"a": [1, -1, 2**40, 1.5, None, True, b"x", "ü", (), (1,), (1, 2, 3, 4)], "b": {"c": {}}}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_plain_data_comes_back_in_every_protocol(protocol: int) -> None:
    plain = PLAIN if protocol > 2 else {"a": [1, "ü", (1, 2)], "b": {"c": {}}}
    assert read(pickle.dumps(plain, protocol)) == plain


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_foreign_objects_are_forgotten_and_never_built(protocol: int) -> None:
    data = {"args": argparse.Namespace(lr=1, seen={1, 2}), "state": SetsState("x"), "kept": 1}
    assert read(pickle.dumps(data, protocol)) == {"args": OPAQUE, "state": OPAQUE, "kept": 1}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_random_states_and_sets_are_skipped(protocol: int) -> None:
    extras = {
        "numpy": np.random.RandomState(1).get_state(),
        "scalar": np.float64(1),
        "set": {1},
        "frozen": frozenset({2}),
        "bytes": b"\xff",
        "ordered": collections.OrderedDict(a=1),
    }
    result = read(pickle.dumps(extras, protocol))
    assert isinstance(result, dict)
    assert result.keys() == extras.keys()
    assert result["ordered"] == {"a": 1}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "wrap",
    [
        lambda evil: evil,
        lambda evil: {"module": [(evil,)]},
        lambda evil: SetsState(evil),
        lambda evil: argparse.Namespace(hidden=evil),
        lambda evil: collections.OrderedDict(hidden=evil),
    ],
    ids=["bare", "nested", "in a foreign state", "in a Namespace", "in an OrderedDict"],
)
def test_calls_are_refused_by_name(protocol: int, wrap: object) -> None:
    data = pickle.dumps(wrap(CallsOurs()), protocol)  # type: ignore[operator]
    with pytest.raises(UnsafePickle, match=r"touch|copyreg|copy_reg") as caught:
        read(data)
    assert caught.value.exit_code == 4


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_os_system_is_refused_by_name(protocol: int, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UnsafePickle, match=r"x\.pt: its pickle calls (posix|nt)\.system"):
        read(pickle.dumps({"module": CallsSystem()}, protocol))
    assert "executed" not in capfd.readouterr().out


HAND_MADE = {
    "GLOBAL and REDUCE": (b"cos\nsystem\n(S'true'\ntR.", r"os\.system"),
    "STACK_GLOBAL": (b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x04true\x85R.", r"os\.system"),
    "memoised function": (b"cos\nsystem\nq\x000h\x00(S'true'\ntR.", r"os\.system"),
    "INST": (b"(S'true'\nios\nsystem\n.", r"os\.system"),
    "OBJ": (b"(cos\nsystem\nS'true'\no.", r"os\.system"),
    "EXT1": (b"\x80\x02\x82\x07.", "extension code 7"),
    "EXT2": (b"\x80\x02\x83\x07\x01.", "extension code 263"),
    "EXT4": (b"\x80\x02\x84\x07\x01\x00\x00.", "extension code 263"),
    "eval": (b"c__builtin__\neval\n(S'1'\ntR.", "eval"),
    "getattr": (b"c__builtin__\ngetattr\n(cos\nsystem\nS'x'\ntR.", "getattr"),
    "torch.load": (b"ctorch.serialization\nload\n(S'y.pt'\ntR.", r"torch\.serialization\.load"),
    "torch storage loader": (
        b"ctorch.storage\n_load_from_bytes\n(S'y'\ntR.",
        r"torch\.storage\._load_from_bytes",
    ),
    "a look-alike of an allowed name": (
        b"\x80\x04\x8c\x0ctorch._utils\x8c\x11_rebuild_tensor_v\x93)R.",
        "_rebuild_tensor_v;",
    ),
    "an object made by the pickle": (b"(lp0\n)R.", "an object"),
    "control characters in a name": (b"cos\nsys\x1b[2Jtem\n)R.", r"os\.sys\\x1b\[2Jtem"),
}


@pytest.mark.parametrize("name", HAND_MADE)
def test_every_way_to_call_is_refused_by_name(name: str) -> None:
    data, refused = HAND_MADE[name]
    with pytest.raises(UnsafePickle, match=refused):
        read(data)


class Colour(enum.Enum):
    red = 1


class Outer:
    class Shade(enum.Enum):
        LIGHT = 2


BESIDE = {
    "path": pathlib.PurePosixPath("/a/b"),
    "windows": pathlib.PureWindowsPath("c:/x"),
    "datetime": datetime.datetime(2024, 1, 1, tzinfo=datetime.UTC),
    "delta": datetime.timedelta(1),
    "namespace": types.SimpleNamespace(a=1, b=[2]),
    "enum": Colour.red,
    "nested enum": Outer.Shade.LIGHT,
    "counter": collections.Counter("aab"),
    "defaultdict": collections.defaultdict(list, a=[1]),
    "deque": collections.deque([1]),
    "decimal": decimal.Decimal("1.5"),
    "uuid": uuid.UUID(int=3),
    "complex": 1j,
    "range": range(3),
}


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("name", BESIDE)
def test_what_lies_beside_weights_is_passed_over(name: str, protocol: int) -> None:
    data = pickle.dumps({"args": argparse.Namespace(x=BESIDE[name]), "it": BESIDE[name]}, protocol)
    assert read(data) == {"args": OPAQUE, "it": OPAQUE}


@pytest.mark.parametrize(
    "name",
    [
        "subprocess Popen",
        "os Popen",
        "ctypes CDLL",
        "ftplib FTP",
        "types FunctionType",
        "types CodeType",
        "threading Timer",
        "importlib.machinery SourceFileLoader",
        "multiprocessing Process",
        "builtins Exec",
        "torch.hub load",
        "numpy.testing._private.utils runstring",
        "pip._internal.cli Main",
        "operator attrgetter",
        "functools partial",
        "some.package function",
        "some.package _Private",
        "os.x PosixPath",
    ],
)
def test_functions_and_pythons_own_library_stay_refused(name: str) -> None:
    with pytest.raises(UnsafePickle, match=re.escape(name.replace(" ", "."))):
        read(b"c" + name.replace(" ", "\n").encode() + b"\n(S'x'\ntR.")


@pytest.mark.parametrize("code", [b"\x81", b"}\x92"])
def test_an_attack_is_refused_as_a_new_object_too(code: bytes) -> None:
    with pytest.raises(UnsafePickle, match=r"subprocess\.Popen"):
        read(b"\x80\x04csubprocess\nPopen\n)" + code + b".")


@pytest.mark.parametrize(
    "arguments",
    [b"cos\nPath\nS'x'\n", b"cpkg\nThing\nS'__globals__'\n", b"S'a'\nS'b'\n", b"cpkg\nThing\n"],
)
def test_getattr_is_for_classes_within_classes_alone(arguments: bytes) -> None:
    with pytest.raises(UnsafePickle, match="getattr"):
        read(b"cbuiltins\ngetattr\n(" + arguments + b"tR.")
    with pytest.raises(UnsafePickle, match="an object made by the pickle"):
        read(b"cbuiltins\ngetattr\n(cpkg\nThing\nS'run'\ntR)R.")


def test_a_pickle_cannot_grow_for_ever() -> None:
    """OrderedDict(list) again and again: 8 MB that would become terabytes."""
    pairs = b"(" + b"".join(b"U\x06%06dK\x01\x86" % n for n in range(100_000)) + b"lq\x00"
    again = b"ccollections\nOrderedDict\nq\x010" + b"h\x01h\x00\x85R" * 1_000_000 + b"."
    with pytest.raises(IntegrityError, match="more work than any checkpoint's"):
        read(b"\x80\x02" + pairs + again)
    with pytest.raises(IntegrityError, match="more work than any checkpoint's"):
        read(b"\x80\x02" + b"}" * (MAX_PICKLE_BYTES - 10) + b".")


def test_many_long_argument_lists_cost_nothing() -> None:
    items = b"(" + b"K\x01" * 1_000_000 + b"tq\x00"
    call = b"ctorch._utils\n_rebuild_tensor_v2\nq\x01"
    with pytest.raises(IntegrityError, match="damaged"):
        read(b"\x80\x02" + items + call + b"h\x01h\x00R" * 500_000 + b".")


def test_a_global_is_named_but_not_imported() -> None:
    name = "antigravity"
    assert read(b"cantigravity\nfly\n.") == Global("antigravity.fly")
    assert name not in sys.modules


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x80\x02",
        b"\x80\x02}q\x00(X\x06",
        b"R.",
        b"}s.",
        b"]a.",
        b"t.",
        b"h\x05.",
        b"\x80\x02X\xff\xff\xff\x7fabc.",  # a text of 2 GiB
        b"\x80\x05\x96\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a bytearray of 8 EiB
        b"\x80\x04\x8e\xff\xff\xff\xff\xff\xff\xff\x7f.",  # bytes of 8 EiB
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\x7f.",  # a frame of 8 EiB
        b"\x80\x05\x97.",  # an out-of-band buffer
        b"Pname\n.",  # a persistent id in text
        b"(I1\nI2\nI3\nI4\nI5\ntQ.",  # a persistent id that is no storage
        b"I" + b"9" * 5000 + b"\n.",
        b"\xff.",
    ],
)
def test_nonsense_is_damage(data: bytes) -> None:
    with pytest.raises(IntegrityError, match="damaged"):
        read(data)


def test_a_huge_memo_index_costs_nothing() -> None:
    assert read(b"\x80\x02}r\xff\xff\xff\xff.") == {}


def test_a_huge_pickle_is_refused() -> None:
    with pytest.raises(IntegrityError, match="too large"):
        read(b"0" * (MAX_PICKLE_BYTES + 1))


def test_hostile_keys_are_never_hashed() -> None:
    """Nested pairs of one shared tuple: hashing or printing the last takes 2**60 steps."""
    doubled = b")" + b"2\x86" * 60
    assert read(b"}" + doubled + b"Ns.") == {}
    with pytest.raises(UnsafePickle):
        read(doubled + b")R.")


@given(st.binary(max_size=200), st.integers(0, 400), st.integers(0, 255))
def test_mutations_never_escape(tail: bytes, position: int, byte: int) -> None:
    data = bytearray(pickle.dumps({"module": argparse.Namespace(a=[1, {"b": (2,)}])}, 2) + tail)
    data[position % len(data)] = byte
    try:
        read(bytes(data))
    except IntegrityError as error:
        assert error.hint


def test_reading_needs_no_torch() -> None:
    code = (
        "import sys, kit.checkpoint.convert, kit.weights.convert.convert;"
        "sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
