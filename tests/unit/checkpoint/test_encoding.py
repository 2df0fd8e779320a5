"""Which tensors store one of the model's, byte by byte as compressed-tensors has them."""

import numpy as np
import pytest

from kit.checkpoint.encoding import Cast, Quantised, Stored, choose_encoding, choose_group_size
from kit.errors import UsageError

NAME = "model.layers.0.mlp.down_proj.weight"


def encoded(encoding, values):
    """The bytes of each tensor."""
    widths = encoding.row_bytes(values.shape[1])
    into = [np.empty((len(values), width), np.uint8) for width in widths]
    encoding.encode(values, into)
    return [raw.tobytes() for raw in into]


def test_int8_is_a_weight_and_a_scale():
    encoding = choose_encoding(NAME, (2, 4), "int8", None)
    assert encoding.stored(NAME, (2, 4)) == (
        Stored(NAME, "I8", (2, 4)),
        Stored(f"{NAME}_scale", "BF16", (2, 1)),
    )
    values = np.array([[-128.5, 1, 2, 3], [257, -2, 4, 0]], np.float32)
    q, scales = encoded(encoding, values)
    assert q == bytes([128, 1, 2, 3, 128, 1, 254, 0])
    assert scales == bytes.fromhex("803f00c0")  # 1.0 and -2.0


def test_int4_is_packed_eight_to_an_int32_with_scales_and_shape():
    encoding = choose_encoding(NAME, (1, 64), "int4", 32)
    assert encoding.stored(NAME, (1, 64)) == (
        Stored(f"{NAME}_packed", "I32", (1, 8)),
        Stored(f"{NAME}_scale", "BF16", (1, 2)),
        Stored(f"{NAME}_shape", "I64", (2,), bytes([1, *[0] * 7, 64, *[0] * 7])),
    )
    values = np.zeros((1, 64), np.float32)
    values[0, :8] = [-8.5, 1, 2, 3, 4, 5, 6, 7]
    values[0, 32] = 17
    packed, scales = encoded(encoding, values)
    words = np.frombuffer(packed, "<u4").tolist()
    assert words == [0xFEDCBA90, *[0x88888888] * 3, 0x88888880, *[0x88888888] * 3]
    assert scales == bytes.fromhex("803f00c0")


def test_only_the_matrices_of_linear_layers_are_quantised():
    for name in ("model.embed_tokens.weight", "model.norm.weight", f"{NAME[:-6]}bias"):
        for dtype in ("int8", "int4"):
            assert choose_encoding(name, (64, 64), dtype, 32) == Cast("bfloat16")
    assert choose_encoding(NAME, (64, 64), "float32", None) == Cast("float32")
    assert choose_encoding(NAME, (64, 96), "int4", 32) == Quantised(4, 96, 32)


def test_a_part_of_a_row_is_refused():
    with pytest.raises(ValueError, match="quantised whole"):
        encoded(Quantised(8, 8, 8), np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    ("widths", "size"), [((5120, 14336), 128), ((192, 512), 64), ((96, 128), 32)]
)
def test_the_largest_group_that_divides_all_widths(widths, size):
    assert choose_group_size(widths) == size


def test_no_group_fits():
    with pytest.raises(UsageError, match=r"\[48, 64\]") as caught:
        choose_group_size([64, 48, 64])
    assert "int8" in caught.value.hint
