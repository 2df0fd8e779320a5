"""docs/memory.md shows what the commands print; its table of cards: test_cards.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from kit.units import GIB

PAGE = (Path(__file__).parents[3] / "docs/memory.md").read_text(encoding="utf-8")
SHOWN = dict(re.findall(r"```console\n\$ kit (memory plan .*)\n((?:.*\n)*?)```", PAGE))
UPSTREAM = re.findall(r"^\| (\S+) " + r"\| (\d+\.\d) " * 4 + r"\|$", PAGE, re.MULTILINE)


def kit(*words: str) -> str:
    """What the command prints on a machine whose driver and weights are not looked at."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("KIT_")}
    done = subprocess.run(
        [sys.executable, "-m", "kit", *words],
        env={**kept, "COLUMNS": "80", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.mark.parametrize("command", SHOWN)
def test_examples(command):
    words = [*command.split(), *(["--device", "cuda"] if "--device" not in command else [])]
    printed = [line.rstrip() for line in kit(*words).splitlines()]
    parts = SHOWN[command].split("…\n")
    assert parts[0].splitlines() == printed[: parts[0].count("\n")]
    for part in parts[1:]:
        assert part.splitlines() == printed[len(printed) - part.count("\n") :]


def test_upstreams_code():
    assert [row[0] for row in UPSTREAM] == ["native", "megatron", "cpu-first", "stock"]
    for engine, *figures in UPSTREAM:
        options = ["--engine", engine, "--max-sequences", "1", "--device", "cuda", "--json"]
        of = [
            json.loads(kit("memory", "plan", *options, "--context", n)) for n in ("4096", "32768")
        ]
        short, full = (each["phase_bytes"] for each in of)
        sizes = (
            short["device"]["load"],
            short["device"]["serve"],
            full["device"]["serve"],
            short["host"]["load"],
        )
        assert [f"{size / GIB:.1f}" for size in sizes] == figures, engine
