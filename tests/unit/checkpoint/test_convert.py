import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from blake3 import blake3
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file

from kit.checkpoint.convert import Conversion, Converted, convert_tensors
from kit.checkpoint.encoding import OutputDType
from kit.checkpoint.model import read_model
from kit.errors import EnvironmentNotReady, IntegrityError

Save = Callable[..., Path]
MakeState = Callable[..., dict[str, Any]]
Expected = Callable[..., dict[str, torch.Tensor]]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def convert(
    path: Path, directory: Path, dtype: OutputDType = "bfloat16", **options: Any
) -> Converted:
    model = read_model([path])
    return convert_tensors(Conversion(model.files, model.mappings, dtype), directory, **options)


def load(directory: Path) -> dict[str, torch.Tensor]:
    files = sorted(directory.glob("*.safetensors"))
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        integers = torch.int16 if tensor.dtype == torch.bfloat16 else torch.int32
        assert torch.equal(found[name].view(integers), tensor.view(integers)), name


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(
    layers=st.integers(1, 3),
    hidden=st.integers(1, 9),
    ffn=st.integers(1, 9),
    vocab=st.integers(1, 20),
    source=st.sampled_from([torch.float32, torch.float16, torch.bfloat16]),
    norms=st.sampled_from([torch.float32, None]),
    target=st.sampled_from(["bfloat16", "float32"]),
    chunk_bytes=st.integers(4, 400),
    max_shard_bytes=st.integers(400, 5000),
)
def test_bit_for_bit_as_torch_for_any_shape_type_chunk_and_shard_size(
    tmp_path: Path,
    make_state: MakeState,
    expected: Expected,
    layers: int,
    hidden: int,
    ffn: int,
    vocab: int,
    source: torch.dtype,
    norms: torch.dtype | None,
    target: Any,
    chunk_bytes: int,
    max_shard_bytes: int,
) -> None:
    state = make_state(layers, hidden, ffn, vocab, source, norms)
    torch.save(state, tmp_path / "x.pt")
    out = tmp_path / "out"
    shutil.rmtree(out, ignore_errors=True)
    convert(
        tmp_path / "x.pt",
        out,
        dtype=target,
        chunk_bytes=chunk_bytes,
        max_shard_bytes=max_shard_bytes,
    )
    assert_same(load(out), expected(torch.load(tmp_path / "x.pt"), DTYPES[target]))


def test_one_shard_is_model_safetensors(save: Save, make_state: MakeState, tmp_path: Path) -> None:
    result = convert(save(make_state()), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    assert result.files == {"model.safetensors": file.stat().st_size}
    with safe_open(file, "pt") as opened:
        assert opened.metadata() == {"format": "pt", "written_by": "spark-kit"}
    header_bytes = 8 + int.from_bytes(file.read_bytes()[:8], "little")
    assert header_bytes % 4096 == 0
    assert stat.S_IMODE(file.stat().st_mode) == 0o644


def test_several_shards_have_an_index(save: Save, make_state: MakeState, tmp_path: Path) -> None:
    result = convert(save(make_state(hidden=16)), tmp_path / "out", max_shard_bytes=3000)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_bytes())
    count = len(result.files) - 1
    assert count > 2
    for number in range(1, count + 1):
        file = f"model-{number:05}-of-{count:05}.safetensors"
        names = {name for name, of in index["weight_map"].items() if of == file}
        assert load_file(tmp_path / "out" / file).keys() == names
    assert index["weight_map"].keys() == result.tensors.keys()
    assert index["metadata"]["total_size"] == sum(
        tensor.nbytes for tensor in load(tmp_path / "out").values()
    )


def test_hashes_are_those_of_the_bytes(save: Save, make_state: MakeState, tmp_path: Path) -> None:
    path = save(make_state())
    result = convert(path, tmp_path / "out", chunk_bytes=64)
    assert result.sources == (f"blake3:{blake3(path.read_bytes()).hexdigest()}",)
    for name, tensor in load(tmp_path / "out").items():
        content = tensor.view(torch.uint8).numpy().tobytes()
        assert result.tensors[name] == blake3(content).hexdigest()


def test_overlapping_storages_are_read_and_hashed_once(
    save: Save, make_state: MakeState, expected: Expected, tmp_path: Path
) -> None:
    state = make_state()
    encoder = state["module"]["language_model"]["encoder"]
    encoder["layers.1.mlp.dense_4h_to_h.bias"] = encoder["layers.0.self_attention.dense.weight"][3]
    encoder["final_layernorm.bias"] = encoder["layers.0.self_attention.dense.weight"][7]
    path = save(state)
    result = convert(path, tmp_path / "out", chunk_bytes=100)
    assert result.sources == (f"blake3:{blake3(path.read_bytes()).hexdigest()}",)
    assert_same(load(tmp_path / "out"), expected(state, torch.bfloat16))


