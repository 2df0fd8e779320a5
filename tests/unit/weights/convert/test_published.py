"""Baichuan2-13B and ChatGLM-6B as their hubs publish them, converted."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.support_files import has_old_code, refresh
from kit.weights.convert.verify import prove_conversion
from tests.golden.published import BUNDLED, Recording

FAMILIES = ("baichuan2", "chatglm")


@pytest.fixture(params=FAMILIES)
def published(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of the folder, to be changed."""
    return Path(shutil.copytree(BUNDLED / request.param / "a" / "model", tmp_path / "published"))


def test_every_tensor_is_there_and_equal(published: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    record = convert_checkpoint(published, output, precision="fp32")
    assert prove_conversion(published, output) == len(record.tensors)
    assert not has_old_code(record)
    assert refresh(output) == ()
    assert convert_checkpoint(published, output, precision="fp32") == record


@pytest.mark.parametrize("precision", ["bf16", "int8", "int4"])
def test_other_precisions(published: Path, tmp_path: Path, precision: str) -> None:
    output = tmp_path / "out"
    convert_checkpoint(published, output, precision=precision)
    stored = {tensor.dtype for tensor in load_file(output / "model.safetensors").values()}
    integers = {"bf16": set(), "int8": {torch.int8}, "int4": {torch.int32, torch.int64}}
    assert stored == {torch.bfloat16} | integers[precision]


PROGRAM = """
import json, sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
directory, prompt = sys.argv[1], json.loads(sys.argv[2])
model = AutoModelForCausalLM.from_pretrained(directory, trust_remote_code=True, dtype="float32")
tokenizer = AutoTokenizer.from_pretrained(directory, trust_remote_code=True)
with torch.no_grad():
    logits = model(torch.tensor([prompt])).logits[0, -1]
ids = tokenizer.apply_chat_template(
    [{"role": "user", "content": "你好"}], add_generation_prompt=True, return_dict=False
)
print(json.dumps([logits.tolist(), ids]))
"""


def test_transformers_opens_the_directory_without_the_kit(published: Path, tmp_path: Path) -> None:
    """By the code that travels with it, in a process that cannot import the kit."""
    output = tmp_path / "out"
    convert_checkpoint(published, output, precision="fp32")
    family = "baichuan2" if (published / "tokenizer.model").exists() else "chatglm"
    recording = Recording(BUNDLED / family / "a")
    prompt = recording.recorded["prompts"][0]
    command = [sys.executable, "-P", "-c", PROGRAM, str(output), json.dumps(prompt["ids"])]
    environ = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logits, ids = json.loads(done.stdout.splitlines()[-1])
    assert (torch.tensor(logits) - recording.logits["fp32.0"][-1]).abs().max() < 1e-4
    assert ids == recording.recorded["chat"][0]["ids"]


def test_a_shard_that_is_missing(published: Path, tmp_path: Path) -> None:
    next(published.glob("*-00002-*.bin")).unlink()
    with pytest.raises(EnvironmentNotReady, match="lacks pytorch_model-00002"):
        convert_checkpoint(published, tmp_path / "out")


@pytest.mark.parametrize("name", ["/etc/passwd", "../x.bin", 7])
def test_an_index_that_leads_elsewhere(published: Path, tmp_path: Path, name: object) -> None:
    index = {"weight_map": {"a": name}}
    (published / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(IntegrityError):
        convert_checkpoint(published, tmp_path / "out")


def test_baichuan2_7b_is_told_apart(tmp_path: Path) -> None:
    source = tmp_path / "7b"
    shutil.copytree(BUNDLED / "baichuan2/a/model", source)
    config = json.loads((source / "config.json").read_text())
    (source / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 4096}))
    with pytest.raises(UsageError, match="Baichuan2-7B"):
        convert_checkpoint(source, tmp_path / "out")


def test_a_head_that_is_not_the_embedding_table(tmp_path: Path) -> None:
    source = tmp_path / "glm"
    shutil.copytree(BUNDLED / "chatglm/a/model", source)
    shard = max(source.glob("*.bin"))
    state = torch.load(shard, weights_only=True)
    state["lm_head.weight"][3, 5] += 1
    torch.save(state, shard)
    with pytest.raises(IntegrityError, match="word_embeddings"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
