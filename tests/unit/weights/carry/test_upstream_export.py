import json
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from kit.errors import EnvironmentNotReady, IntegrityError, UsageError
from kit.weights.carry.export import export_upstream
from kit.weights.convert.convert import convert_checkpoint
from tests.shapes import cut, parts

CHECKPOINT = "mp_rank_00_model_states.pt"


@pytest.fixture
def converted(source: Path, tmp_path: Path) -> Path:
    convert_checkpoint(source, tmp_path / "fp32", precision="fp32")
    return tmp_path / "fp32"


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_there_and_back_again(source: Path, converted: Path, tmp_path: Path, ranks: int) -> None:
    state = torch.load(source / CHECKPOINT)
    exported = export_upstream(converted, tmp_path / "out", ranks=ranks)
    names = [f"mp_rank_{rank:02d}_model_states.pt" for rank in range(ranks)]
    assert list(exported.files) == names
    for name, wanted in zip(names, cut(state, ranks), strict=True):
        path = tmp_path / "out" / name
        assert path.stat().st_size == exported.files[name]
        encoder, table = parts(torch.load(path, weights_only=True))
        assert torch.equal(table, parts(wanted)[1])
        assert encoder.keys() == parts(wanted)[0].keys()
        assert all(torch.equal(encoder[n], tensor) for n, tensor in parts(wanted)[0].items())
    again = convert_checkpoint(tmp_path / "out", tmp_path / "again", precision="fp32")
    first = convert_checkpoint(source, converted, precision="fp32")
    assert (again.tensors, again.support) == (first.tensors, first.support)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_precisions(converted: Path, tmp_path: Path, precision: Any) -> None:
    dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    export_upstream(converted, tmp_path / "out", precision=precision)
    _, table = parts(torch.load(tmp_path / "out" / CHECKPOINT))
    wanted = load_file(converted / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(table, wanted.to(dtypes[precision]))


def test_what_is_in_the_directory(converted: Path, tmp_path: Path) -> None:
    export_upstream(converted, tmp_path / "out")
    names = {path.name: path for path in (tmp_path / "out").iterdir()}
    assert names.keys() == {CHECKPOINT, "config.json", "tokenizer.model", "export.json"}
    arguments = json.loads(names["config.json"].read_text())
    assert arguments["num_attention_heads"] == 4
    assert arguments["localsize"] == 128
    assert arguments["ffn_hidden_size"] == 24
    assert {stat.S_IMODE(path.stat().st_mode) for path in names.values()} == {0o644}
    assert {path.name for path in tmp_path.glob(".out*")} == {".out.lock"}


def test_numbers_beyond_fp16_are_reported(
    source: Path, tmp_path: Path, make_state: Callable[..., Any]
) -> None:
    state = torch.load(source / CHECKPOINT)
    state["module"]["language_model"]["encoder"]["final_layernorm.bias"][3] = 1e6
    torch.save(state, source / CHECKPOINT)
    convert_checkpoint(source, tmp_path / "fp32", precision="fp32")
    found = export_upstream(tmp_path / "fp32", tmp_path / "out", precision="fp16", ranks=2)
    assert found.nonfinite_count == 1


def test_heads_must_be_divided_too(converted: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="8 ranks do not divide 4 attention heads"):
        export_upstream(converted, tmp_path / "out", ranks=8)
    assert not (tmp_path / "out").exists()


def test_an_existing_directory_is_not_replaced_unless_asked(
    converted: Path, tmp_path: Path
) -> None:
    export_upstream(converted, tmp_path / "out")
    with pytest.raises(UsageError, match="exists") as caught:
        export_upstream(converted, tmp_path / "out", ranks=2)
    assert "--overwrite" in caught.value.hint
    with pytest.raises(UsageError, match="inside the output"):
        export_upstream(converted, converted, overwrite=True)
    export_upstream(converted, tmp_path / "out", ranks=2, overwrite=True)
    assert len(list((tmp_path / "out").glob("*.pt"))) == 2


def test_what_cannot_be_exported(source: Path, converted: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="holds no safetensors"):
        export_upstream(source, tmp_path / "out")
    convert_checkpoint(source, tmp_path / "int8", precision="int8")
    with pytest.raises(UsageError, match=r"less than 16 bit: .* is of type I8"):
        export_upstream(tmp_path / "int8", tmp_path / "out")
    with (
        FileLock(tmp_path / ".out.lock"),
        pytest.raises(EnvironmentNotReady, match="another process is writing"),
    ):
        export_upstream(converted, tmp_path / "out")
    (converted / "config.json").unlink()
    with pytest.raises(IntegrityError, match=r"config\.json is missing"):
        export_upstream(converted, tmp_path / "out")


def test_no_space(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    usage = shutil._ntuple_diskusage(10**9, 10**9 - 10, 10)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EnvironmentNotReady, match="the export needs"):
        export_upstream(converted, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_twice_is_once(converted: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = export_upstream(converted, tmp_path / "out", ranks=2)
    before = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    assert export_upstream(converted, tmp_path / "out", ranks=2) == first
    after = {p.name: (p.read_bytes(), p.stat().st_mtime_ns) for p in (tmp_path / "out").iterdir()}
    assert before == after
    with monkeypatch.context() as patch:  # a zip's members have a time, unless they are given none
        patch.setattr(time, "localtime", lambda *_: time.gmtime(1_700_000_000))
        patch.setattr(time, "time", lambda: 1_700_000_000.0)
        export_upstream(converted, tmp_path / "other", ranks=2)
    assert {p.name: p.read_bytes() for p in (tmp_path / "other").iterdir()} == {
        name: content for name, (content, _) in before.items()
    }
    with pytest.raises(UsageError, match="is not this export"):
        export_upstream(converted, tmp_path / "out", ranks=2, precision="bf16")
    shard = tmp_path / "out" / CHECKPOINT
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(UsageError, match="is not this export"):
        export_upstream(converted, tmp_path / "out", ranks=2)
