"""The real upstream code, rewritten: what golden folders recorded, by every way to load and serve.

Without the kit's engines: upstream's own loop and its own inference script. A tree that holds the
rewrites for portability alone is upstream as it is, made to run.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from golden_runs import UNDECIDED
from safetensors.torch import load_file

from tests.golden.conftest import Golden
from tests.shapes import parts, save_shards
from tests.upstream_real import FLAGS, fetched, rendered_tree, run_upstream

SHARD = "mp_rank_00_model_states.pt"
PROGRAM = Path(__file__).parent / "upstream_run.py"
TREES = {
    "stock": ("portability",),
    "cpu-first": ("portability", "loading-cpu-first"),
    "stream": ("portability", "loading-stream"),
    "default": None,
}
RUNS = [
    ("stock", "fp32", 1),
    ("cpu-first", "fp32", 1),
    ("stream", "fp32", 1),
    ("default", "fp32", 1),
    ("default", "fp32", 2),
    ("default", "bf16", 1),
]
TOLERANCE = {"fp32": 1e-4, "bf16": 0.75}
"""See test_logits.py."""
CLI_LENGTH = 32
"""What was generated for the recorded files of the command line."""


@dataclass(frozen=True)
class Found:
    """What upstream_run.py wrote."""

    generate: list[dict[str, Any]]
    long: list[list[list[int]]]
    scores: dict[str, torch.Tensor]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """``trees(name)``: a rewritten ``deepspeed-megatron`` folder."""
    settings = fetched(tmp_path_factory.mktemp("upstream"))
    return cache(lambda name: rendered_tree(settings, settings.data_dir / name, TREES[name]))


@pytest.fixture(scope="session")
def compute(trees, golden, tmp_path_factory) -> Callable[[str, str, int], Found]:
    """``compute(tree, precision, ranks)``: all that the golden folder records, computed anew."""

    @cache
    def run(name: str, precision: str, ranks: int) -> Found:
        if not (golden.folder / f"generate_{precision}.json").exists():
            pytest.skip(f"no {precision} generation recorded here")
        if golden.config["num_attention_heads"] % ranks or golden.config["vocab_size"] % ranks:
            pytest.skip(f"this model cannot be cut into {ranks} shards")
        folder = tmp_path_factory.mktemp(name)
        options = [*upstream_options(golden, shards(golden, ranks, folder / "shards"), ranks)]
        options += ["--micro-batch-size=1", *(["--bf16"] if precision == "bf16" else [])]
        arguments = [trees(name), golden.folder, precision, folder / "found", *options]
        done = run_upstream(PROGRAM, arguments, ranks)
        assert done.code == 0, done.stdout + done.stderr
        return Found(
            json.loads((folder / "found" / "generate.json").read_text()),
            json.loads((folder / "found" / "long.json").read_text()),
            load_file(folder / "found" / "scores.safetensors"),
        )

    return run


def upstream_options(golden: Golden, checkpoint: Path, ranks: int) -> Iterator[str]:
    """Upstream's command line for a golden folder's model."""
    config = golden.config
    named = {
        "tensor-model-parallel-size": ranks,
        "num-layers": config["num_layers"],
        "hidden-size": config["hidden_size"],
        "ffn-hidden-size": config["ffn_hidden_size"],
        "num-attention-heads": config["num_attention_heads"],
        "layernorm-epsilon": config["layernorm_epsilon"],
        "seq-length": config["seq_length"],
        "max-position-embeddings": config["max_position_embeddings"],
        "localsize": config["localsize"],
        "tokenizer-type": "iFlytekSparkSentencePieceTokenizer",
        "vocab-file": golden.path("tokenizer") / "tokenizer",
        "from-pretrained": checkpoint,
    }
    yield from (f"--{name}={value}" for name, value in named.items() if value is not None)
    yield from FLAGS


def shards(golden: Golden, ranks: int, folder: Path) -> Path:
    """The checkpoint, cut by upstream's own tool where that was recorded."""
    if ranks == 1:
        return golden.path("ckpt")
    recorded = golden.folder / f"ckpt_tp{ranks}"
    if recorded.exists():
        return recorded
    return save_shards(torch.load(golden.path("ckpt") / SHARD), folder, ranks)


@pytest.mark.parametrize(("tree", "precision", "ranks"), RUNS)
def test_tokens_and_texts(golden, compute, tree, precision, ranks):
    found = compute(tree, precision, ranks)
    recorded = golden.json(f"generate_{precision}.json")
    for run, ours in zip(recorded, found.generate, strict=True):
        if run.get("error"):
            assert run["error"].startswith(ours["error"]), run["kind"]
        elif run["min_margin"] >= UNDECIDED[precision]:
            assert ours["tokens"] == run["tokens"], run["prompts"]
            assert ours["text"] == run.get("text", ours["text"])
        else:
            for row, count in enumerate(decided(run, UNDECIDED[precision])):
                assert ours["tokens"][row][:count] == run["tokens"][row][:count], run["prompts"]
    for run, tokens in zip(
        golden.json(f"long_{precision}.json")["generate"], found.long, strict=True
    ):
        if run["min_margin"] >= UNDECIDED[precision]:
            assert tokens == run["tokens"]


