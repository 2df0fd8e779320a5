import pickletools
import zipfile
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint import shard_export
from kit.checkpoint.shard_export import TorchWriter, pickled
from kit.checkpoint.torchfile import index_checkpoint

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def write(path: Path, tensors: dict[str, torch.Tensor], dtype: str, piece: int = 7) -> None:
    """Tensors under ``encoder``, in pieces of a few bytes."""
    tree = {
        "module": {"language_model": {"encoder": {n: tuple(t.shape) for n, t in tensors.items()}}}
    }
    with TorchWriter(path, tree, dtype) as file:
        for tensor in tensors.values():
            content = tensor.reshape(-1).view(torch.uint8).numpy().data
            with file.tensor(tuple(tensor.shape)) as write_bytes:
                for start in range(0, len(content), piece):
                    write_bytes(content[start : start + piece])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    shapes=st.dictionaries(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
        st.lists(st.integers(0, 9), max_size=3),
        max_size=4,
    ),
    dtype=st.sampled_from(sorted(DTYPES)),
)
def test_torch_loads_it_in_every_way(tmp_path: Path, shapes, dtype: str) -> None:
    tensors = {name: torch.randn(shape).to(DTYPES[dtype]) for name, shape in shapes.items()}
    path = tmp_path / "x.pt"
    write(path, tensors, dtype)
    for options in ({}, {"mmap": True}, {"weights_only": False}):
        found = torch.load(path, **options)["module"]["language_model"]["encoder"]
        assert list(found) == list(tensors)
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)
        assert all(found[name].dtype == DTYPES[dtype] for name in tensors)


@pytest.mark.parametrize("zip64_from", [None, 0])
def test_tensors_are_aligned_in_files_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zip64_from: int | None
) -> None:
    """Members of 2 GiB and more have a longer header; here, all of them have it."""
    if zip64_from is not None:
        monkeypatch.setattr(shard_export, "ZIP64_FROM_BYTES", zip64_from)
    path = tmp_path / "x.pt"
    tensors = {"a": torch.randn(5), "b": torch.randn(3, 7), "c": torch.randn(1)}
    write(path, tensors, "float32")
    for entry in index_checkpoint(path).tensors:
        assert entry.offset % 64 == 0
    found = torch.load(path, mmap=True)["module"]["language_model"]["encoder"]
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None  # every CRC-32


def test_the_pickle_does_what_torchs_does(tmp_path: Path) -> None:
    """The same globals and no more: nothing that a strict reader would refuse."""
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(70_000, 2)}
    torch.save(tensors, tmp_path / "x.pt")
    with zipfile.ZipFile(tmp_path / "x.pt") as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("data.pkl")]
        theirs = archive.read(name)
    ours = pickled({name: tuple(tensor.shape) for name, tensor in tensors.items()}, "float32")

    def globals_of(pickle: bytes) -> set[str]:
        return {str(a) for opcode, a, _ in pickletools.genops(pickle) if opcode.name == "GLOBAL"}

    assert globals_of(ours) == globals_of(theirs)


def test_equal_tensors_make_equal_files(tmp_path: Path) -> None:
    for name in ("x", "y"):
        write(tmp_path / name, {"a": torch.ones(3)}, "bfloat16")
    assert (tmp_path / "x").read_bytes() == (tmp_path / "y").read_bytes()


def test_an_error_in_the_middle_leaves_no_open_file(tmp_path: Path) -> None:
    with (
        pytest.raises(KeyError),
        TorchWriter(tmp_path / "x.pt", {"a": (2,)}, "float32") as file,
        file.tensor((2,)) as write_bytes,
    ):
        write_bytes(memoryview(bytes(4)))
        raise KeyError
    assert file._file.closed
