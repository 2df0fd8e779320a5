"""The bundled demo in a checkout of its own, so that its files can be damaged."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from kit_process import REPOSITORY, Kit

from kit.weights.layers import lock_files, update_weights

pytestmark = pytest.mark.e2e

GOLDEN = REPOSITORY / "tests/golden/data/a"


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The kit with a small checkpoint in the demo's place."""
    folder = tmp_path / "checkout"
    shutil.copytree(REPOSITORY / "kit", folder / "kit", ignore=shutil.ignore_patterns("*.pyc"))
    shutil.copy(REPOSITORY / "kit.lock", folder)
    demo = folder / "demo"
    shutil.copytree(GOLDEN / "ckpt", demo)
    shutil.copy(GOLDEN / "config.json", demo)
    shutil.copy(GOLDEN / "tokenizer/tokenizer.model", demo)
    files = lock_files(demo, sorted(path.name for path in demo.iterdir()))
    update_weights(folder / "kit.lock", "demo", files)
    return folder


@pytest.fixture
def demo_kit(kit: Kit, checkout: Path) -> Kit:
    environ = {k: v for k, v in kit.environ.items() if k != "KIT_MODEL"}
    return replace(kit, environ=environ | {"PYTHONPATH": str(checkout)})


def test_demo_is_the_default_without_a_gpu_and_says_so(demo_kit: Kit) -> None:
    done = demo_kit.up()
    assert done.returncode == 0, done.stderr
    assert "You said: What is spark-kit?" in done.stdout
    assert "This is the built-in demo" in done.stdout
    assert "kit weights fetch spark-13b-chat --convert" in done.stdout
    assert "kit weights convert PATH_TO/mp_rank_00_model_states.pt" in done.stdout
    assert "non-commercial" in done.stdout
    lines = [line for line in done.stdout.splitlines() if not line.startswith("  receipt ")]
    assert max(map(len, lines)) <= 80
    assert "converting the demo" in done.stderr
    (converted,) = (demo_kit.home / "data/spark-kit").glob("demo-*-bf16")
    assert (converted / "model.safetensors").stat().st_size > 100_000


def test_second_time_it_is_not_converted_again(demo_kit: Kit) -> None:
    demo_kit.up()
    done = demo_kit.up("--json")
    assert json.loads(done.stdout)["demo"] is True
    assert "converting" not in done.stderr


def test_damaged_demo_is_refused(demo_kit: Kit, checkout: Path) -> None:
    path = checkout / "demo/mp_rank_00_model_states.pt"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    done = demo_kit.up()
    assert done.returncode == 4
    assert "mp_rank_00_model_states.pt has sha256" in done.stderr
    assert "hint: " in done.stderr
    assert not (demo_kit.home / "data/spark-kit").exists()


@pytest.mark.parametrize("damage", ["one bit", "header", "configuration", "tokenizer"])
def test_damage_that_keeps_the_size_is_mended_and_said(demo_kit: Kit, damage: str) -> None:
    demo_kit.up()
    demo_kit("down")
    (folder,) = (demo_kit.home / "data/spark-kit").glob("demo-*-bf16")
    files = {"configuration": "config.json", "tokenizer": "tokenizer.model"}
    path = folder / files.get(damage, "model.safetensors")
    sound = path.read_bytes()
    place = 12 if damage == "header" else len(sound) // 2
    broken = sound[:place] + bytes([sound[place] ^ 1]) + sound[place + 1 :]
    path.write_bytes(b"{" if damage == "configuration" else broken)
    done = demo_kit.up()
    assert done.returncode == 0, done.stderr
    assert "the converted demo is damaged; converting it again\n" in done.stderr
    assert path.read_bytes() == sound


def test_damaged_conversion_is_made_again(demo_kit: Kit) -> None:
    demo_kit.up()
    demo_kit("down")
    (weights,) = (demo_kit.home / "data/spark-kit").glob("demo-*-bf16/model.safetensors")
    weights.write_bytes(weights.read_bytes()[:1000])
    done = demo_kit.up()
    assert done.returncode == 0, done.stderr
    assert weights.stat().st_size > 100_000
    demo_kit("down")
    weights.with_name("conversion.json").write_text("{")
    done = demo_kit.up()
    assert done.returncode == 0, done.stderr
