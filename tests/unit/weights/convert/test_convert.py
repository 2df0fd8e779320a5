import json
import os
import signal
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from filelock import FileLock
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import kit
from kit.checkpoint.torchfile import index_checkpoint
from kit.errors import EnvironmentNotReady, IntegrityError, UnsafePickle, UsageError
from kit.weights.convert.convert import convert_checkpoint, nonfinite_text
from kit.weights.convert.record import read_record
from kit.weights.folder import checked_digest, checkpoint_dir, remember

CHECKPOINT = "mp_rank_00_model_states.pt"


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {p.name: (p.stat().st_ino, p.stat().st_mtime_ns) for p in folder.iterdir()}


def test_the_directory_opens_in_transformers(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    record = convert_checkpoint(source, out)
    model = AutoModelForCausalLM.from_pretrained(out, trust_remote_code=True)
    assert model.dtype == torch.bfloat16
    assert model.config.num_attention_heads == 4
    assert model.config.sliding_window == 128
    tokenizer = AutoTokenizer.from_pretrained(out, trust_remote_code=True)
    ids = torch.tensor([tokenizer.encode("words")])
    assert model(ids).logits.isfinite().all()
    assert record.tensors.keys() == load_file(out / "model.safetensors").keys()


def test_a_bad_file_shows_before_a_missing_tokenizer(tmp_path: Path) -> None:
    path = tmp_path / "notzip.pt"
    path.write_bytes(b"no zip at all" * 100)
    with pytest.raises(IntegrityError, match="notzip"):
        convert_checkpoint(path, tmp_path / "out")


def test_a_known_sha256_is_taken_but_not_that_of_another_file(source: Path, tmp_path: Path) -> None:
    known = {source / CHECKPOINT: "a" * 64, source / "other": "b" * 64}
    taken = convert_checkpoint(source, tmp_path / "out", known=known.get)
    assert [s.digest for s in taken.sources] == ["sha256:" + "a" * 64]
    del known[source / CHECKPOINT]
    hashed = convert_checkpoint(source, tmp_path / "hashed", known=known.get)
    content = (source / CHECKPOINT).read_bytes()
    assert hashed.sources[0].digest == f"blake3:{blake3(content).hexdigest()}"
    assert taken.tensors == hashed.tensors


def test_everyone_can_read_and_nothing_else_is_left(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "made" / "out"
    old = os.umask(0o077)
    try:
        convert_checkpoint(source, out)
    finally:
        os.umask(old)
    assert {stat.S_IMODE(path.stat().st_mode) for path in out.iterdir()} == {0o644}
    assert stat.S_IMODE(out.stat().st_mode) == 0o755
    assert {path.name for path in out.parent.iterdir()} == {"out", ".out.lock"}
    assert not [path for path in out.iterdir() if path.name.startswith(".")]


def test_the_record_says_what_was_made_of_what(source: Path, tmp_path: Path) -> None:
    record = convert_checkpoint(source, tmp_path / "out", precision="fp32")
    assert read_record(tmp_path / "out") == record
    content = json.loads((tmp_path / "out" / "conversion.json").read_text())
    assert content["kit_version"] == kit.__version__
    assert content["precision"] == "fp32"
    (file,) = content["sources"]
    assert file["digest"] == f"blake3:{blake3((source / CHECKPOINT).read_bytes()).hexdigest()}"
    assert file["name"] == CHECKPOINT
    assert file["size_bytes"] == (source / CHECKPOINT).stat().st_size
    assert content["lora"] is None
    assert content["nonfinite"] == {}


def test_a_second_time_costs_nothing(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = convert_checkpoint(source, out)
    before = snapshot(out)

    def unexpected(*_: int) -> None:
        raise AssertionError("converted again")

    assert convert_checkpoint(source, out, progress=unexpected) == first
    os.utime(source / CHECKPOINT, ns=(1, 1))  # the same content, copied elsewhere
    assert convert_checkpoint(source, out, progress=unexpected) == first
    assert snapshot(out) == before


def test_a_users_edit_survives_but_a_new_configuration_is_written(
    source: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    convert_checkpoint(source, out)
    weights = snapshot(out)["model.safetensors"]
    config = json.loads((out / "config.json").read_text())
    (out / "config.json").write_text(json.dumps(config | {"window": "exact"}))
    convert_checkpoint(source, out)
    assert json.loads((out / "config.json").read_text())["window"] == "exact"
    convert_checkpoint(source, out, num_heads=2)
    assert json.loads((out / "config.json").read_text())["num_attention_heads"] == 2
    assert snapshot(out)["model.safetensors"] == weights


@pytest.mark.parametrize("damage", ["cut", "missing shard", "missing config"])
def test_a_damaged_conversion_is_made_again(source: Path, tmp_path: Path, damage: str) -> None:
    out = tmp_path / "out"
    record = convert_checkpoint(source, out)
    good = (out / "model.safetensors").read_bytes()
    if damage == "cut":
        os.truncate(out / "model.safetensors", 5000)
    else:
        (out / ("config.json" if "config" in damage else "model.safetensors")).unlink()
    assert convert_checkpoint(source, out) == record
    assert (out / "model.safetensors").read_bytes() == good
    assert (out / "config.json").is_file()


def change_source(source: Path) -> None:
    state = torch.load(source / CHECKPOINT)
    state["module"]["language_model"]["encoder"]["final_layernorm.bias"] += 1
    torch.save(state, source / CHECKPOINT)


@pytest.mark.parametrize("other", ["folder", "file", "source", "precision"])
def test_something_else_is_not_overwritten_unless_asked(
    source: Path, tmp_path: Path, other: str
) -> None:
    out = tmp_path / "out"
    if other == "folder":
        out.mkdir()
        (out / "thesis.txt").write_text("x")
    elif other == "file":
        out.write_text("x")
    else:
        convert_checkpoint(source, out)
        if other == "source":
            change_source(source)
    precision: Any = "fp32" if other == "precision" else "bf16"
    with pytest.raises(UsageError, match="exists and is not") as caught:
        convert_checkpoint(source, out, precision=precision)
    assert "--overwrite" in caught.value.hint
    convert_checkpoint(source, out, precision=precision, overwrite=True)
    bias = load_file(out / "model.safetensors")["model.norm.bias"]
    encoder = torch.load(source / CHECKPOINT)["module"]["language_model"]["encoder"]
    assert torch.equal(bias, encoder["final_layernorm.bias"].to(bias.dtype))
    assert {path.name for path in tmp_path.iterdir()} >= {"out", "chat"}
    assert not (out / "thesis.txt").exists()
    assert not list(tmp_path.glob(".out.[pr]*"))


def test_an_empty_folder_may_be_filled(source: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    convert_checkpoint(source, tmp_path / "out")
    assert (tmp_path / "out" / "conversion.json").is_file()


def test_the_source_is_never_replaced(source: Path) -> None:
    for output in (source, source.parent):
        with pytest.raises(UsageError, match="inside the output"):
            convert_checkpoint(source, output, overwrite=True)
    assert (source / CHECKPOINT).is_file()


def test_two_conversions_exclude_each_other(source: Path, tmp_path: Path) -> None:
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(EnvironmentNotReady, match="another process is writing"),
    ):
        convert_checkpoint(source, tmp_path / "out")
    convert_checkpoint(source, tmp_path / "out")


def test_a_wrong_tokenizer_shows_before_the_conversion(source: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.model").write_text("no model")
    with pytest.raises(IntegrityError):
        convert_checkpoint(source, tmp_path / "out", tokenizer=tmp_path / "bad.model")
    assert not list(tmp_path.glob(".out.partial"))


def test_wrong_facts_and_unsafe_files_leave_nothing(source: Path, tmp_path: Path) -> None:
    (tmp_path / "c.json").write_text('{"hidden_size": 17, "num_attention_heads": 4}')
    with pytest.raises(IntegrityError, match="hidden_size 17, the tensors say 16"):
        convert_checkpoint(source, tmp_path / "out", config=tmp_path / "c.json")

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return os.system, ("true",)

    torch.save({"module": Evil()}, source / CHECKPOINT)
    with pytest.raises(UnsafePickle, match="system"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(source: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EnvironmentNotReady, match="cannot write"):
        convert_checkpoint(source, tmp_path / "file" / "out")


CHILD = """
import os, signal, sys
from pathlib import Path
import kit.weights.convert.convert as convert

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

source, output, where = sys.argv[1:]
options = {"progress": die} if where == "reading" else {}
if where != "reading":
    setattr(convert, where, die)
convert.convert_checkpoint(Path(source), Path(output), **options)
"""


@pytest.mark.parametrize("where", ["reading", "_copy_support", "write_record", "publish"])
def test_kill_9_anywhere_leaves_no_output_and_the_next_try_finishes(
    source: Path, tmp_path: Path, where: str
) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-c", CHILD, source, out, where]
    assert subprocess.run(command, check=False).returncode == -signal.SIGKILL
    assert not out.exists()
    shards = tmp_path.glob(".out.partial/*.safetensors")
    before = {path.stat().st_ino for path in shards} if where != "reading" else set()
    record = convert_checkpoint(source, out)
    assert before <= {path.stat().st_ino for path in out.glob("*.safetensors")}
    assert record.is_intact(out)
    assert load_file(out / "model.safetensors").keys() == record.tensors.keys()


def test_infinite_and_nan_weights_are_refused_by_name(source: Path, tmp_path: Path) -> None:
    state = torch.load(source / CHECKPOINT)
    encoder = state["module"]["language_model"]["encoder"]
    encoder["final_layernorm.bias"][3] = float("inf")
    encoder["layers.0.self_attention.dense.weight"][:2, 1] = float("nan")
    torch.save(state, source / CHECKPOINT)
    for _ in range(2):
        with pytest.raises(IntegrityError, match=r"o_proj\.weight \(2\), model\.norm\.bias \(1\)"):
            convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    record = convert_checkpoint(source, tmp_path / "out", allow_nonfinite=True)
    assert record.nonfinite == {"model.layers.0.self_attn.o_proj.weight": 2, "model.norm.bias": 1}


def test_only_the_first_of_many_bad_tensors_are_named() -> None:
    text = nonfinite_text({"a": 1, "b": 2, "c": 3, "d": 4, "e": 5})
    assert text == "weights are infinite or NaN: a (1), b (2), c (3), 2 more tensors"


def test_what_the_data_folder_has_checked_is_known(source: Path, tmp_path: Path) -> None:
    data, here = tmp_path / "data", source / CHECKPOINT
    held = checkpoint_dir(data, "our-set") / "chat" / CHECKPOINT
    held.parent.mkdir(parents=True)
    held.write_bytes(here.read_bytes())
    known = partial(checked_digest, data)
    assert known(held) is None
    remember(checkpoint_dir(data, "our-set"), f"chat/{CHECKPOINT}", "c" * 64)
    remember(source, CHECKPOINT, "d" * 64)
    assert known(held) == "c" * 64
    assert known(here) is None  # others' folders are not trusted
    held.write_bytes(b"")
    assert known(held) is None


@pytest.mark.parametrize("part", [0.3, 0.5, 0.7])
def test_one_flipped_bit_of_a_tensor_is_no_conversion(
    source: Path, tmp_path: Path, part: float
) -> None:
    """The zip's own checksums are held while the file is read anyway."""
    path = source / "mp_rank_00_model_states.pt"
    data = bytearray(path.read_bytes())
    entry = max(index_checkpoint(path).tensors, key=lambda tensor: tensor.nbytes)
    data[entry.offset + int(entry.nbytes * part)] ^= 1
    path.write_bytes(data)
    with pytest.raises(IntegrityError, match=r"data/\d+ is damaged: its CRC-32 is"):
        convert_checkpoint(source, tmp_path / "out")
    assert not (tmp_path / "out").exists()