def decided(run: dict[str, Any], undecided: float) -> Iterator[int]:
    """For each row, how many of its tokens come before one that rounding may choose."""
    start = min(length(run, row) for row in range(len(run["prompts"])))
    for row in range(len(run["prompts"])):
        chosen = range(length(run, row) - start, len(run["steps"]))
        close = (step for step in chosen if run["steps"][step]["margin"][row] < undecided)
        yield start + next(close, len(run["steps"]))


def length(run: dict[str, Any], row: int) -> int:
    """Tokens of a row's prompt."""
    return len(run["prompt_ids"][row]) + bool(run["overrides"].get("add_BOS"))


@pytest.mark.parametrize(("tree", "precision", "ranks"), RUNS)
def test_scores(golden, compute, tree, precision, ranks):
    found = compute(tree, precision, ranks)
    names = (f"logits_{precision}", f"generate_steps_{precision}")
    expected: dict[str, torch.Tensor] = {}
    for path in [golden.folder / f"{name}.safetensors" for name in names]:
        expected |= load_file(path) if path.exists() else {}
    if (path := golden.folder / f"long_{precision}.safetensors").exists():
        expected |= dict.fromkeys(("long", "long_steps"), load_file(path)["logits"])
    compared = expected.keys() & found.scores.keys()
    assert any(name.startswith("logits_") for name in compared)
    for name in compared:
        difference = (found.scores[name] - expected[name]).abs().max()
        assert difference < TOLERANCE[precision], name


def test_ways_to_load_differ_in_nothing(compute):
    stock = compute("stock", "fp32", 1)
    for name in ("cpu-first", "stream"):
        found = compute(name, "fp32", 1)
        assert found.generate == stock.generate
        for key, scores in stock.scores.items():
            assert torch.equal(found.scores[key], scores), (name, key)


@pytest.mark.parametrize("tree", ["stock", "default"])
def test_inference_script(golden, trees, tree, tmp_path):
    """The files and the text that upstream's own script wrote, its quirks included."""
    recorded = golden.path("cli")
    script = trees(tree) / "tools" / "run_iFlytekSpark_text_generation.py"
    options = [*upstream_options(golden, golden.path("ckpt"), 1), f"--predict-length={CLI_LENGTH}"]
    for expected in sorted(recorded.glob("out_mb*.jsonl")):
        batch = expected.stem.removeprefix("out_mb")
        files = [
            f"--json-input-path={recorded / 'in.jsonl'}",
            f"--json-output-path={tmp_path / batch}",
        ]
        done = run_upstream(script, [*options, f"--micro-batch-size={batch}", *files])
        assert done.code == 0, done.stdout + done.stderr
        assert (tmp_path / batch).read_text() == expected.read_text()
    for expected in sorted(recorded.glob("predict_data_mb*.txt")):
        batch, text = expected.stem.removeprefix("predict_data_mb"), expected.read_text()
        prompts = [
            line.removeprefix("prompt: ")
            for line in text.splitlines()
            if line.startswith("prompt: ")
        ]
        data = f"--predict-data=[{','.join(prompts)}]"
        done = run_upstream(script, [*options, f"--micro-batch-size={batch}", data])
        assert done.stdout[done.stdout.index("prompt: ") :].strip() == text.strip(), done.stderr


def test_lora_merge_script(golden, trees, tmp_path):
    """Upstream's own merge of an adapter, bit for bit."""
    if not shutil.which("c++"):
        pytest.skip("DeepSpeed compiles its communication for the CPU, there is no c++")
    expected = golden.path("lora_merged_fp32") / SHARD
    config = golden.json("lora_config.json")
    (tmp_path / "lora").mkdir()
    shutil.copyfile(golden.path("lora") / SHARD, tmp_path / "lora" / SHARD)
    options = {
        "lora-from-pretrained": tmp_path / "lora",
        "lora-rank": config["rank"],
        "lora-alpha": config["alpha"],
        "micro-batch-size": 1,
        "global-batch-size": 1,
        "train-iters": 1,
        "lr": 1e-4,
    }
    arguments = [*upstream_options(golden, golden.path("ckpt"), 1), "--apply-lora"]
    arguments += [f"--{name}={value}" for name, value in options.items()]
    arguments += ["--merge-weights", *(f"--adapt-{part}" for part in config["adapt"])]
    done = run_upstream(trees("default") / "sft_iFlytekSpark_lora_merge.py", arguments)
    assert done.code == 0, done.stdout + done.stderr
    merged = parts(torch.load(tmp_path / "lora-lora-merged" / SHARD))
    encoder, table = parts(torch.load(expected))
    assert torch.equal(merged[1], table)
    assert merged[0].keys() == encoder.keys()
    assert all(torch.equal(merged[0][name], encoder[name]) for name in encoder)
