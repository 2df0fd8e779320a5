import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from kit.checkpoint import mindspore
from kit.checkpoint.mindspore import index_mindspore, is_mindspore
from kit.checkpoint.model import read_model
from kit.errors import EnvironmentNotReady, IntegrityError, KitError
from tests.shapes import mindspore_bytes, mindspore_header, mindspore_parameters, mindspore_value

MakeState = Callable[..., dict[str, Any]]
TABLE = "transformer.embedding.word_embeddings.embedding_table"
QUERY = "transformer.transformer.layers.1.attention.q_proj.weight"


@pytest.fixture
def write(tmp_path: Path) -> Callable[[bytes], Path]:
    def write_file(content: bytes) -> Path:
        path = tmp_path / "x.ckpt"
        path.write_bytes(content)
        return path

    return write_file


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40
)
@given(
    layers=st.integers(1, 3),
    hidden=st.integers(1, 9),
    ffn=st.integers(1, 9),
    dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    norms=st.sampled_from([torch.float32, None]),
    target=st.sampled_from(["bfloat16", "float32"]),
    max_elements=st.integers(1, 40),
    widen=st.booleans(),
    crc=st.booleans(),
    chunk_bytes=st.integers(4, 400),
)
def test_converted_as_upstreams_file_is(
    tmp_path: Path,
    make_state: MakeState,
    expected: Callable[..., Any],
    converted: Callable[..., Any],
    same_bits: Callable[..., None],
    layers: int,
    hidden: int,
    ffn: int,
    dtype: torch.dtype,
    norms: torch.dtype | None,
    target: str,
    max_elements: int,
    widen: bool,
    crc: bool,
    chunk_bytes: int,
) -> None:
    """Parameters cut anywhere, also within a row; BFloat16 in two bytes or four."""
    state = make_state(layers, hidden, ffn, 11, dtype, norms)
    path = tmp_path / "x.ckpt"
    parameters = mindspore_parameters(state)
    path.write_bytes(mindspore_bytes(parameters, max_elements=max_elements, widen=widen, crc=crc))
    shutil.rmtree(tmp_path / "out", ignore_errors=True)
    found = converted([path], tmp_path / "out", target, chunk_bytes=chunk_bytes)
    same_bits(found, expected(state, getattr(torch, target)))


def test_what_is_no_weight_is_not_looked_at(
    write: Callable[[bytes], Path], make_state: MakeState
) -> None:
    content = mindspore_bytes(mindspore_parameters(make_state()))
    others = [
        mindspore_value("adam_m." + QUERY, "Float32", (8, 8), bytes(256)),
        mindspore_value("transformer.transformer.layers.0.slice_sparse_mask", "Bool", (9,), b"x"),
        mindspore_value("transformer.transformer.layers.0.key_past", "Float16", (0,), b""),
        mindspore_value("epoch_num", "Int32", (), bytes(4)),
        mindspore_value("optimizer", "str", (3,), b"abc"),
        b"\x0a\x04\x0a\x02ab",  # a value without a tensor
        b"\x0a\x06\x1a\x02ab\x1a\x00",  # one with a MapTensor
        b"\x12\x01z\x18\x05\x21" + bytes(8) + b"\x2d" + bytes(4),  # unknown fields of each type
    ]
    plain = read_model([write(content)])
    with_others = read_model([write(others[0] + content + b"".join(others))])
    assert with_others.shapes() == plain.shapes()
    assert with_others.dimensions == plain.dimensions


def test_packed_dims_and_other_orders_of_fields(write: Callable[[bytes], Path]) -> None:
    tensor = b"\x1a\x0c" + bytes(12) + b"\x12\x07Float32" + b"\x0a\x02\x01\x03"
    path = write(
        b"\x0a" + bytes([len(tensor) + 5]) + b"\x12" + bytes([len(tensor)]) + tensor + b"\x0a\x01w"
    )
    tensor = index_mindspore(path).tensor("w")
    assert (tensor.shape, tensor.dtype) == ((1, 3), "float32")
    assert tensor.pieces[0].offset == 6


def test_contents_are_not_read(write: Callable[[bytes], Path]) -> None:
    """A terabyte of weights, almost all of it a hole in the file."""
    size = 2**40
    path = write(mindspore_header(TABLE, "Float32", (2**30, 2**8), size))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size + size)
    (piece,) = index_mindspore(path).tensor(TABLE).pieces
    assert piece.rows == range(2**30)
    assert piece.offset == path.stat().st_size - size


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop(QUERY), r"lacks: transformer.*layers\.1\.attention\.q_proj\.weight$"),
        (lambda p: p.pop(TABLE), "lacks transformer.embedding"),
        (lambda p: p.update({"transformer.x.weight": torch.ones(2)}), "unknown parameters"),
        (lambda p: p.update({QUERY: torch.ones(8, 9)}), r"\[8, 9\] instead of \[8, 8\]"),
        (lambda p: p.update({TABLE: torch.ones(8)}), "not a matrix"),
    ],
)
def test_parameters_that_are_not_the_models(
    write: Callable[[bytes], Path], make_state: MakeState, change: Callable[..., Any], message: str
) -> None:
    parameters = mindspore_parameters(make_state())
    change(parameters)
    with pytest.raises(IntegrityError, match=message) as caught:
        read_model([write(mindspore_bytes(parameters))])
    assert "MindFormers" in caught.value.hint


