import json
import os
import shlex
import shutil
import subprocess
import sys

import pytest

from kit.memory.plan.native import CUDA_CONTEXT_BYTES
from kit.settings import bundled
from kit.units import GIB
from tests import nvml_driver
from tests.shapes import save_shards

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


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    return nvml_driver.build(tmp_path_factory.mktemp("driver"))


def memory(*arguments, environ=None):
    command = (sys.executable, "-m", "kit", "memory", *map(str, arguments))
    env = environ or dict(os.environ)
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def plan(*arguments, **more):
    return memory("plan", *arguments, **more)


def record(*arguments, **more):
    return json.loads(plan(*arguments, "--json", **more).stdout)


def test_json(model_dir):
    arguments = ("--context", 512, "--max-sequences", 2, "--device", "cuda")
    found = record(model_dir, *arguments)
    assert (found["context"], found["max_sequences"], found["device"]) == (512, 2, "cuda")
    assert (found["model"], found["precision"], found["engine"]) == (
        model_dir.name,
        "bf16",
        "native",
    )
    lines = {(line["pool"], line["name"]): line for line in found["lines"]}
    cache = lines["device", "KV cache"]
    assert cache["size_bytes"] == 2 * 3 * 64 * 2 * 512 * 2
    assert (cache["phases"], cache["basis"]) == (["serve"], "computed")
    device = sum(line["size_bytes"] for (pool, _), line in lines.items() if pool == "device")
    assert found["peak_bytes"]["device"] == device
    assert found["phase_bytes"]["device"]["load"] < device
    assert found["here"]["host"]["total_bytes"] > found["here"]["host"]["others_bytes"] > 0


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--device", "cuda", "--precision", "int4"),
        ("--fit", "24GiB", "--verbose"),
        ("--engine", "stock", "--device", "cuda"),
        ("--dtype", "float32", "--device", "cpu"),
    ],
)
def test_tables_fit_80_columns(arguments):
    done = plan(*arguments)
    assert done.returncode == 0, done.stderr
    assert "tokens of context, " in done.stdout
    assert "KV cache" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert " \n" not in done.stdout


def test_forty_columns_lose_no_figure():
    environ = os.environ | {"COLUMNS": "40"}
    lines = memory("cards", environ=environ).stdout.splitlines()
    assert lines[:5] == [
        "RTX 3060, 4070",
        "  usable 11.49 GiB",
        "  bf16 –",
        "  int8 –",
        "  int4 4096 x 1",
    ]
    told = plan("--device", "cuda", environ=environ).stdout
    assert "KV cache\n  3.12 GiB    S  computed  819200 B x\n    4096 positions x 1\n" in told
    assert max(map(len, told.splitlines())) <= 40


def test_a_converted_directory_needs_no_conversion(model_dir):
    out = plan(model_dir).stdout
    assert "files" in out
    assert "converted copy" not in out


def test_the_13b_before_anything_is_downloaded():
    found = record("spark-13b-chat", "--device", "cuda")
    phases = found["phase_bytes"]
    assert 28 * GIB < found["peak_bytes"]["device"] < 30 * GIB
    assert phases["disk"]["convert"] == 53_250_170_880 + 26_625_085_440
    assert phases["disk"]["serve"] == 26_625_085_440
    assert 0 < phases["host"]["convert"] < 128 * 2**20


def test_a_shape_of_ones_own():
    numbers = ("--layers", 2, "--hidden", 256, "--ffn", 640, "--vocab", 1000, "--window", 0)
    found = record(*numbers, "--max-context", 2048, "--context", 2048, "--precision", "fp32")
    lines = {line["name"]: line["size_bytes"] for line in found["lines"]}
    parameters = 1000 * 256 + 2 * (4 * 256 * 256 + 3 * 256 * 640 + 9 * 256 + 2 * 640) + 2 * 256
    assert lines["weights"] == 4 * parameters
    assert lines["KV cache"] == 2 * 2 * 256 * 4 * 2048 * found["max_sequences"]


def test_a_budget_that_it_passes_is_exit_3():
    done = plan("--max-vram", "24GiB")
    assert done.returncode == 3
    assert "VRAM" in done.stdout
    assert "24.00 GiB there" in done.stderr
    assert "--fit" in done.stderr
    assert plan("--max-vram", "30GiB", "--max-ram", "4GiB").returncode == 0
    found = record("--max-vram", "24GiB")
    assert [budget["fits"] for budget in found["budgets"]] == [False]


def test_fit():
    found = record("--fit", "24GiB")
    best = found["best"]
    assert (best["precision"], best["context"], best["max_sequences"]) == ("int8", 32768, 1)
    assert best["peak_bytes"] <= found["room_bytes"] == 24 * GIB
    assert {option["precision"] for option in found["options"]} == {"int8", "int4"}
    text = plan("--fit", "24GiB").stdout
    assert text.startswith("The best that fits 24.00 GiB:\nspark-13b-chat in int8 on a GPU")
    assert "all that fits, at once" in text
    assert len(text.splitlines()) < 24
    assert max(map(len, text.splitlines())) <= 80
    assert text.endswith(
        "to serve it\n"
        "  kit weights fetch spark-13b-chat --convert --precision int8\n"
        "  kit up --model spark-13b-chat --context 32768 --max-sequences 1\n"
    )


