import json
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.verify import prove_conversion


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_a_conversion_is_proven(source: Path, tmp_path: Path, precision: str) -> None:
    record = convert_checkpoint(source, tmp_path / "out", precision=precision)  # type: ignore[arg-type]
    calls: list[tuple[int, int]] = []
    found = prove_conversion(source, tmp_path / "out", lambda *call: calls.append(call))
    assert found == len(record.tensors)
    size = record.sources[0].size_bytes
    assert calls[-1] == (size, size)


def test_what_cannot_be_proven(source: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="holds no conversion"):
        prove_conversion(source, tmp_path)
    convert_checkpoint(source, tmp_path / "out", precision="int8")
    with pytest.raises(UsageError, match="--verify compares bf16 and fp32"):
        prove_conversion(source, tmp_path / "out")


def kit(*arguments: object) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "kit", "weights", "convert", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_on_the_command_line(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = kit(source, out, "--verify", "--json")
    assert done.returncode == 0, done.stderr
    record = json.loads(done.stdout)
    assert record["proven_tensors"] == len(record["tensors"])
    again = kit(source, out, "--verify")
    assert f"proven: all {len(record['tensors'])} tensors equal" in again.stderr
    assert kit(source, out, "--json", "--overwrite").stdout.count('"proven_tensors": null') == 1
    tensors = load_file(out / "model.safetensors")
    tensors["model.norm.bias"][0] += 1
    save_file(tensors, out / "model.safetensors")
    sizes = json.loads((out / "conversion.json").read_text())
    sizes["files"]["model.safetensors"] = (out / "model.safetensors").stat().st_size
    (out / "conversion.json").write_text(json.dumps(sizes))
    differs = kit(source, out, "--verify")
    assert differs.returncode == 4
    assert "model.norm.bias differs from its source at row 0, column 0" in differs.stderr
    with pytest.raises(IntegrityError):
        prove_conversion(source, out)


@pytest.mark.parametrize("options", [("--precision", "int4"), ("--lora", "somewhere")])
def test_refused_before_anything_is_converted(
    source: Path, tmp_path: Path, options: tuple[str, ...]
) -> None:
    refused = kit(source, tmp_path / "out", "--verify", *options)
    assert refused.returncode == 2
    assert "--verify compares" in refused.stderr
    assert not (tmp_path / "out").exists()
