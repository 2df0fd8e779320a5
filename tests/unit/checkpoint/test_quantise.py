"""Rounding to 8 and 4 bits: the numbers themselves, and how far they are from the weights."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kit.checkpoint.encoding import BFLOAT16, quantise_into


def quantised(values, bits, groups=1):
    """q int8 ``[rows, columns]`` and scales fp32 ``[rows, groups]``, 4 bits unpacked here."""
    rows, columns = values.shape
    scales = np.empty((rows, groups), BFLOAT16)
    raw = np.empty((rows, columns), np.int8) if bits == 8 else np.empty((rows, columns // 2), "u1")
    quantise_into(raw, scales, values)
    if bits == 4:
        raw = np.stack((raw & 15, raw >> 4), -1).reshape(rows, columns).astype(np.int8) - 8
    return raw, scales.astype(np.float32)


def test_8_bits_literally():
    values = np.array([[-128.5, 127.4, 0.5, -1.5], [257, -100, 3, 0]], np.float32)
    q, scales = quantised(values, 8)
    assert scales.tolist() == [[1], [-2]]
    assert q.tolist() == [[-128, 127, 0, -2], [-128, 50, -2, 0]]


def test_4_bits_literally():
    scales = np.empty((1, 2), BFLOAT16)
    packed = np.empty((1, 4), np.uint8)
    quantise_into(packed, scales, np.array([[8.5, -4, 1, 0, -17, 14, 16, 2]], np.float32))
    assert scales.tolist() == [[-1, 2]]
    assert packed.tolist() == [[0 | 12 << 4, 7 | 8 << 4, 0 | 15 << 4, 15 | 9 << 4]]


@pytest.mark.parametrize("bits", [8, 4])
def test_a_group_of_zeros(bits):
    q, scales = quantised(np.zeros((2, 4), np.float32), bits)
    assert not q.any()
    assert scales.tolist() == [[1], [1]]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_shows_in_the_scale_of_its_group(bits, value):
    values = np.ones((1, 8), np.float32)
    values[0, 5] = value
    _, scales = quantised(values, bits, groups=2)
    assert np.isfinite(scales).tolist() == [[True, False]]


@given(st.integers(0, 2**32), st.sampled_from([8, 4]), st.sampled_from(["f4", "f2", "bf16"]))
def test_half_a_step_for_most_and_one_and_a_half_on_the_shorter_side(seed, bits, dtype):
    random = np.random.default_rng(seed)
    values = (random.standard_normal((3, 64)) * 10.0 ** random.integers(-3, 3)).astype(
        ml_dtypes.bfloat16 if dtype == "bf16" else dtype
    )
    q, scales = quantised(values, bits, groups=2)
    exact = values.astype(np.float64).reshape(3, 2, 32)
    in_steps = exact / scales[:, :, None]
    errors = np.abs(q.reshape(3, 2, 32) - in_steps)
    edge = 2 ** (bits - 1)
    slack = (edge + 0.5) / 256  # the scale itself is rounded to bfloat16
    clipped = in_steps > edge - 0.5
    assert (errors[~clipped] <= 0.5 + slack).all()
    assert (errors[clipped] <= 1.5 + slack).all()


def test_rows_do_not_depend_on_each_other():
    values = np.random.default_rng(0).standard_normal((5000, 128)).astype(np.float32)
    q, scales = quantised(values, 4, groups=2)
    for row in (0, 1023, 1024, 4999):
        alone, its_scales = quantised(values[row : row + 1], 4, groups=2)
        assert (alone == q[row]).all()
        assert (its_scales == scales[row]).all()


def test_a_fifth_less_error_than_the_usual_scale():
    values = np.random.default_rng(0).standard_normal((2000, 128)).astype(np.float32)
    q, scales = quantised(values, 4)
    usual = np.abs(values).max(1, keepdims=True) / 7.5
    theirs = np.clip(np.rint(values / usual), -8, 7) * usual
    assert ((q * scales - values) ** 2).mean() < 0.85 * ((theirs - values) ** 2).mean()
