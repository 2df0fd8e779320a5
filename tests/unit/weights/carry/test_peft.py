import importlib.util
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.errors import UsageError
from kit.weights.carry.export import export_peft
from kit.weights.convert.convert import convert_checkpoint
from tests.shapes import lora_state, merged, save_shards

needs_peft = pytest.mark.skipif(
    importlib.util.find_spec("peft") is None, reason="peft is not installed"
)
RANK, ALPHA = 4, 10.0


@pytest.fixture
def state(source: Path) -> dict[str, Any]:
    return torch.load(source / "mp_rank_00_model_states.pt")


@pytest.fixture
def lora(tmp_path: Path, state: dict[str, Any]) -> Path:
    return save_shards(lora_state(state, RANK), tmp_path / "lora", 2)


def test_the_product_of_the_factors_is_what_merging_adds(
    state: dict[str, Any], lora: Path, tmp_path: Path, expected: Callable[..., Any]
) -> None:
    export_peft(lora, tmp_path / "peft", alpha=ALPHA)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    factors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    before = expected(state, torch.float32)
    after = expected(merged(state, lora_state(state, RANK), scale), torch.float32)
    adapted = [name for name in before if not torch.equal(before[name], after[name])]
    assert len(factors) == 2 * len(adapted) == 2 * 2 * 7
    for name in adapted:
        module = f"base_model.model.{name.removesuffix('.weight')}"
        a, b = (factors[f"{module}.lora_{factor}.weight"] for factor in "AB")
        assert a.shape[0] == b.shape[1] == RANK
        assert torch.equal(before[name] + (b @ a) * scale, after[name])


def test_the_configuration_and_the_files(lora: Path, tmp_path: Path) -> None:
    written = export_peft(lora, tmp_path / "peft", alpha=ALPHA)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["task_type"]) == ("LORA", "CAUSAL_LM")
    assert (config["r"], config["lora_alpha"], config["bias"]) == (RANK, ALPHA, "none")
    assert config["target_modules"] == list(written.target_modules)
    names = {path.name for path in (tmp_path / "peft").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in tmp_path.glob(".peft*")} == {".peft.lock"}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_factors_keep_their_type(state: dict[str, Any], tmp_path: Path, dtype: torch.dtype) -> None:
    lora = save_shards(lora_state(state, 2, dtype), tmp_path / "lora", 1)
    export_peft(lora, tmp_path / "peft", alpha=1)
    factors = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in factors.values()} == {dtype}


def test_an_existing_directory_is_not_replaced_unless_asked(lora: Path, tmp_path: Path) -> None:
    export_peft(lora, tmp_path / "peft", alpha=1)
    with pytest.raises(UsageError, match="exists"):
        export_peft(lora, tmp_path / "peft", alpha=2)
    with pytest.raises(UsageError, match="inside the output"):
        export_peft(lora, lora, alpha=2, overwrite=True)
    export_peft(lora, tmp_path / "peft", alpha=2, overwrite=True)
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["lora_alpha"] == 2


@needs_peft
@pytest.mark.filterwarnings("ignore")
def test_the_peft_library_merges_it_to_our_merged_model(
    source: Path, lora: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    def load(name: str) -> Any:
        return AutoModelForCausalLM.from_pretrained(tmp_path / name, trust_remote_code=True)

    convert_checkpoint(source, tmp_path / "base", precision="fp32")
    convert_checkpoint(source, tmp_path / "merged", precision="fp32", lora=lora, lora_alpha=ALPHA)
    export_peft(lora, tmp_path / "peft", alpha=ALPHA)
    wanted, base = load("merged"), load("base")
    adapted = PeftModel.from_pretrained(base, tmp_path / "peft")
    ids = torch.arange(4, 20)[None]
    assert torch.allclose(adapted(ids).logits, wanted(ids).logits, rtol=1e-4, atol=1e-3)
    found = adapted.merge_and_unload().state_dict()
    assert found.keys() == wanted.state_dict().keys()
    for name, tensor in wanted.state_dict().items():
        assert torch.allclose(found[name], tensor, rtol=1e-6, atol=1e-6), name
