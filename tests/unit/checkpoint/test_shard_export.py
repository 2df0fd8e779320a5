from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from kit.checkpoint.shard_export import export_shards, upstream_tensors
from kit.checkpoint.shards import index_directory
from kit.errors import EnvironmentNotReady, IntegrityError, KitError, UsageError
from tests.shapes import cut, parts

MakeState = Callable[..., dict[str, Any]]
Expected = Callable[..., dict[str, torch.Tensor]]


@pytest.fixture
def directory(make_state: MakeState, expected: Expected, tmp_path: Path) -> Path:
    """Our tensors of a small checkpoint."""
    save_file(expected(make_state(vocab=12), torch.float32), tmp_path / "model.safetensors")
    return tmp_path


def export(directory: Path, ranks: int, dtype: Any = "float32", **options: Any) -> list[Path]:
    tensors = upstream_tensors(index_directory(directory))[1]
    paths = [directory / f"mp_rank_{rank:02d}_model_states.pt" for rank in range(ranks)]
    export_shards(tensors, paths, dtype, **options)
    return paths


@settings(
    suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30
)
@given(
    ranks=st.sampled_from([1, 2, 3, 12]),
    layers=st.integers(1, 2),
    heads=st.integers(1, 2),
    source=st.sampled_from([torch.float32, torch.bfloat16]),
    target=st.sampled_from(["float32", "bfloat16", "float16"]),
    chunk_bytes=st.integers(4, 600),
)
def test_shards_are_as_upstream_cuts_them(
    tmp_path: Path,
    make_state: MakeState,
    expected: Expected,
    ranks: int,
    layers: int,
    heads: int,
    source: torch.dtype,
    target: str,
    chunk_bytes: int,
) -> None:
    state = make_state(layers, 2 * heads * ranks, 2 * ranks, 3 * ranks, source)
    save_file(expected(state, source), tmp_path / "model.safetensors")
    paths = export(tmp_path, ranks, target, chunk_bytes=chunk_bytes)
    for path, wanted in zip(paths, cut(state, ranks), strict=True):
        encoder, table = parts(torch.load(path, weights_only=True, mmap=True))
        for found, theirs in ((encoder, parts(wanted)[0]), ({"": table}, {"": parts(wanted)[1]})):
            assert found.keys() == theirs.keys()
            for name, tensor in theirs.items():
                assert found[name].dtype == getattr(torch, target)
                assert torch.equal(found[name], tensor.to(getattr(torch, target))), name


def test_progress_and_infinite_numbers(directory: Path) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm.bias"][2] = 1e5
    tensors["model.layers.0.mlp.up_proj.weight"][1, 1] = -1e5
    save_file(tensors, directory / "model.safetensors")
    done: list[tuple[int, int]] = []
    upstream = upstream_tensors(index_directory(directory))[1]
    paths = [directory / name for name in "ab"]
    options: Any = {"progress": lambda *call: done.append(call)}
    assert export_shards(upstream, paths, "float16", **options) == 2
    assert export_shards(upstream, paths, "float32") == 0
    total = sum(tensor.nbytes for tensor in tensors.values())
    assert done[-1] == (total, total)


@pytest.mark.parametrize(
    ("ranks", "name"), [(8, r"word_embeddings\.weight"), (3, "query_key_value"), (5, "word")]
)
def test_ranks_that_do_not_divide(directory: Path, ranks: int, name: str) -> None:
    with pytest.raises(UsageError, match=f"{ranks} ranks do not divide .*{name}"):
        export(directory, ranks)
    assert not list(directory.glob("*.pt"))


def test_a_pair_of_gate_and_up_row_stays_on_one_rank(
    tmp_path: Path, make_state: MakeState, expected: Expected
) -> None:
    state = expected(make_state(1, 8, 6, 8), torch.float32)
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(UsageError, match=r"4 ranks do not divide .*dense_h_to_4h"):
        export(tmp_path, 4)


def change(directory: Path, to: Callable[[dict[str, torch.Tensor]], object]) -> None:
    tensors = load_file(directory / "model.safetensors")
    to(tensors)
    save_file(tensors, directory / "model.safetensors")


KEY = "model.layers.1.self_attn.k_proj.weight"


@pytest.mark.parametrize(
    ("to", "message"),
    [
        (lambda t: t.pop(KEY), f"the directory lacks: {KEY}"),
        (lambda t: t.pop("model.embed_tokens.weight"), "lacks model.embed_tokens.weight"),
        (lambda t: t.update({"lm_head.weight": torch.ones(2)}), "unknown tensors: lm_head.weight"),
        (lambda t: t.update({KEY: torch.ones(8, 9)}), r"k_proj\.weight is float32 \[8, 9\]"),
        (lambda t: t.update({KEY: t[KEY].half()}), r"is float16 .* float32 \[8, 8\] is needed"),
        (lambda t: t.update({KEY: t[KEY].to(torch.int8)}), "of type I8"),
    ],
)
def test_directories_that_cannot_be_exported(
    directory: Path, to: Callable[..., object], message: str
) -> None:
    change(directory, to)
    with pytest.raises(KitError, match=message) as caught:
        export(directory, 1)
    assert caught.value.hint


def test_no_directory_and_two_conversions_in_one(directory: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="holds no safetensors files"):
        index_directory(tmp_path / "missing")
    save_file({"model.norm.bias": torch.ones(8)}, directory / "model-00002.safetensors")
    with pytest.raises(IntegrityError, match=r"model\.norm\.bias is in .* and in"):
        index_directory(directory)


SMALL_HEADER = b'{"__metadata__":{"a":"b"},"w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}}'


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=6),
    st.integers(0, 8 + len(SMALL_HEADER) + 24),
)
def test_mutated_headers_never_escape(
    tmp_path: Path, mutations: list[tuple[int, int]], length: int
) -> None:
    data = bytearray(len(SMALL_HEADER).to_bytes(8, "little") + SMALL_HEADER + bytes(24))
    for position, byte in mutations:
        data[position % len(data)] = byte
    (tmp_path / "x.safetensors").write_bytes(data[:length])
    try:
        for entry in index_directory(tmp_path).values():
            assert 0 <= entry.offset <= entry.offset + entry.nbytes <= length
    except (IntegrityError, UsageError) as error:
        assert error.hint
