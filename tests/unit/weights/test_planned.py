import json
import shutil
from pathlib import Path

import pytest

from kit.checkpoint.layout import Dimensions
from kit.errors import EnvironmentNotReady, UsageError
from kit.memory.plan.line import Phase, Pool
from kit.memory.plan.predict import plan_serving
from kit.memory.plan.torch_build import CPU_BUILD
from kit.settings import bundled
from kit.weights.catalogue import read_catalogue
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.locate import CHECKPOINT_NAME
from kit.weights.folder import checkpoint_dir, converted_dir
from kit.weights.planned import described, find_planned, with_disk

CATALOGUE = read_catalogue()


def find(target, catalogue=CATALOGUE, data_dir=Path("nowhere"), precision=None):
    return find_planned(None if target is None else str(target), catalogue, data_dir, precision)


def planned(model, engine="native", precision=None):
    shape = model.shape(precision)
    plan = plan_serving(
        shape, context=64, max_sequences=1, device="cpu", build=CPU_BUILD, engine=engine
    )
    return with_disk(model, shape, plan)


def disk(plan):
    return {line.name: line.size_bytes for line in plan.lines if line.pool is Pool.DISK}


@pytest.mark.parametrize("name", [None, "spark-13b-chat", "spark-13b-base"])
def test_a_name_of_the_catalogue(name):
    found = find(name)
    assert found.architecture.parameters == 13_312_542_720
    assert found.shape(None).weights_bytes == 26_625_085_440
    assert found.shape("int8").precision == "int8"
    assert disk(planned(found)) == {
        "checkpoint": 53_250_170_880,
        "converted copy": 26_625_085_440,
    }


def test_a_smaller_download():
    assert disk(planned(find("spark-13b-chat-ms-bf16")))["checkpoint"] == 26_625_085_440


def test_a_converted_directory(make_model):
    directory = make_model(dtype="bfloat16")
    found = find(directory)
    assert found.name == directory.name
    shape = found.shape("bf16")
    assert shape.weights_bytes == disk(planned(found))["files"]
    assert found.shapes(("bf16", "int4")) == {"bf16": shape}
    with pytest.raises(UsageError, match="converted directory of bf16"):
        found.shape("int8")


def test_a_checkpoint(make_state, save):
    path = save(make_state(layers=3, hidden=64, ffn=96, vocab=70))
    arguments = {"num_attention_heads": 4, "localsize": None, "seq_length": 512}
    (path.parent / "config.json").write_text(json.dumps(arguments))
    for target in (path, path.parent):
        found = find(target)
        assert found.architecture.dimensions == Dimensions(3, 64, 96, 70)
        assert (found.architecture.max_context, found.architecture.window) == (512, None)
        assert found.architecture.heads == 4
        assert found.source_bytes == path.stat().st_size
        plan = planned(found)
        assert disk(plan)["checkpoint"] == path.stat().st_size
        assert plan.phase_bytes(Pool.HOST, Phase.CONVERT) < 128 * 2**20
        assert disk(planned(found, "megatron")) == {"files": path.stat().st_size}


def test_the_demo():
    assert find("demo").architecture.dimensions.vocab_size == 1536


def test_what_is_neither():
    with pytest.raises(UsageError, match="catalogue"):
        find("spark-14b")
    with pytest.raises(EnvironmentNotReady, match="nothing at"):
        find("/no/such/folder")
    with pytest.raises(UsageError, match="no model"):
        find("spark-13b-tokenizer")


OURS = """
[weights.ours]
what = "our fine-tune"
sources = []
licence = "spark-13b"
checkpoint = "mp_rank_00_model_states.pt"
files."mp_rank_00_model_states.pt" = "v3/mp_rank_00_model_states.pt"
"""


def test_a_set_of_which_the_catalogue_tells_no_shape(tmp_path, make_state):
    (tmp_path / "own.toml").write_text(OURS)
    catalogue = read_catalogue(tmp_path / "own.toml")
    with pytest.raises(EnvironmentNotReady, match="does not tell its shape") as caught:
        find("ours", catalogue, tmp_path)
    assert "kit weights fetch ours" in caught.value.hint
    assert "shape =" in caught.value.hint

    folder = checkpoint_dir(tmp_path, "ours")
    shutil.copytree(bundled("demo"), folder)
    found = find("ours", catalogue, tmp_path)
    assert (found.name, found.architecture.dimensions.vocab_size) == ("ours", 1536)
    assert found.source_bytes == (folder / CHECKPOINT_NAME).stat().st_size

    for precision in ("fp32", "int8"):
        output = converted_dir(tmp_path, "ours", precision)
        convert_checkpoint(folder / CHECKPOINT_NAME, output, precision=precision)
    assert find("ours", catalogue, tmp_path).shape(None).precision == "int8"
    assert find("ours", catalogue, tmp_path, "fp32").converted.precision == "fp32"
    other = find("ours", catalogue, tmp_path, "int4")  # no conversion: of the checkpoint
    assert other.shape("int4").precision == "int4"


def test_another_shape():
    none = dict.fromkeys(("layers", "hidden", "ffn", "vocab", "heads", "max_context", "window"))
    assert described(find(None), none) == find(None)
    found = described(find(None), none | {"layers": 2, "hidden": 256, "window": 0})
    assert found.architecture.dimensions == Dimensions(2, 256, 14336, 60000)
    assert (found.architecture.heads, found.architecture.window) == (2, None)
    assert "0.04 billion" in found.name
    fp32 = 4 * found.architecture.parameters
    assert disk(planned(found))["checkpoint"] == fp32


def test_widths_that_int4_cannot_cut_leave_the_others():
    none = dict.fromkeys(("layers", "hidden", "ffn", "vocab", "heads", "max_context", "window"))
    found = described(find(None), none | {"hidden": 200, "ffn": 100})
    assert list(found.shapes(("bf16", "int8", "int4"))) == ["bf16", "int8"]
