import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from kit.checkpoint.gather import Block, blocks, wanted


def test_whole_rows_when_they_fit() -> None:
    assert list(blocks(5, 3, 7)) == [Block(0, 2, 0, 3), Block(2, 4, 0, 3), Block(4, 5, 0, 3)]


def test_pieces_of_a_row_when_it_does_not() -> None:
    assert list(blocks(2, 5, 3)) == [
        *(Block(0, 1, 0, 3), Block(0, 1, 3, 5), Block(1, 2, 0, 3), Block(1, 2, 3, 5))
    ]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 100))
def test_blocks_cover_a_matrix_once_in_order(rows: int, width: int, limit: int) -> None:
    matrix = np.arange(rows * width).reshape(rows, width)
    seen: list[int] = []
    for block in blocks(rows, width, limit):
        assert block.size <= limit
        cut = matrix[block.first_row : block.last_row, block.first_column : block.last_column]
        seen += cut.reshape(-1).tolist()
    assert seen == matrix.reshape(-1).tolist()


@given(
    st.integers(0, 20), st.integers(0, 20), st.integers(1, 3), st.integers(0, 25), st.integers(0, 9)
)
def test_wanted_is_the_intersection(start: int, stop: int, step: int, first: int, n: int) -> None:
    rows = range(start, stop, step)
    found, position = wanted(rows, first, first + n)
    inside = [row for row in rows if first <= row < first + n]
    assert [first + row for row in found] == inside
    if inside:
        assert list(rows)[position] == inside[0]
