from pathlib import Path

from kit.memory.plan.fit import CARDS, card_options, markdown_table, record
from kit.weights.catalogue import read_catalogue
from kit.weights.planned import published

PAGE = Path(__file__).parents[4] / "docs" / "memory.md"
SMALL = ("RTX 3060, 4070", "RTX 4080, 5080")
ROWS = card_options(published(read_catalogue()))


def test_the_page_has_the_table_that_the_code_makes():
    """``kit memory cards --markdown`` prints it."""
    assert markdown_table(ROWS) in PAGE.read_text(encoding="utf-8")


def test_more_memory_never_serves_less():
    by_size = sorted(ROWS, key=lambda row: row.card.usable_bytes)
    for precision in ("bf16", "int8", "int4"):
        plans = [row.best[precision].plan for row in by_size if precision in row.best]
        figures = [(plan.context, plan.max_sequences) for plan in plans]
        assert figures == sorted(figures)


def test_every_card_of_24_gb_serves_the_13b_with_its_whole_context():
    by_name = {row.card.name: row.best for row in ROWS}
    large = [best for name, best in by_name.items() if name not in SMALL]
    assert all(best["int8"].plan.context == 32768 for best in large)
    assert [by_name[name]["int4"].plan.context for name in SMALL] == [4096, 32768]
    assert [row.card for row in ROWS] == list(CARDS)


def test_record():
    row = record(ROWS[len(SMALL)])
    assert row["best"].keys() == {"int8", "int4"}  # bf16 weights are larger than an A10
    assert row["best"]["int8"]["peak_bytes"] <= row["usable_bytes"]
