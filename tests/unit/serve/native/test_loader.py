"""Loading: the model is the mapped file; damage is named."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kit.bench.fresh_process import measure
from kit.errors import EnvironmentNotReady, IntegrityError
from kit.serve.native.loader import load_model

CPU = torch.device("cpu")


def load(directory: Path, dtype: str = "auto", **options):
    return load_model(directory, CPU, dtype, lambda phase, fraction: None, **options)


def mapped_ranges(path: Path) -> list[range]:
    lines = Path("/proc/self/maps").read_text().splitlines()
    spans = [line.split()[0].split("-") for line in lines if line.endswith(str(path))]
    return [range(int(start, 16), int(end, 16)) for start, end in spans]


def test_parameters_are_the_mapped_file(make_model):
    directory = make_model()
    model = load(directory)
    mapped = mapped_ranges(directory / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert any(parameter.data_ptr() in span for span in mapped), name


def test_tied_head_is_one_tensor(make_model):
    model = load(make_model())
    assert model.lm_head.weight is model.model.embed_tokens.weight


def test_values_and_rotary_table(make_model):
    directory = make_model(dtype="bfloat16")
    model = load(directory)
    stored = load_file(directory / "model.safetensors")
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, stored[name])
    assert model.model.rotary_emb.inv_freq.dtype == torch.float32
    assert model.model.rotary_emb.inv_freq[0] == 1


def test_another_dtype_is_made_tensor_by_tensor(make_model):
    directory = make_model(dtype="bfloat16")
    model = load(directory, "float32")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["auto", "float32"])
def test_staged_as_on_a_gpu_it_is_the_same_model_in_memory_of_its_own(make_model, dtype):
    directory = make_model(dtype="bfloat16")
    mapped = mapped_ranges(directory / "model.safetensors")
    staged = dict(load(directory, dtype, staged=True).named_parameters())
    for name, parameter in load(directory, dtype).named_parameters():
        assert torch.equal(staged[name], parameter), name
        assert staged[name].dtype == parameter.dtype
        assert not any(staged[name].data_ptr() in span for span in mapped)


MEASURED = """
import sys
from pathlib import Path
import torch
from kit.bench.fresh_process import run_job
from kit.serve.native.loader import load_model

def job():
    model = load_model(Path(sys.argv[1]), torch.device("cpu"), "auto", lambda *_: None)
    for parameter in model.parameters():  # something of every page
        parameter.view(-1)[:: 4096 // parameter.itemsize].sum()

run_job(job)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="measured by /proc")
def test_a_model_of_300_mb_takes_no_private_memory(make_model):
    directory = make_model(dtype="bfloat16", vocab_size=200_000, hidden_size=768)
    assert (directory / "model.safetensors").stat().st_size > 300_000_000
    measured = measure([sys.executable, "-c", MEASURED, str(directory)], directory)
    assert measured.growth_bytes <= 16 * 2**20


def test_not_a_converted_directory(tmp_path):
    with pytest.raises(EnvironmentNotReady, match="no converted weights"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda tensors: tensors.pop("model.norm.bias"), "lacks 1 tensors.*model.norm.bias"),
        (lambda tensors: tensors.update(extra=torch.ones(1)), "extra.*unexpected"),
        (
            lambda tensors: tensors.update({"model.norm.bias": torch.ones(31)}),
            r"model.norm.bias \[31\] does not fit the model \(expected \[32\]\)",
        ),
    ],
)
def test_damaged_weights_are_named(make_model, damage, message):
    directory = make_model()
    tensors = load_file(directory / "model.safetensors")
    damage(tensors)
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(IntegrityError, match=message):
        load(directory)


@pytest.mark.parametrize("staged", [True, False])
def test_truncated_file(make_model, staged):
    path = make_model() / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(IntegrityError, match="cannot be read"):
        load(path.parent, staged=staged)


def test_several_shards(make_model):
    directory = make_model()
    tensors = load_file(directory / "model.safetensors")
    names = sorted(tensors)
    (directory / "model.safetensors").unlink()
    for number, part in enumerate((names[:10], names[10:]), start=1):
        shard = {name: tensors[name] for name in part}
        save_file(shard, directory / f"model-{number:05}-of-00002.safetensors")
    assert json.loads((directory / "config.json").read_text())["model_type"] == "iflytekspark"
    for name, parameter in load(directory).named_parameters():
        assert torch.equal(parameter, tensors[name])