def test_fit_of_what_is_here_ends_with_commands_that_can_be_pasted(model_dir, tmp_path):
    folder = tmp_path / "it's mine"
    shutil.copytree(model_dir, folder)
    last = plan(folder, "--fit", "4GiB", "--device", "cpu").stdout.splitlines()[-1]
    words = shlex.split(last)
    assert words[:4] == ["kit", "up", "--model", str(folder)]
    assert words[-2:] == ["--device", "cpu"]
    checkpoint = bundled("demo") / "mp_rank_00_model_states.pt"
    *_, convert, up = plan(checkpoint, "--fit", "4GiB", "--device", "cpu").stdout.splitlines()
    assert shlex.split(convert) == [
        *("kit", "weights", "convert", str(checkpoint), "demo-bf16", "--precision", "bf16")
    ]
    assert shlex.split(up)[:4] == ["kit", "up", "--model", "demo-bf16"]
    assert "to serve it" not in plan("--fit", "4GiB", "--layers", 2).stdout


def test_fit_of_what_is_asked_for():
    best = record("--fit", "24GiB", "--precision", "int4", "--context", 6000)["best"]
    assert (best["precision"], best["context"]) == ("int4", 6000)


def test_nothing_fits():
    done = plan("--fit", "4GiB")
    assert done.returncode == 3
    assert "nothing of spark-13b-chat fits 4.00 GiB: int4 with 512 tokens" in done.stderr
    assert record("--fit", "4GiB")["best"] is None


def test_fit_free_is_this_machines_memory(driver):
    on_cpu = record("--fit", "free", "--device", "cpu", "--layers", 2)
    assert on_cpu["device"] == "cpu"
    environ = nvml_driver.environ(driver, "tenants")
    found = record("--fit", "free", "--layers", 2, environ=environ)
    assert found["device"] == "cuda"
    assert found["room_bytes"] < 24 * GIB


def test_other_processes_on_the_gpu(driver):
    out = plan("--precision", "bf16", environ=nvml_driver.environ(driver, "tenants")).stdout
    assert "on a GPU" in out
    assert "other processes" in out
    assert "ollama" in out
    assert "too little" in " ".join(out.split())


def test_upstream_as_it_is():
    found = record("--engine", "stock", "--device", "cuda", "--context", 512)
    assert found["peak_bytes"]["device"] > 74 * GIB
    rewritten = record("--engine", "megatron", "--device", "cuda", "--context", 512)
    assert rewritten["peak_bytes"]["device"] < 28 * GIB


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("/no/such/folder",), 3),
        (("spark-14b",), 2),
        (("--context", 65536), 2),
        (("--fit", "24G"), 2),
        (("--fit", "24GiB", "--dtype", "float32"), 2),
        (("--fit", "24GiB", "--context", 40000), 2),
        (("spark-13b-chat", "--layers", 2), 2),
        (("--engine", "stock", "--max-sequences", 2), 2),
        (("--engine", "megatron", "--precision", "int8"), 2),
        (("--hidden", 100, "--precision", "int4"), 2),
    ],
)
def test_errors(arguments, code):
    done = plan(*arguments)
    assert done.returncode == code, done.stderr
    assert "hint:" in done.stderr


def test_cards():
    table = memory("cards").stdout
    assert "RTX 3090, 4090" in table
    assert max(map(len, table.splitlines())) <= 80
    rows = json.loads(memory("cards", "--json").stdout)["cards"]
    assert {"A10", "H200"} <= {row["name"] for row in rows}
    assert memory("cards", "--markdown").stdout.startswith("| card |")


def test_a_checkpoint_of_shards_is_planned_for_as_many_ranks(tmp_path):
    """The 13B's budget is that of all ranks together: so is the plan."""
    torch = pytest.importorskip("torch", reason="needs the native extra")
    (checkpoint,) = bundled("demo").rglob("mp_rank_00_model_states.pt")
    save_shards(torch.load(checkpoint), tmp_path / "cut", 2)
    shutil.copy(bundled("demo") / "config.json", tmp_path / "cut")
    options = ("--engine", "megatron", "--device", "cuda", "--context", 512)
    two, one = record(tmp_path / "cut", *options), record("demo", *options)
    assert (one["ranks"], two["ranks"]) == (1, 2)
    more = two["peak_bytes"]["device"] - one["peak_bytes"]["device"]
    assert more > CUDA_CONTEXT_BYTES
    assert "on 2 GPUs, megatron engine" in plan(tmp_path / "cut", *options).stdout
    assert "each GPU" in plan(tmp_path / "cut", *options).stdout
    assert record(tmp_path / "cut", "--device", "cuda")["ranks"] == 1  # converted first
    done = plan(tmp_path / "cut", *options[:4], "--fit", "1GiB")  # two CUDA contexts alone
    assert done.returncode == 3
