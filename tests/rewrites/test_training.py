"""Upstream's own training, run out of the rewritten tree by `kit upstream run`, on the CPU.

Data, SFT, a LoRA adapter, its merging, and what the kit makes of the results.
"""

import json
import re
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.upstream.added.checkpoints import load_tensors
from kit.weights.convert.convert import convert_checkpoint
from tests.shapes import parts, save_shards
from tests.unit.conftest import expected_tensors
from tests.upstream_real import FLAGS, Done, run_script

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "a"
SHARD = "mp_rank_00_model_states.pt"
PREPARE = "examples_deepspeed/iFlytekSpark/preprocess_{}data_iFlytekSpark.py"
SFT, PRETRAIN, MERGE = (
    "sft_iFlytekSpark.py",
    "pretrain_iFlytekSpark.py",
    "sft_iFlytekSpark_lora_merge.py",
)
STOCK = ["portability"]
CPU_FIRST = ["portability", "loading-cpu-first"]
LORA = {"lora-rank": 4, "lora-alpha": 8, "lora-dropout": 0.0}
ADAPTED = ("--apply-lora", *(f"--adapt-{part}" for part in ("q", "k", "v", "o", "fc1", "fc2")))
LAYERS = 4
STEPS = 5
"""What the data is enough for; upstream trains on whole epochs."""
DEEPSPEED = {
    "train_batch_size": 1,
    "train_micro_batch_size_per_gpu": 1,
    "zero_optimization": {"stage": 1, "elastic_checkpoint": True},
    "gradient_clipping": 1.0,
    "bf16": {"enabled": True},
}
"""Upstream's template, filled in."""


@pytest.fixture(scope="session")
def data(tree, tmp_path_factory) -> Callable[[str], Path]:
    """``data("sft_")``, ``data("")``: documents for SFT or pretraining, as upstream's own program
    prepares them: the prefix of its files."""

    @cache
    def prepare(kind: str) -> Path:
        folder = tmp_path_factory.mktemp("data")
        texts = ["我是一个小模型。" * (1 + i % 5) for i in range(40)]
        lines = [json.dumps({"input": f"你是谁？{i}", "target": t}) for i, t in enumerate(texts)]
        (folder / "raw").write_text("\n".join(lines) if kind else "\n\n".join(texts))
        options = {
            "raw_data_path": folder / "raw",
            "output_filepath": folder / "made_",
            "tokenizer": GOLDEN / "tokenizer" / "tokenizer",
            "workers": 1,
        }
        arguments = [f"--{name}={value}" for name, value in options.items()]
        done = run_script(tree(), PREPARE.format(kind), [*arguments, "--append-eod"])
        assert done.code == 0, done.stderr
        return folder / "made_text_document"

    return prepare


@pytest.fixture(scope="session")
def train(tree, data, tmp_path_factory) -> Callable[..., tuple[Done, Path]]:
    """``train(script, groups, without, …)``: how it ended, and where it has saved."""

    @cache
    def run(
        script: str,
        groups: tuple[str, ...] | None = None,
        without: tuple[str, ...] = (),
        flags: tuple[str, ...] = (),
        ranks: int = 1,
        path: str | None = None,
        pretrained: bool = True,
    ) -> tuple[Done, Path]:
        folder = tmp_path_factory.mktemp("training")
        (folder / "ds.json").write_text(json.dumps(DEEPSPEED))
        shards = GOLDEN / "ckpt"
        if ranks > 1:
            shards = save_shards(torch.load(shards / SHARD), folder / "shards", ranks)
        made = data("" if script == PRETRAIN else "sft_")
        prefix = shutil.copytree(made.parent, folder / "data") / made.name
        options = _options(folder, prefix, ranks)
        loading = [f"--from-pretrained={shards}"] if pretrained else []
        arguments = [*options, *loading, *FLAGS, *flags]
        done = run_script(tree(groups, without), script, arguments, ranks, path)
        return done, folder / "saved" / f"global_step{STEPS}"

    return run


def _options(folder: Path, data: Path, ranks: int) -> list[str]:
    config: dict[str, Any] = json.loads((GOLDEN / "config.json").read_text())
    named = {
        "tensor-model-parallel-size": ranks,
        "num-layers": config["num_layers"],
        "hidden-size": config["hidden_size"],
        "ffn-hidden-size": config["ffn_hidden_size"],
        "num-attention-heads": config["num_attention_heads"],
        "seq-length": 256,
        "max-position-embeddings": 256,
        "localsize": 128,
        "tokenizer-type": "iFlytekSparkSentencePieceTokenizer",
        "vocab-file": GOLDEN / "tokenizer" / "tokenizer",
        "data-path": data,
        "data-impl": "mmap",
        "split": "900,90,10",
        "num-workers": 0,
        "save": folder / "saved",
        "save-interval": 100,
        "deepspeed_config": folder / "ds.json",
        "zero-stage": 1,
        "micro-batch-size": 1,
        "global-batch-size": 1,
        "train-iters": STEPS,
        "lr": 1e-3,
        "eval-iters": 0,
        "log-interval": 1,
        "attention-dropout": 0.0,  # loading draws no numbers, or many: dropout would differ
        "hidden-dropout": 0.0,
        "seed": 1,
    }
    flags = ["--bf16", "--deepspeed", "--no-pipeline-parallel"]
    flags += ["--no-async-tensor-model-parallel-allreduce"]
    return [*(f"--{name}={value}" for name, value in named.items()), *flags]


