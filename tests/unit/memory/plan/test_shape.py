import json

import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.memory.plan.shape import read_header, read_shape
from kit.units import MIB

CONFIG = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 500,
    "max_position_embeddings": 1024,
    "sliding_window": 256,
}


def safetensors(tensors):
    """A file's bytes, from (dtype, size) by name; the format's own description is the source."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, size) in tensors.items():
        offsets = [end, end + size]
        header[name] = {"dtype": dtype, "shape": [size], "data_offsets": offsets}
        end += size
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + bytes(end)


@pytest.fixture
def model_dir(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    first = {"a": ("BF16", 600), "b": ("F32", 40)}
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(safetensors(first))
    (tmp_path / "model-00002-of-00002.safetensors").write_bytes(safetensors({"c": ("BF16", 360)}))
    return tmp_path


def test_reads_all_files(model_dir):
    shape = read_shape(model_dir)
    assert (shape.layers, shape.hidden, shape.intermediate) == (3, 64, 128)
    assert (shape.vocabulary, shape.max_context, shape.window) == (500, 1024, 256)
    assert shape.weights_bytes == 1000
    assert shape.dtype_bytes == 2


def test_no_window(model_dir):
    config = {**CONFIG, "sliding_window": None}
    (model_dir / "config.json").write_text(json.dumps(config))
    assert read_shape(model_dir).window is None


def test_tensors_of_a_file(model_dir):
    tensors = read_header(model_dir / "model-00001-of-00002.safetensors")
    assert [(t.name, t.dtype, t.size_bytes) for t in tensors] == [
        ("a", "BF16", 600),
        ("b", "F32", 40),
    ]


def test_the_type_of_numbers_is_that_of_the_floats(model_dir):
    tensors = {"a": ("BF16", 60), "x.weight": ("I8", 5000), "x.weight_scale": ("BF16", 6)}
    (model_dir / "model-00002-of-00002.safetensors").write_bytes(safetensors(tensors))
    shape = read_shape(model_dir)
    assert shape.dtype_bytes == 2
    assert (shape.weights_bytes, shape.packed_bytes) == (640 + 5066, 0)


def test_packed_weights_and_their_scales(model_dir):
    packed = {"x.weight_packed": ("I32", 400), "x.weight_scale": ("BF16", 30)}
    others = {"x.bias": ("BF16", 8), "x.weight_shape": ("I64", 16), "y.weight_scale": ("BF16", 2)}
    path = model_dir / "model-00002-of-00002.safetensors"
    path.write_bytes(safetensors(packed | others))
    shape = read_shape(model_dir)
    assert (shape.weights_bytes, shape.packed_bytes, shape.packed_scales_bytes) == (1096, 400, 30)


@pytest.mark.parametrize(
    ("tensors", "precision"),
    [
        ({}, "bf16"),
        ({"big": ("F32", 5000)}, "fp32"),
        ({"x.weight": ("I8", 500)}, "int8"),
        ({"x.weight_packed": ("I32", 400), "x.weight_scale": ("BF16", 30)}, "int4"),
    ],
)
def test_precision(model_dir, tensors, precision):
    path = model_dir / "model-00002-of-00002.safetensors"
    path.write_bytes(safetensors(tensors))
    assert read_shape(model_dir).precision == precision


def test_files_and_rounding(model_dir):
    shape = read_shape(model_dir)
    assert shape.largest_file_bytes == 640
    assert shape.integer_bytes == 0
    assert shape.rounding_bytes == 2 * MIB - 1000  # they share the smallest segment


def test_heads(model_dir):
    assert (read_shape(model_dir).heads, read_shape(model_dir).attention_heads) == (0, 1)
    config = {**CONFIG, "num_attention_heads": 4}
    (model_dir / "config.json").write_text(json.dumps(config))
    assert read_shape(model_dir).attention_heads == 4


@pytest.mark.parametrize("keep", [0, 5, 60, -1])
def test_cut_short(model_dir, keep):
    path = model_dir / "model-00002-of-00002.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(IntegrityError, match="model-00002"):
        read_shape(model_dir)


@pytest.mark.parametrize("header", [b"{", b"[]", b'{"a": 1}', b'{"a": {"dtype": "F32"}}'])
def test_broken_header(model_dir, header):
    path = model_dir / "model-00002-of-00002.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(IntegrityError, match="header"):
        read_shape(model_dir)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"num_hidden_layers": "many"}'])
def test_broken_config(model_dir, text):
    (model_dir / "config.json").write_text(text)
    with pytest.raises(IntegrityError, match=r"config\.json"):
        read_shape(model_dir)


def test_missing_files(model_dir):
    (model_dir / "config.json").unlink()
    with pytest.raises(EnvironmentNotReady):
        read_shape(model_dir)


def test_no_weights(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    with pytest.raises(EnvironmentNotReady, match="no safetensors"):
        read_shape(tmp_path)
