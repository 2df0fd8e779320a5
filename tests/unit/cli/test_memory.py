import json
import subprocess
import sys

import pytest

CONFIG = {
    "num_hidden_layers": 3,
    "hidden_size": 64,
    "intermediate_size": 128,
    "vocab_size": 500,
    "max_position_embeddings": 1024,
    "sliding_window": 256,
}


@pytest.fixture
def model_dir(tmp_path):
    header = json.dumps({"w": {"dtype": "BF16", "shape": [32], "data_offsets": [0, 64]}}).encode()
    data = len(header).to_bytes(8, "little") + header + bytes(64)
    (tmp_path / "model.safetensors").write_bytes(data)
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    return tmp_path


def plan(*arguments):
    command = (sys.executable, "-m", "kit", "memory", "plan", *map(str, arguments))
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_json(model_dir):
    arguments = ("--context", 512, "--max-sequences", 2, "--device", "cuda", "--json")
    record = json.loads(plan(model_dir, *arguments).stdout)
    assert (record["context"], record["max_sequences"], record["device"]) == (512, 2, "cuda")
    lines = {(line["pool"], line["name"]): line for line in record["lines"]}
    cache = lines["device", "KV cache"]
    assert cache["size_bytes"] == 2 * 3 * 64 * 2 * 512 * 2
    assert (cache["phases"], cache["basis"]) == (["serve"], "computed")
    device = sum(line["size_bytes"] for (pool, _), line in lines.items() if pool == "device")
    assert record["peak_bytes"]["device"] == device


def test_table_fits_80_columns(model_dir):
    out = plan(model_dir).stdout
    assert "1024 tokens of context" in out
    assert "KV cache" in out
    assert max(map(len, out.splitlines())) <= 80


def test_errors(model_dir, tmp_path):
    assert plan(tmp_path / "nowhere").returncode == 3
    assert plan(model_dir, "--context", 4096).returncode == 2