def losses(done: Done) -> list[float]:
    assert done.code == 0, (done.stdout + done.stderr)[-4000:]
    return [float(loss) for loss in re.findall(r"lm loss: (\S+) \|", done.stdout)][:STEPS]


def lora_flags(*more: str) -> tuple[str, ...]:
    return (*ADAPTED, *(f"--{name}={value}" for name, value in LORA.items()), *more)


def test_sft_learns_and_the_kit_converts_what_it_saves(train, tmp_path):
    done, saved = train(SFT)
    steps = losses(done)
    assert len(steps) == STEPS
    assert steps[-1] < steps[0] - 1
    convert_checkpoint(
        saved,
        tmp_path / "converted",
        precision="bf16",
        tokenizer=GOLDEN / "tokenizer",
        config=GOLDEN / "config.json",
    )
    state = load_tensors(str(saved / SHARD))
    trained, before = (parts(each) for each in (state, torch.load(GOLDEN / "ckpt" / SHARD)))
    assert not torch.equal(trained[1], before[1].bfloat16())
    converted = load_file(tmp_path / "converted" / "model.safetensors")
    expected = expected_tensors(state, torch.bfloat16)
    assert converted.keys() == expected.keys()
    assert all(torch.equal(converted[name], expected[name]) for name in expected)


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("groups", [None, CPU_FIRST], ids=["default", "cpu-first"])
def test_every_way_to_load_trains_the_same(train, groups, ranks):
    """Ranks, too: each weight must know how it is split, or gradients are clipped otherwise."""
    stock, _ = train(SFT, tuple(STOCK), ranks=ranks)
    done, _ = train(SFT, tuple(groups) if groups else None, ranks=ranks)
    assert losses(done) == pytest.approx(losses(stock), rel=1e-4)


def test_pretraining_loads_the_same_way(train):
    stock, _ = train(PRETRAIN, tuple(STOCK))
    done, _ = train(PRETRAIN)
    assert len(losses(done)) > 1
    assert losses(done) == pytest.approx(losses(stock), rel=1e-4)


def test_without_pretrained_weights_they_are_drawn(train):
    done, _ = train(SFT)
    fresh, _ = train(SFT, pretrained=False)
    assert losses(fresh)[0] < losses(done)[0]  # of small random weights, not of the golden's


def test_any_device(train):
    without, _ = train(SFT, without=("any-device",))
    assert without.code != 0
    assert "not compiled with CUDA" in without.stderr


def test_nothing_is_compiled(train, tmp_path):
    """With no make and no compiler on the path, and a tree that nobody may write."""
    without, _ = train(SFT, without=("no-compile",), path=str(tmp_path))
    assert without.code != 0
    assert "make" in without.stderr
    done, _ = train(SFT, path=str(tmp_path))
    assert losses(done)


@pytest.fixture(scope="session")
def adapter(train, tmp_path_factory) -> Callable[[], Path]:
    """``adapter()``: a copy of what a LoRA training has saved."""

    def copy() -> Path:
        done, saved = train(SFT, flags=lora_flags())
        assert losses(done)[-1] < losses(done)[0]
        folder = tmp_path_factory.mktemp("adapter") / "lora"
        folder.mkdir()
        shutil.copy(saved / SHARD, folder)
        return folder

    return copy


def test_a_trained_adapter_is_merged_alike_by_upstream_and_the_kit(train, adapter, tmp_path):
    folder = adapter()
    flags = lora_flags("--merge-weights", f"--lora-from-pretrained={folder}")
    done, _ = train(MERGE, flags=flags)
    assert done.code == 0, (done.stdout + done.stderr)[-4000:]
    merged = expected_tensors(
        torch.load(folder.with_name("lora-lora-merged") / SHARD), torch.float32
    )
    convert_checkpoint(
        GOLDEN / "ckpt",
        tmp_path / "converted",
        precision="fp32",
        tokenizer=GOLDEN / "tokenizer",
        config=GOLDEN / "config.json",
        lora=folder,
        lora_alpha=LORA["lora-alpha"],
    )
    ours = load_file(tmp_path / "converted" / "model.safetensors")
    before = expected_tensors(torch.load(GOLDEN / "ckpt" / SHARD), torch.float32)
    assert sum(not torch.equal(ours[name], before[name]) for name in ours) >= LAYERS * 4
    for name, tensor in merged.items():  # upstream adds in bf16
        assert torch.allclose(tensor, ours[name], rtol=2**-7, atol=2**-7), name


def test_training_checkpoints(train, adapter):
    flags = lora_flags("--merge-weights", f"--lora-from-pretrained={adapter()}")
    without, _ = train(MERGE, without=("training-checkpoints",), flags=flags)
    assert without.code != 0
    assert "Weights only load failed" in without.stderr