def test_infinite_and_nan_weights_are_counted(
    save: Save, make_state: MakeState, tmp_path: Path
) -> None:
    state = make_state()
    gated = state["module"]["language_model"]["encoder"]["layers.1.mlp.dense_h_to_4h.weight"]
    gated[3, 2], gated[4, 0], gated[5, 1] = float("nan"), float("inf"), 3.4e38
    gate, up = (f"model.layers.1.mlp.{name}_proj.weight" for name in ("gate", "up"))
    assert convert(save(state), tmp_path / "bf16").nonfinite == {gate: 1, up: 2}
    assert convert(save(state), tmp_path / "fp32", dtype="float32").nonfinite == {gate: 1, up: 1}
    found = load(tmp_path / "bf16")
    assert found["model.layers.1.mlp.up_proj.weight"][1, 2].isnan()
    assert found["model.layers.1.mlp.gate_proj.weight"][2, 0].isinf()


def test_progress_runs_to_the_size_of_the_source(
    save: Save, make_state: MakeState, tmp_path: Path
) -> None:
    path = save(make_state())
    calls: list[tuple[int, int]] = []
    convert(path, tmp_path / "out", chunk_bytes=1000, progress=lambda *call: calls.append(call))
    size = path.stat().st_size
    assert calls == sorted(calls)
    assert calls[-1] == (size, size)
    assert len(calls) > size // 1000


def shard_inodes(directory: Path) -> dict[str, tuple[int, int]]:
    return {
        path.name: (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.glob("*.safetensors")
    }


class StoppedError(Exception):
    pass


def stop_after(limit_bytes: int) -> Callable[[int, int], None]:
    def progress(done_bytes: int, total_bytes: int) -> None:
        if done_bytes > limit_bytes:
            raise StoppedError

    return progress


@pytest.fixture
def interrupted(save: Save, make_state: MakeState, tmp_path: Path) -> tuple[Path, Path]:
    """A source and the work directory of its conversion, stopped in the middle."""
    path = save(make_state(layers=4))
    options: dict[str, Any] = {"max_shard_bytes": 500, "chunk_bytes": 64}
    with pytest.raises(StoppedError):
        convert(path, tmp_path / "out", progress=stop_after(path.stat().st_size // 2), **options)
    return path, tmp_path / "out"


def test_finished_shards_are_not_written_again(
    interrupted: tuple[Path, Path], expected: Expected
) -> None:
    path, out = interrupted
    (out / "stray").write_text("x")
    before = shard_inodes(out)
    assert len(before) > 3
    result = convert(path, out, max_shard_bytes=500, chunk_bytes=64)
    after = shard_inodes(out)
    kept = [name for name in before if after[name] == before[name]]
    assert len(kept) == len(before) - 1  # all but the one in work
    assert not (out / "stray").exists()
    assert_same(load(out), expected(torch.load(path), torch.bfloat16))
    fresh = convert(path, out.with_name("fresh"), max_shard_bytes=500)
    assert result == fresh


@pytest.mark.parametrize("change", ["content", "mtime", "precision", "shard size", "journal"])
def test_a_change_starts_over(
    interrupted: tuple[Path, Path], make_state: MakeState, expected: Expected, change: str
) -> None:
    path, out = interrupted
    options: dict[str, Any] = {"max_shard_bytes": 500}
    dtype = torch.bfloat16
    if change == "content":
        state = make_state(layers=4)
        state["module"]["language_model"]["embedding"]["word_embeddings"]["weight"] += 1
        status = path.stat()
        torch.save(state, path)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    elif change == "mtime":
        os.utime(path, ns=(1, 1))
    elif change == "precision":
        options["dtype"], dtype = "float32", torch.float32
    elif change == "shard size":
        options["max_shard_bytes"] = 400
    else:
        (out / ".progress.json").write_text('{"key"')
    before = shard_inodes(out)
    convert(path, out, **options)
    assert not set(before.items()) & set(shard_inodes(out).items())
    assert_same(load(out), expected(torch.load(path), dtype))


def test_a_finished_shard_that_was_cut_is_made_again(
    interrupted: tuple[Path, Path], expected: Expected
) -> None:
    path, out = interrupted
    os.truncate(sorted(out.glob("*.safetensors"))[0], 5000)
    convert(path, out, max_shard_bytes=500)
    assert_same(load(out), expected(torch.load(path), torch.bfloat16))


def test_a_source_that_changes_meanwhile_is_noticed(
    save: Save, make_state: MakeState, tmp_path: Path
) -> None:
    path = save(make_state())
    with pytest.raises(IntegrityError, match="changed while"):
        convert(path, tmp_path / "out", progress=lambda *_: os.utime(path, ns=(5, 5)))
    path = save(make_state())
    with pytest.raises(IntegrityError, match="shorter"):
        convert(
            path, tmp_path / "out", chunk_bytes=256, progress=lambda *_: os.truncate(path, 1000)
        )


def test_no_space(
    save: Save, make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000)  # type: ignore[attr-defined]
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(EnvironmentNotReady, match="free; the conversion needs"):
        convert(save(make_state()), tmp_path / "out")


def test_a_disk_that_fills_up(save: Save, make_state: MakeState, tmp_path: Path) -> None:
    path = save(make_state())

    def full(*_: int) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(EnvironmentNotReady, match="no room in") as caught:
        convert(path, tmp_path / "out", progress=full)
    assert "kept" in caught.value.hint
