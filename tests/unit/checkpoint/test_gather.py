import itertools
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint.gather import FileReader, Gatherer
from kit.checkpoint.layout import Piece, Tensor
from kit.errors import IntegrityError


def cut(length: int, cuts: list[int]) -> list[range]:
    edges = sorted({0, length, *(edge for edge in cuts if edge < length)})
    return [range(first, last) for first, last in itertools.pairwise(edges)]


def write(path: Path, values: np.ndarray, rectangles: list[tuple[range, range]]) -> list[Piece]:
    """Write rectangles of a matrix one after the other; where they are."""
    pieces, content = [], b"\xff" * 3
    for rows, columns in rectangles:
        pieces.append(Piece(path, len(content), rows, columns))
        content += values[np.ix_(rows, columns)].tobytes() + b"\xff" * 5
    path.write_bytes(content)
    return pieces


def gather(tensor: Tensor, chunk_bytes: int) -> np.ndarray:
    with FileReader(chunk_bytes) as reader:
        blocks = Gatherer(reader.read, chunk_bytes).blocks(tensor, 4)
        return np.concatenate([values.reshape(-1).copy() for _, values in blocks])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    rows=st.integers(1, 12),
    columns=st.integers(1, 12),
    row_cuts=st.lists(st.integers(1, 12), max_size=3),
    column_cuts=st.lists(st.integers(1, 12), max_size=3),
    step=st.integers(1, 3),
    order=st.randoms(use_true_random=False),
    chunk_bytes=st.integers(4, 300),
)
def test_any_rectangles_in_any_order_make_the_tensor(
    tmp_path: Path, rows, columns, row_cuts, column_cuts, step, order, chunk_bytes
) -> None:
    values = np.arange(rows * columns, dtype="<f4").reshape(rows, columns)
    rectangles = [
        (range(part.start + first, part.stop, step), across)
        for part in cut(rows, row_cuts)
        for first in range(min(step, len(part)))
        for across in cut(columns, column_cuts)
    ]
    order.shuffle(rectangles)
    pieces = write(tmp_path / "x", values, rectangles)
    tensor = Tensor("t", "float32", (rows, columns), tuple(pieces))
    assert np.array_equal(gather(tensor, chunk_bytes), values.reshape(-1))


@pytest.mark.parametrize("chunk_bytes", [4, 8, 1000])
def test_copies_must_be_equal_byte_for_byte(tmp_path: Path, chunk_bytes: int) -> None:
    values = np.array([[1.0], [2.0], [0.0]], "<f4")
    everything = [(range(3), range(1))]
    pieces = [write(tmp_path / f"rank{rank}", values, everything)[0] for rank in range(3)]
    tensor = Tensor("norm", "float32", (3,), (pieces[0],), tuple(pieces[1:]))
    assert gather(tensor, chunk_bytes).tolist() == [1.0, 2.0, 0.0]
    write(tmp_path / "rank2", np.array([[1.0], [2.0], [-0.0]], "<f4"), everything)
    with pytest.raises(IntegrityError, match=r"norm must be the same .* and rank2"):
        gather(tensor, chunk_bytes)


def test_a_file_that_is_too_short(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(bytes(8))
    piece = Piece(tmp_path / "x", 4, range(2), range(1))
    with pytest.raises(IntegrityError, match="shorter"):
        gather(Tensor("t", "float32", (2,), (piece,)), 100)
