"""Greedy tokens of both engines against upstream's own, which golden folders record.

Prints one Markdown table per folder and precision, and ends with 1 where a decided token differs.
A token is decided where upstream's lead over the second-best one is more than rounding:

    kit upstream fetch && kit upstream render
    python scripts/compare_engines.py FOLDER...

A golden folder holds checkpoint, tokenizer, configuration and recordings; tests/golden/data/a is
one.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from golden_runs import Case, Precision, greedy_tokens, read_cases

from kit.errors import KitError
from kit.serve.engine import Engine
from kit.serve.megatron.engine import MegatronEngine
from kit.serve.megatron.folder import DType, read_folder
from kit.serve.native.engine import NativeEngine
from kit.settings import Settings
from kit.upstream.tree import require_rewritten
from kit.weights.convert.convert import convert_checkpoint

DTYPES: dict[Precision, DType] = {"fp32": "float32", "bf16": "bfloat16"}
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "data" / "a"


@contextmanager
def loaded(engine: Engine) -> Iterator[Engine]:
    """The engine, ready, and closed in the end."""
    engine.load(lambda phase, fraction: None)
    try:
        yield engine
    finally:
        engine.close()


def native(golden: Path, folder: Path, precision: Precision) -> Engine:
    """The native engine, on the converted checkpoint."""
    convert_checkpoint(
        golden / "ckpt",
        folder / "converted",
        precision=precision,
        tokenizer=golden / "tokenizer",
        config=golden / "config.json",
    )
    return NativeEngine(folder / "converted", device="cpu", context=1024)


def megatron(golden: Path, folder: Path, precision: Precision, shards: str, tree: Path) -> Engine:
    """The megatron engine, on the checkpoint itself or on its tensor-parallel shards."""
    place = Path(shutil.copytree(golden / shards, folder / shards))
    shutil.copy(golden / "config.json", place)
    checkpoint = read_folder(place, golden / "tokenizer")
    return MegatronEngine(checkpoint, tree, device="cpu", dtype=DTYPES[precision], context=1024)


def engines(
    golden: Path, folder: Path, precision: Precision, tree: Path
) -> Iterator[tuple[str, Engine]]:
    """Every engine that the golden folder has files for, by name."""
    yield "native", native(golden, folder, precision)
    yield "megatron", megatron(golden, folder, precision, "ckpt", tree)
    if (golden / "ckpt_tp2").is_dir() and precision == "fp32":
        yield "megatron, 2 ranks", megatron(golden, folder, precision, "ckpt_tp2", tree)


def first_difference(case: Case, tokens: Sequence[int]) -> int | None:
    """Index of the first token that is not upstream's; None: all are."""
    if list(tokens) == case.tokens:
        return None
    pairs = zip(case.tokens, tokens, strict=False)
    return next((i for i, (one, other) in enumerate(pairs) if one != other), len(tokens))


def compare(golden: Path, precision: Precision, tree: Path, each: bool) -> bool:
    """Print the table of a folder in one precision; whether every engine agrees with upstream."""
    cases = read_cases(golden, precision)
    if not cases:
        return True
    found: dict[str, list[int | None]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, engine in engines(golden, Path(folder), precision, tree):
            with loaded(engine):
                found[name] = [first_difference(c, greedy_tokens(engine, c)) for c in cases]
    print(f"\n{golden.name}, {precision}:\n")
    print(f"| upstream's run | rows | tokens, decided / all | {' | '.join(found)} |")
    print("|---|---|---" + "|---" * len(found) + "|")
    for name, rows in groups(cases, each).items():
        columns = [[column[row] for row in rows] for column in found.values()]
        print_row(name, [cases[row] for row in rows], columns)
    print_row("**all**", cases, list(found.values()))
    return all(difference is None for column in found.values() for difference in column)


def groups(cases: Sequence[Case], each: bool) -> dict[str, list[int]]:
    """The cases' numbers by kind, or every one by itself."""
    grouped: dict[str, list[int]] = {}
    for number, case in enumerate(cases):
        name = f"{number + 1}. {case.kind}: {case.name}" if each else case.kind
        grouped.setdefault(name, []).append(number)
    return grouped


def print_row(name: str, cases: Sequence[Case], columns: Sequence[Sequence[int | None]]) -> None:
    """How many of the cases are equal in every column, and where the first difference is."""
    cells = []
    for column in columns:
        differences = [difference for difference in column if difference is not None]
        equal = f"{len(column) - len(differences)} equal"
        cells.append(equal + (f", differs at token {min(differences) + 1}" if differences else ""))
    decided, recorded = sum(len(c.tokens) for c in cases), sum(c.recorded for c in cases)
    print(f"| {name} | {len(cases)} | {decided} / {recorded} | {' | '.join(cells)} |")


def main() -> None:
    """Compare in all folders and precisions."""
    parser = argparse.ArgumentParser(description="Golden tokens from both engines, in one table.")
    parser.add_argument("folders", type=Path, nargs="*", default=[GOLDEN])
    parser.add_argument("--each", action="store_true", help="a line for every recorded row")
    options = parser.parse_args()
    tree = require_rewritten(Settings.from_environ())
    precisions: tuple[Precision, ...] = ("fp32", "bf16")
    agree = [
        compare(folder, precision, tree, options.each)
        for folder in options.folders
        for precision in precisions
    ]
    sys.exit(0 if all(agree) else 1)


if __name__ == "__main__":
    try:
        main()
    except KitError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")
