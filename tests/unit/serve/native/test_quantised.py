"""Layers of integers: every way of multiplying gives what the floats they stand for give."""

import queue
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.functional import linear

from kit.errors import UsageError
from kit.models.spark import SparkConfig, SparkForCausalLM
from kit.serve.engine import SamplingParams, Step
from kit.serve.native.engine import NativeEngine
from kit.serve.native.loader import load_model
from kit.serve.native.quantised import Int4Linear, Int8Linear, QuantisedLinear
from kit.weights.convert.convert import convert_checkpoint

CPU = torch.device("cpu")
HIDDEN, FFN = 64, 160
TYPES = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.2e-2}


@pytest.fixture(scope="session")
def quantised_dir(
    tmp_path_factory: pytest.TempPathFactory, make_state: Callable[..., object]
) -> Callable[[str], Path]:
    """One random checkpoint, converted to the precision asked for."""
    source = tmp_path_factory.mktemp("source")
    state = make_state(layers=2, hidden=HIDDEN, ffn=FFN, vocab=2000)
    torch.save(state, source / "mp_rank_00_model_states.pt")
    tokenizer = Path(__file__).parents[3] / "golden" / "data" / "a" / "tokenizer"

    def convert(precision: str) -> Path:
        output = source.with_name(f"{source.name}-{precision}")
        convert_checkpoint(source, output, precision=precision, tokenizer=tokenizer, num_heads=4)
        return output

    return convert


def load(directory: Path, dtype: str = "auto", **options: object) -> SparkForCausalLM:
    return load_model(directory, CPU, dtype, lambda phase, fraction: None, **options)


