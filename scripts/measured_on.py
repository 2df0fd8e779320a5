"""The sentence "Measured on a GPU" of both READMEs, made from the receipts in docs/receipts/.

    python scripts/measured_on.py           # writes it into both
    python scripts/measured_on.py --check   # exit code 1 if they say something else

Receipts of a pretended GPU, which say ``simulated``, and of stages that failed count for nothing.
"""

import argparse
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).parents[1]
RECEIPTS = REPOSITORY / "docs" / "receipts"
_MARKED = re.compile(r"(<!-- measured on -->\n).*?(<!-- /measured on -->)", re.DOTALL)
_COMMAND = "`python scripts/bench_gpu.py FOLDER`"
_NOTHING = {
    "README.md": f"- **Measured on a GPU: nothing yet.** {_COMMAND} does it in ten minutes.",
    "README.zh-CN.md": f"- **尚无任何 GPU 实测。** {_COMMAND} 十分钟内完成。",
}
_MACHINE = "{gpu}, driver {driver}, torch {torch}, {date}"
_HEADS = {
    "README.md": f"- **Measured on a GPU** ({_MACHINE}): {{found}}.",
    "README.zh-CN.md": f"- **GPU 实测** ({_MACHINE}): {{found}}。",
}


def read_receipts(folder: Path) -> list[dict[str, Any]]:
    """Those of ``scripts/bench_gpu.py`` that were measured on a real GPU and passed."""
    found = [json.loads(path.read_bytes()) for path in sorted(folder.glob("gpu-*.json"))]
    return [
        receipt
        for receipt in found
        if receipt.get("kind") == "gpu-bench"
        and receipt["passed"]
        and not receipt["machine"]["simulated"]
    ]


def sentence(receipts: Sequence[dict[str, Any]], page: str) -> str:
    """What ``page`` says of them."""
    if not receipts:
        return _NOTHING[page]
    latest = max(receipts, key=lambda receipt: receipt["time"])
    machine = latest["machine"]
    same = [each for each in receipts if each["machine"]["gpu"] == machine["gpu"]]
    return _HEADS[page].format(
        gpu=machine["gpu"],
        driver=machine["driver"],
        torch=machine["torch"],
        date=latest["time"][:10],
        found="; ".join(each for each in map(_figures, same) if each),
    )


def _figures(receipt: dict[str, Any]) -> str:
    """In units that both languages have."""
    figures = receipt["figures"]
    if "decode" not in figures:
        return ""
    peak, planned = (figures["memory"][name] / 2**30 for name in ("peak_bytes", "planned_bytes"))
    rate, share = figures["decode"]["tokens_per_second"], figures["decode"]["of_bandwidth"]
    load = figures["load"]["bytes_per_second"]["cold"] / 1e9
    return (
        f"{receipt['stage']} {peak:.1f} GiB (plan {planned:.1f}), {rate:.0f} tok/s ({share:.2f} "
        f"bandwidth), load {load:.1f} GB/s"
    )


def rewritten(text: str, said: str) -> str:
    """The page with its marked part saying ``said``."""
    return _MARKED.sub(lambda match: f"{match[1]}{said}\n{match[2]}", text)


def main() -> None:
    """Write or check both pages."""
    parser = argparse.ArgumentParser(description="Say in the READMEs what was measured on a GPU.")
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    receipts = read_receipts(RECEIPTS)
    for page in _NOTHING:
        path = REPOSITORY / page
        text = path.read_text(encoding="utf-8")
        right = rewritten(text, sentence(receipts, page))
        if check and right != text:
            raise SystemExit(f"{page} does not say what docs/receipts show")
        path.write_text(right, encoding="utf-8")


if __name__ == "__main__":
    main()
