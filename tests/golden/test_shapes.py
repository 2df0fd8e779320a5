"""Other shapes of the same checkpoint: cut by upstream, merged by upstream, and back to upstream.

Where a folder is too large to be bundled, sha256 of its tensors' bytes stand for it
(``<folder>.sha256.json``: file, tensor, digest).
"""

import hashlib
import queue
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

import kit.models.spark  # noqa: F401  (registers Spark with the Auto classes)
from kit.serve.engine import SamplingParams, Step
from kit.serve.megatron.engine import MegatronEngine
from kit.serve.megatron.folder import read_folder
from kit.weights.carry.export import export_upstream
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import ConversionRecord, read_record
from tests.shapes import mindspore_bytes, mindspore_parameters
from tests.upstream_real import rewritten_tree

FP32_TOLERANCE = 1e-4
Converted = Callable[..., Path]


@pytest.fixture
def convert(golden, tmp_path: Path) -> Callable[..., ConversionRecord]:
    """``convert(folder, name, …)``: a folder of this golden one, into ``tmp_path / name``."""

    def convert_folder(folder: str | Path, name: str, **options: Any) -> ConversionRecord:
        source = folder if isinstance(folder, Path) else golden.path(folder)
        beside = {"tokenizer": golden.path("tokenizer"), "config": golden.path("config.json")}
        options = {"precision": "fp32", **beside, **options}
        return convert_checkpoint(source, tmp_path / name, **options)

    return convert_folder


def upstreams(path: Path) -> dict[str, torch.Tensor]:
    """A file's tensors by their names below ``language_model``, as upstream loads them."""

    def leaves(value: Any, name: str) -> Iterator[tuple[str, torch.Tensor]]:
        if isinstance(value, dict):
            for key in value:
                yield from leaves(value[key], f"{name}.{key}" if name else key)
        else:
            yield name, value

    state = torch.load(path, weights_only=True, mmap=True)
    return dict(leaves(state["module"]["language_model"], ""))


def digests(path: Path) -> dict[str, str]:
    return {
        name: hashlib.sha256(tensor.contiguous().view(torch.uint8).numpy()).hexdigest()
        for name, tensor in upstreams(path).items()
    }


def assert_equal_files(ours: Path, theirs: Path) -> None:
    assert [path.name for path in sorted(ours.glob("*.pt"))] == [
        path.name for path in sorted(theirs.glob("*.pt"))
    ]
    for path in ours.glob("*.pt"):
        found, wanted = upstreams(path), upstreams(theirs / path.name)
        assert found.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_upstreams_shards_make_the_same_model(
    golden, convert, converted: Converted, precision: str
) -> None:
    record = convert("ckpt_tp2", "tp2", precision=precision)
    assert len(record.sources) == 2
    assert record.tensors == read_record(converted(golden, precision)).tensors


@pytest.mark.parametrize("base", ["ckpt", "ckpt_tp2"])
def test_merging_is_upstreams_fp32_merge_bit_for_bit(golden, convert, base: str) -> None:
    theirs = convert("lora_merged_fp32", "theirs")
    ours = convert(base, "ours", lora=golden.path("lora"))
    assert ours.tensors == theirs.tensors


def test_merging_and_exporting_gives_upstreams_merged_tensors(
    golden, convert, tmp_path: Path
) -> None:
    recorded = golden.json("lora_merged_fp32.sha256.json")
    convert("ckpt", "merged", lora=golden.path("lora"))
    export_upstream(tmp_path / "merged", tmp_path / "out")
    assert {p.name: digests(p) for p in (tmp_path / "out").glob("*.pt")} == recorded


@pytest.mark.parametrize(("ranks", "folder"), [(1, "ckpt"), (2, "ckpt_tp2")])
def test_exporting_gives_upstreams_own_files(
    golden, converted: Converted, tmp_path: Path, ranks: int, folder: str
) -> None:
    export_upstream(converted(golden, "fp32"), tmp_path / "out", ranks=ranks)
    assert_equal_files(tmp_path / "out", golden.path(folder))


def test_exporting_two_shards_gives_upstreams_tensors(
    golden, converted: Converted, convert, tmp_path: Path
) -> None:
    recorded = golden.json("ckpt_tp2.sha256.json")
    export_upstream(converted(golden, "fp32"), tmp_path / "out", ranks=2)
    assert {p.name: digests(p) for p in (tmp_path / "out").glob("*.pt")} == recorded
    record = convert(tmp_path / "out", "again")
    assert record.tensors == read_record(converted(golden, "fp32")).tensors


def test_upstream_loads_what_is_exported(golden, converted: Converted, tmp_path: Path) -> None:
    recorded = golden.tensors("logits_fp32.safetensors")
    heads, vocabulary = golden.config["num_attention_heads"], golden.config["vocab_size"]
    ranks = next((n for n in (4, 3) if not heads % n and not vocabulary % n), None)
    if ranks is None:
        pytest.skip(f"{heads} heads and {vocabulary} tokens cannot be cut into more than 2")
    tree = rewritten_tree(tmp_path / "upstream")
    export_upstream(converted(golden, "fp32"), tmp_path / "out", ranks=ranks)
    context = golden.context
    folder = read_folder(tmp_path / "out")
    engine = MegatronEngine(folder, tree, device="cpu", dtype="float32", context=context)
    try:
        engine.load(lambda phase, fraction: None)
        name = next(name for name in recorded if name.startswith("ids_"))
        steps: queue.Queue[Step | Exception] = queue.Queue()
        engine.submit(
            recorded[name].tolist(), SamplingParams(max_tokens=1, top_logprobs=20), steps.put
        )
        step = steps.get(timeout=300)
    finally:
        engine.close()
    assert isinstance(step, Step), step
    wanted = recorded[name.replace("ids", "logits")][-1].log_softmax(-1)
    for token, logprob in step.logprobs.top:
        assert abs(logprob - wanted[token].item()) < FP32_TOLERANCE


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("widen", [False, True])
def test_a_mindspore_file_makes_the_same_model(
    golden, convert, converted: Converted, tmp_path: Path, precision: str, widen: bool
) -> None:
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    state = torch.load(golden.path("ckpt") / "mp_rank_00_model_states.pt")
    parameters = {n: t.to(dtype) for n, t in mindspore_parameters(state).items()}
    path = tmp_path / "x.ckpt"
    path.write_bytes(mindspore_bytes(parameters, max_elements=10_007, widen=widen))
    record = convert(path, "mindspore", precision=precision)
    assert record.tensors == read_record(converted(golden, precision)).tensors


@pytest.mark.parametrize(
    ("recording", "base", "lora"),
    [("logits_fp32_tp2", "ckpt_tp2", None), ("logits_fp32_lora_merged", "ckpt", "lora")],
)
def test_logits(golden, convert, tmp_path: Path, recording: str, base: str, lora: str) -> None:
    recorded = golden.tensors(f"{recording}.safetensors")
    convert(base, "model", **({"lora": golden.path(lora)} if lora else {}))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    numbers = [n.removeprefix("logits_") for n in recorded if n.startswith("logits_")]
    assert numbers
    for number in numbers:
        with torch.inference_mode():
            ours = model(recorded[f"ids_{number}"][None]).logits[0]
        assert (ours - recorded[f"logits_{number}"]).abs().max() < FP32_TOLERANCE