def dequantised(directory: Path) -> dict[str, torch.Tensor]:
    """The matrices in fp32, made from the files by other means than the engine's."""
    tensors = load_file(directory / "model.safetensors")
    found = {}
    for name in [n.removesuffix("_scale") for n in tensors if n.endswith("_scale")]:
        scales = tensors[f"{name}_scale"].float()
        if name in tensors:
            q = tensors[name].float()
        else:
            words = tensors[f"{name}_packed"]
            q = torch.stack([(words >> shift & 15) - 8 for shift in range(0, 32, 4)], -1).flatten(1)
        found[name] = q * scales.repeat_interleave(q.shape[1] // scales.shape[1], dim=1)
    return found


def int8_layer(rows: int, columns: int, dtype: torch.dtype) -> tuple[Int8Linear, torch.Tensor]:
    layer = Int8Linear(nn.Linear(columns, rows, dtype=dtype))
    q = torch.randint(-128, 128, (rows, columns), dtype=torch.int8)
    scales = (torch.rand(rows, 1) + 0.1).to(torch.bfloat16) * (-1) ** torch.arange(rows)[:, None]
    layer.weight = nn.Parameter(q, requires_grad=False)
    layer.weight_scale = nn.Parameter(scales.to(dtype), requires_grad=False)
    return layer, q.float() * scales.float()


def int4_layer(
    rows: int, columns: int, group: int, dtype: torch.dtype
) -> tuple[Int4Linear, torch.Tensor]:
    layer = Int4Linear(nn.Linear(columns, rows, dtype=dtype), group)
    packed = torch.randint(-(2**31), 2**31, (rows, columns // 8)).to(torch.int32)
    scales = (torch.rand(rows, columns // group) + 0.1).to(torch.bfloat16)
    scales[::2] *= -1
    for name, tensor in (("weight_packed", packed), ("weight_scale", scales.to(dtype))):
        setattr(layer, name, nn.Parameter(layer.laid_out(name, tensor), requires_grad=False))
    q = torch.stack([(packed >> shift & 15) - 8 for shift in range(0, 32, 4)], -1).flatten(1)
    return layer, q.float() * scales.float().repeat_interleave(group, dim=1)


def assert_multiplies(layer: QuantisedLinear, weight: torch.Tensor, shape: tuple[int, ...]) -> None:
    inputs = torch.randn(*shape, layer.in_features).to(layer.bias.dtype)
    expected = linear(inputs.double(), weight.double(), layer.bias.double())
    found = layer(inputs)
    assert found.dtype == inputs.dtype
    assert found.shape == expected.shape
    error = (found.double() - expected).abs().max() / expected.abs().max()
    assert error <= TYPES[inputs.dtype]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 40)])
@pytest.mark.parametrize(("rows", "columns"), [(17, 64), (1999, 48), (48, 40), (33, 7)])
def test_int8(rows: int, columns: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """By the kernel, and without it for many inputs or widths that it cannot take."""
    torch.manual_seed(0)
    assert_multiplies(*int8_layer(rows, columns, dtype), shape)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("shape", [(1, 1), (3, 5), (2, 40)])
@pytest.mark.parametrize(
    ("rows", "columns", "group"), [(64, 64, 32), (1040, 128, 64), (48, 256, 128), (33, 96, 32)]
)
def test_int4(
    rows: int, columns: int, group: int, shape: tuple[int, ...], dtype: torch.dtype
) -> None:
    """By the kernel, laid out in several blocks, and without it for rows that it cannot take."""
    torch.manual_seed(0)
    assert_multiplies(*int4_layer(rows, columns, group, dtype), shape)


@pytest.mark.parametrize("precision", ["int8", "int4"])
@pytest.mark.parametrize("staged", [False, True])
def test_the_model_is_the_one_of_the_dequantised_weights(
    quantised_dir: Callable[[str], Path], precision: str, staged: bool
) -> None:
    directory = quantised_dir(precision)
    model = load(directory, "float32", staged=staged)
    same = SparkForCausalLM(SparkConfig.from_pretrained(quantised_dir("fp32")))
    stored = {n: t.float() for n, t in load_file(directory / "model.safetensors").items()}
    weights = {n: t for n, t in (stored | dequantised(directory)).items() if "weight_" not in n}
    same.load_state_dict(weights, strict=False)
    same.tie_weights()
    ids = torch.randint(0, 2000, (2, 90))
    with torch.inference_mode():
        expected = same(input_ids=ids).logits
        assert torch.allclose(
            model(input_ids=ids).logits, expected, atol=2e-4 * expected.abs().max()
        )


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_matrices_are_never_wider_than_in_the_file(
    quantised_dir: Callable[[str], Path], precision: str
) -> None:
    directory = quantised_dir(precision)
    model = load(directory)
    assert model.dtype == torch.bfloat16
    held = sum(parameter.nbytes for parameter in model.parameters())
    stored = load_file(directory / "model.safetensors")
    zeros = sum(t.nbytes for n, t in stored.items() if n.endswith("_scale") and precision == "int4")
    assert held == sum(tensor.nbytes for tensor in stored.values()) + zeros
    for layer in model.model.layers:
        assert not any(isinstance(module, nn.Linear) for module in layer.modules())


def test_int8_parameters_are_the_mapped_file(quantised_dir: Callable[[str], Path]) -> None:
    directory = quantised_dir("int8")
    model = load(directory)
    lines = Path("/proc/self/maps").read_text().splitlines()
    ends = [line.split()[0].split("-") for line in lines if line.endswith("model.safetensors")]
    mapped = [range(int(start, 16), int(end, 16)) for start, end in ends]
    for name, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in span for span in mapped), name


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_generates_by_chunks_and_in_company_as_alone(
    quantised_dir: Callable[[str], Path], precision: str
) -> None:
    """The engine in fp32 arithmetic, so that the order of sums cannot change a choice."""
    directory = quantised_dir(precision)
    torch.manual_seed(0)
    prompts = [torch.randint(20, 2000, (length,)).tolist() for length in (1, 30, 700)]
    engine = NativeEngine(directory, dtype="float32", context=800, max_sequences=3)
    info = engine.load(lambda phase, fraction: None)
    assert info.dtype == f"{precision} (float32)"
    try:
        together = [submit(engine, ids) for ids in prompts]
        in_company = [tokens(steps) for steps in together]
        alone = [tokens(submit(engine, ids)) for ids in prompts]
    finally:
        engine.close()
    assert in_company == alone
    model = load(directory, "float32")
    for ids, found in zip(prompts, alone, strict=True):
        with torch.inference_mode():
            whole = model(input_ids=torch.tensor([ids + found[:-1]])).logits[0]
        assert whole[len(ids) - 1 :].argmax(-1).tolist() == found


def submit(engine: NativeEngine, ids: list[int]) -> "queue.Queue[Step | Exception]":
    steps: queue.Queue[Step | Exception] = queue.Queue()
    engine.submit(ids, SamplingParams(max_tokens=12, ignore_end=True), steps.put)
    return steps


def tokens(steps: "queue.Queue[Step | Exception]") -> list[int]:
    found = []
    while True:
        step = steps.get(timeout=60)
        if isinstance(step, Exception):
            raise step
        found.append(step.token_id)
        if step.finish_reason:
            return found


@pytest.mark.parametrize(
    "change",
    [
        {"num_bits": 3},
        {"strategy": "tensor"},
        {"symmetric": False},
    ],
)
def test_what_the_engine_cannot_serve_is_refused(
    quantised_dir: Callable[[str], Path], tmp_path: Path, change: dict[str, object]
) -> None:
    config = SparkConfig.from_pretrained(quantised_dir("int8"))
    config.quantization_config["config_groups"]["group_0"]["weights"] |= change
    config.save_pretrained(tmp_path)
    weights = quantised_dir("int8") / "model.safetensors"
    (tmp_path / "model.safetensors").symlink_to(weights)
    with pytest.raises(UsageError, match="quantization_config"):
        load(tmp_path)