@pytest.mark.parametrize(
    ("kind", "dims", "content", "message"),
    [
        ("Float32", (2, 3), bytes(20), r"Float32 \[2, 3\] in 20 bytes"),
        ("Float32", (2, 3), bytes(28), "in 28 bytes"),
        ("Float64", (2, 3), bytes(48), "Float64"),
        ("BFloat16", (2, 3), bytes(18), "in 18 bytes"),
        ("Float32", (2, 0), b"", "in 0 bytes"),
        ("Float32", (2**40, 2**40), bytes(24), "in 24 bytes"),
    ],
)
def test_contents_that_do_not_fit(
    write: Callable[[bytes], Path], kind: str, dims: tuple[int, ...], content: bytes, message: str
) -> None:
    path = write(mindspore_value("w", kind, dims, content))
    with pytest.raises(IntegrityError, match=message):
        index_mindspore(path).tensor("w")


def test_values_of_one_parameter_must_agree(write: Callable[[bytes], Path]) -> None:
    first = mindspore_value("w", "Float32", (2, 3), bytes(12))
    with pytest.raises(IntegrityError, match="two values of w disagree"):
        index_mindspore(write(first + mindspore_value("w", "Float32", (3, 2), bytes(12))))
    odd = [mindspore_value("w", "Float32", (2, 3), bytes(n)) for n in (11, 13)]
    with pytest.raises(IntegrityError, match="cut inside a number"):
        index_mindspore(write(b"".join(odd))).tensor("w")


@pytest.mark.parametrize("cut", [1, 2, 40, -1, -100])
def test_a_file_that_is_cut_off(
    write: Callable[[bytes], Path], make_state: MakeState, cut: int
) -> None:
    content = mindspore_bytes(mindspore_parameters(make_state()))[:cut]
    with pytest.raises(IntegrityError, match="not an intact MindSpore checkpoint") as caught:
        read_model([write(content)])
    assert "download" in caught.value.hint


@pytest.mark.parametrize(
    "content",
    [
        b"\x0a" + b"\xff" * 9 + b"\x01",  # a length of 2**63 and more
        b"\x0a" + b"\xff" * 11,  # a varint without end
        b"\x0a\x05\x0a\x7fabc",  # a name longer than its message
        b"\x0a\x06\x12\x7f" + bytes(4),
        b"\x0a\x02\x07\x00",  # wire type 7
        b"\x0a\x02\x00\x00",  # field 0
        b"\x0a\x03\x08\x01\x08",  # a tag that is a number
        mindspore_value("w", "Float32", (1,) * 9, bytes(4)),
        mindspore_value("w" * 600, "Float32", (1,), bytes(4)),
        mindspore_value("w", "Float32", (2**63,), bytes(4)),
        mindspore_value("w", "F" * 600, (1,), bytes(4)),
    ],
)
def test_hostile_lengths_are_refused(write: Callable[[bytes], Path], content: bytes) -> None:
    with pytest.raises(IntegrityError, match="not an intact"):
        index_mindspore(write(content))


def test_too_many_fields_are_refused(
    write: Callable[[bytes], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mindspore, "MAX_FIELDS", 100)
    with pytest.raises(IntegrityError, match="too many fields"):
        index_mindspore(write(b"\x0a\x00" * 101))
    index_mindspore(write(b"\x0a\x00" * 100))


def test_the_fingerprint_follows_names_and_places(write: Callable[[bytes], Path]) -> None:
    ones = {name: torch.ones(2, 2) for name in "ab"}
    fingerprints = [
        index_mindspore(write(mindspore_bytes(parameters))).fingerprint
        for parameters in (ones, ones, {"a": ones["a"]}, {"a": ones["a"], "c": ones["b"]})
    ]
    assert fingerprints[0] == fingerprints[1]
    assert len(set(fingerprints)) == 3


def test_what_is_taken_for_mindspore(tmp_path: Path, write: Callable[[bytes], Path]) -> None:
    assert is_mindspore(write(mindspore_value("w", "Float32", (1,), bytes(4))))
    assert not is_mindspore(write(b"PK\x03\x04"))
    assert not is_mindspore(write(b""))
    with pytest.raises(EnvironmentNotReady):
        is_mindspore(tmp_path / "missing")


SMALL = mindspore_bytes({"w": torch.ones(2, 3), TABLE: torch.ones(4)}, max_elements=4, crc=True)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, len(SMALL) - 1), st.integers(0, 255)), max_size=8),
    st.integers(1, len(SMALL)),
)
@example([(1, 255)], len(SMALL))
def test_mutated_files_never_escape(
    tmp_path: Path, mutations: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(SMALL)
    for position, byte in mutations:
        data[position] = byte
    path = tmp_path / "x.ckpt"
    path.write_bytes(data[:length])
    try:
        file = index_mindspore(path)
        for tag in file.parameters:
            for piece in file.tensor(tag).pieces:
                nbytes = len(piece.rows) * len(piece.columns) * 2
                assert 0 <= piece.offset <= piece.offset + nbytes <= length
    except KitError as error:
        assert error.hint


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_refused_or_read(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.ckpt"
    path.write_bytes(b"\n" + content)
    try:
        read_model([path])
    except KitError as error:
        assert error.hint
