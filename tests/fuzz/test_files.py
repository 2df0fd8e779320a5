"""Readers of files from outside, given anything: a result, or a KitError in plain words.

Whatever is tried here again and again lies in ``corpus/TARGET/``; what was found goes there, too.
"""

import io
import json
import pickle
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.checkpoint.mindspore import index_mindspore
from kit.checkpoint.model import map_parameters
from kit.checkpoint.shards import index_directory
from kit.checkpoint.torchfile import index_checkpoint
from kit.checkpoint.unpickle import read_pickle
from kit.errors import KitError
from kit.weights.carry.unbundle import unbundle
from kit.weights.fetch.transfer import Watch
from tests.fuzzing import FUZZ

CORPUS = Path(__file__).with_name("corpus")
LONGEST_MESSAGE = 4000


def read_torch(folder: Path, data: bytes) -> None:
    (folder / "w.pt").write_bytes(data)
    index_checkpoint(folder / "w.pt")


def read_data_pkl(folder: Path, data: bytes) -> None:
    read_pickle(data, source="data.pkl")


def read_safetensors(folder: Path, data: bytes) -> None:
    (folder / "model.safetensors").write_bytes(data)
    index_directory(folder)


def read_mindspore(folder: Path, data: bytes) -> None:
    (folder / "w.ckpt").write_bytes(data)
    map_parameters(index_mindspore(folder / "w.ckpt"))


def read_bundle(folder: Path, data: bytes) -> None:
    (folder / "b.tar").write_bytes(data)
    unbundle(folder / "b.tar", folder / "data", Watch())


TARGETS: dict[str, Callable[[Path, bytes], None]] = {
    "torch": read_torch,
    "pickle": read_data_pkl,
    "safetensors": read_safetensors,
    "mindspore": read_mindspore,
    "bundle": read_bundle,
}


def attempt(target: str, data: bytes) -> None:
    with tempfile.TemporaryDirectory() as name:
        outer = Path(name)
        folder = outer / "inner"
        folder.mkdir()
        try:
            TARGETS[target](folder, data)
        except KitError as error:
            assert error.message.replace("\n", "").isprintable()
            assert 0 < len(error.message) < LONGEST_MESSAGE + len(str(folder))
            assert error.hint
        assert [path.name for path in outer.iterdir()] == ["inner"]
        allowed = {"w.pt", "model.safetensors", "w.ckpt", "b.tar", "data"}
        assert {path.name for path in folder.iterdir()} <= allowed


def torch_file(pickled: bytes, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a/data.pkl", pickled)
        for name, content in members.items():
            archive.writestr(f"a/{name}", content)
    return file.getvalue()


def tar_file(files: dict[str, bytes], manifest: object) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in {**files, "MANIFEST.json": json.dumps(manifest).encode()}.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file.getvalue()


def safetensors_file(header: object) -> bytes:
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(64)


TENSOR = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
WHOLE: dict[str, bytes] = {
    "torch": torch_file(pickle.dumps({"module": {"language_model": {"a": [1]}}}, 2)),
    "pickle": pickle.dumps({"module": {"a": (1, 2.5, "b", [None, {}])}}, 2),
    "safetensors": safetensors_file({"a": TENSOR}),
    "mindspore": b"\n\x15\n\x01a\x12\x10\x08\x02\x12\x07Float32\x1a\x03abc",
    "bundle": tar_file(
        {"checkpoints/x/w": b"x"},
        {"version": 1, "files": {"checkpoints/x/w": {"size": 1, "sha256": "0" * 64}}, "lock": {}},
    ),
}


@st.composite
def damaged(draw: st.DrawFn, target: str) -> bytes:
    """Bytes of a sound file with some replaced, put in or taken out; or any bytes at all."""
    data = bytearray(WHOLE[target])
    for _ in range(draw(st.integers(0, 4))):
        start = draw(st.integers(0, len(data)))
        taken = draw(st.sampled_from((0, 1, 2, 4, 8, 64, len(data))))
        data[start : start + taken] = draw(st.binary(max_size=12))
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=12,
)
NUMBERS = st.integers(-(2**70), 2**90) | st.integers(-1, 20)
ENTRIES = st.dictionaries(
    st.text(max_size=20),
    JSON
    | st.fixed_dictionaries(
        {
            "dtype": st.sampled_from(("F32", "BF16", "I8", "X")) | JSON,
            "shape": st.lists(NUMBERS, max_size=10) | JSON,
            "data_offsets": st.lists(NUMBERS, min_size=2, max_size=2) | JSON,
        }
    ),
    max_size=4,
)
NAMES = st.text(max_size=12) | st.sampled_from(
    ("checkpoints/x/w", "kit.lock/x", "../x", "/x", "x-bf16/conversion.json", "licences/a.md")
)
LOCKED = JSON | st.fixed_dictionaries({"size": NUMBERS, "sha256": st.just("0" * 64)})


@pytest.mark.parametrize("target", TARGETS)
@FUZZ
@given(data=st.data())
def test_damaged_files(target: str, data: st.DataObject) -> None:
    attempt(target, data.draw(damaged(target) | st.binary(max_size=200)))


@FUZZ
@given(header=ENTRIES | JSON)
def test_safetensors_headers(header: object) -> None:
    attempt("safetensors", safetensors_file(header))


@FUZZ
@given(value=JSON)
def test_pickles_of_values(value: object) -> None:
    for protocol in (0, 2, 4):
        pickled = pickle.dumps({"module": {"language_model": value}}, protocol)
        attempt("pickle", pickled)
        attempt("torch", torch_file(pickled))


@FUZZ
@given(
    files=st.dictionaries(NAMES, LOCKED, max_size=4),
    lock=JSON | st.dictionaries(NAMES, st.dictionaries(NAMES, LOCKED, max_size=2), max_size=2),
)
def test_manifests(files: dict[str, object], lock: object) -> None:
    carried = {name: b"x" for name in files if name.isascii() and name and "\0" not in name}
    attempt("bundle", tar_file(carried, {"version": 1, "files": files, "lock": lock}))


def corpus() -> Iterator[tuple[str, str]]:
    for target in TARGETS:
        yield from ((target, path.name) for path in sorted((CORPUS / target).glob("*")))


@pytest.mark.parametrize(
    ("target", "name"), list(corpus()), ids=lambda value: getattr(value, "name", value)
)
def test_what_was_found_before(target: str, name: str) -> None:
    attempt(target, (CORPUS / target / name).read_bytes())
