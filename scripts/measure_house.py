"""How Python code is built: files, functions, comments, imports and tests, in one table.

    python -m scripts.measure_house                     # this checkout's kit/
    python -m scripts.measure_house kit ../httpx/httpx ../nox/nox

Of the code: files, lines, median and longest file, median function and how many are over 60 lines,
lines that are comments, lines of imports, modules that one other module imports, module names that
occur more than once, ``getattr`` calls and ``except`` that catch everything. Beside it the lines of
tests by those of code, where a folder ``tests`` lies next to the package.
"""

import argparse
import ast
import io
import statistics
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

LONG_FUNCTION = 60
"""Lines. About what a screen shows."""


@dataclass(frozen=True)
class Module:
    """One file, read."""

    name: str
    text: str
    tree: ast.Module

    @property
    def lines(self) -> int:
        """Of the file."""
        return self.text.count("\n")

    def functions(self) -> Iterator[int]:
        """The length of each, in lines."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                yield (node.end_lineno or node.lineno) - node.lineno + 1

    def import_lines(self) -> int:
        """Lines that import, inside functions too."""
        return sum(
            (node.end_lineno or node.lineno) - node.lineno + 1
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Import | ast.ImportFrom)
        )

    def comment_lines(self) -> int:
        """Lines that are nothing but a comment."""
        tokens = tokenize.generate_tokens(io.StringIO(self.text).readline)
        return sum(
            token.type == tokenize.COMMENT and token.line.lstrip().startswith("#")
            for token in tokens
        )

    def imported(self) -> Iterator[str]:
        """Names that may be modules: ``a.b`` for both ``import a.b`` and ``from a import b``."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                yield node.module
                yield from (f"{node.module}.{alias.name}" for alias in node.names)

    def getattrs(self) -> int:
        """Calls of ``getattr``."""
        return sum(
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id == "getattr"
            for node in ast.walk(self.tree)
        )

    def catch_alls(self) -> int:
        """``except`` of everything, or nearly."""
        return sum(
            isinstance(node, ast.ExceptHandler)
            and (
                node.type is None
                or (
                    isinstance(node.type, ast.Name)
                    and node.type.id in {"Exception", "BaseException"}
                )
            )
            for node in ast.walk(self.tree)
        )


def read(package: Path) -> list[Module]:
    """The modules of a package; what does not parse is left out."""
    modules = []
    for path in sorted(package.rglob("*.py")):
        text = path.read_text(encoding="utf-8", errors="replace")
        name = ".".join(path.relative_to(package.parent).with_suffix("").parts)
        try:
            modules.append(Module(name.removesuffix(".__init__"), text, ast.parse(text)))
        except SyntaxError:
            continue
    return modules


def figures(package: Path) -> dict[str, str]:
    """The table's cells, by their column."""
    modules = read(package)
    if not modules:
        raise SystemExit(f"no Python in {package}")
    lines = [module.lines for module in modules]
    functions = [length for module in modules for length in module.functions()] or [0]
    importers = Counter(
        name for module in modules for name in set(module.imported()) if name != module.name
    )
    leaves = Counter(module.name.rpartition(".")[2] for module in modules)
    tests = package.parent / "tests"
    tested = sum(module.lines for module in read(tests)) if tests.is_dir() else 0
    total = sum(lines)
    return {
        "package": package.resolve().name,
        "files": str(len(modules)),
        "lines": str(total),
        "median / max file": f"{statistics.median(lines):.0f} / {max(lines)}",
        "functions: median, over 60": f"{statistics.median(functions):.0f}, "
        f"{sum(length > LONG_FUNCTION for length in functions)}",
        "comment lines": f"{sum(module.comment_lines() for module in modules) / total:.1%}",
        "imports": f"{sum(module.import_lines() for module in modules) / total:.1%}",
        "one importer": str(sum(importers[module.name] == 1 for module in modules)),
        "names twice": str(sum(count > 1 for count in leaves.values())),
        "tests : code": f"{tested / total:.2f}",
        "getattr / except all": f"{sum(module.getattrs() for module in modules)} / "
        f"{sum(module.catch_alls() for module in modules)}",
    }


def main() -> None:
    """Print a Markdown table, a row for each package."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("packages", nargs="*", type=Path, default=[Path("kit")])
    rows = [figures(package) for package in parser.parse_args().packages]
    print("|", " | ".join(rows[0]), "|")
    print("|" + "---|" * len(rows[0]))
    for row in rows:
        print("|", " | ".join(row.values()), "|")


if __name__ == "__main__":
    main()
