import argparse
import collections
import datetime
import enum
import io
import sys
import types
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kit.checkpoint.torchfile import TensorEntry, index_checkpoint
from kit.errors import EnvironmentNotReady, IntegrityError, KitError, UnsafePickle

Save = Callable[..., Path]
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def wrap(**tensors: object) -> dict[str, Any]:
    return {"module": {"language_model": {"encoder": tensors}}}


def load(entry: TensorEntry) -> torch.Tensor:
    data = bytearray(entry.path.read_bytes()[entry.offset : entry.offset + entry.nbytes])
    return torch.frombuffer(data, dtype=DTYPES[entry.dtype]).reshape(entry.shape)


def repack(
    path: Path, change: Callable[[str, bytes], tuple[str, bytes] | None], **how: Any
) -> None:
    """Rewrite a zip, passing every member through ``change``."""
    with zipfile.ZipFile(path) as old:
        members = [(name, old.read(name)) for name in old.namelist()]
    with zipfile.ZipFile(path, "w", **how) as new:
        for name, content in members:
            if changed := change(name, content):
                new.writestr(*changed)


def test_every_tensor_is_found_where_it_lies(save: Save, make_state: Callable[..., Any]) -> None:
    state = make_state(layers=3, dtype=torch.bfloat16, norm_dtype=torch.float32)
    file = index_checkpoint(save(state))
    encoder = state["module"]["language_model"]["encoder"]
    found = {entry.name: entry for entry in file.tensors}
    assert found.keys() == {f"encoder.{name}" for name in encoder} | {
        "embedding.word_embeddings.weight"
    }
    for name, tensor in encoder.items():
        assert torch.equal(load(found[f"encoder.{name}"]), tensor)
    assert found["encoder.final_layernorm.bias"].dtype == "float32"
    assert file.size_bytes == file.path.stat().st_size


def test_the_upper_levels_are_optional_and_names_may_be_flat(save: Save) -> None:
    ones = torch.ones(2)
    for state in (
        {"encoder": {"a.b": ones}},
        {"module": {"encoder": {"a.b": ones}, "pooler": {"c": ones}}, "optimizer": {"d": ones}},
        {"language_model": {"encoder": {"a.b": ones}}},
        {"module": {"language_model": {"encoder": {"a": {"b": ones}}}}},
        {"module": collections.OrderedDict({"language_model.encoder.a.b": ones})},
        {"model": {"language_model": {"encoder": {"a.b": ones}}}, "args": None},
        {"language_model.rotary_pos_emb.inv_freq": ones, "language_model.encoder.a.b": ones},
    ):
        assert [entry.name for entry in index_checkpoint(save(state)).tensors] == ["encoder.a.b"]


def test_a_name_that_means_two_tensors_is_refused(save: Save) -> None:
    ones = torch.ones(2)
    for state in (
        {"module": {"encoder": {"a": ones}, "language_model": {"encoder": {"a": ones}}}},
        wrap(**{"a.b": ones, "a": {"b": ones}}),
    ):
        with pytest.raises(IntegrityError, match=r"two tensors named encoder\.a"):
            index_checkpoint(save(state))


def test_parameters_and_state_dict_metadata_are_read(save: Save) -> None:
    linear = torch.nn.Linear(3, 2)
    parameter = torch.nn.Parameter(torch.ones(2))
    state = wrap(parameter=parameter) | {"other": linear}
    state["module"]["language_model"]["encoder"].update(linear.state_dict())
    state["module"]["language_model"]["nested"] = linear.state_dict()
    names = {entry.name for entry in index_checkpoint(save(state)).tensors}
    assert names == {
        *("encoder.parameter", "encoder.weight", "encoder.bias", "nested.weight", "nested.bias")
    }


def test_contiguous_views_of_one_storage(save: Save) -> None:
    whole = torch.arange(24.0).reshape(6, 4)
    file = index_checkpoint(save(wrap(whole=whole, rows=whole[2:5], one=whole[:, 1:2][3])))
    entries = {entry.name: entry for entry in file.tensors}
    assert torch.equal(load(entries["encoder.rows"]), whole[2:5])
    assert load(entries["encoder.one"]).tolist() == [13.0]
    assert entries["encoder.rows"].offset == entries["encoder.whole"].offset + 2 * 4 * 4


@pytest.mark.parametrize("view", [lambda t: t.T, lambda t: t[:, :2], lambda t: t[0:1].expand(3, 4)])
def test_other_views_are_refused_by_name(save: Save, view: Callable[[Any], Any]) -> None:
    with pytest.raises(IntegrityError, match=r"encoder\.bad is not contiguous"):
        index_checkpoint(save(wrap(bad=view(torch.ones(6, 4)))))


def test_other_types_are_refused_by_name_but_only_in_the_model(save: Save) -> None:
    index_checkpoint(save(wrap(good=torch.ones(1)) | {"rng": torch.ones(3, dtype=torch.uint8)}))
    with pytest.raises(IntegrityError, match=r"encoder\.bad is of type 'torch\.LongStorage'"):
        index_checkpoint(save(wrap(bad=torch.ones(3, dtype=torch.int64))))


class ModelType(enum.Enum):
    """Stands for the enum of upstream's that its training arguments hold."""

    encoder_or_decoder = 1


def test_what_training_writes_beside_the_tensors_is_skipped(
    save: Save, make_state: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("megatron", "megatron.core", "megatron.core.enums"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setattr(sys.modules["megatron.core.enums"], "ModelType", ModelType, raising=False)
    monkeypatch.setattr(ModelType, "__module__", "megatron.core.enums")
    state = make_state() | {
        "args": argparse.Namespace(
            params_dtype=torch.bfloat16,
            model_type=ModelType.encoder_or_decoder,
            device=torch.device("cpu"),
        ),
        "param_shapes": [collections.OrderedDict(a=torch.Size([3, 4]))],
        "torch_rng_state": torch.get_rng_state(),
        "global_steps": 7,
        "saved_to": Path("/ckpt"),
        "started": datetime.datetime(2024, 1, 1),
        "fp8": [torch.ones(2).to(torch.float8_e4m3fn)],
        "sparse": torch.eye(2).to_sparse(),
        "names": {"a", "b"},
    }
    path = save(state)
    with pytest.raises(Exception, match="Weights only load failed"):
        torch.load(path, weights_only=True)
    assert len(index_checkpoint(path).tensors) == 2 * 12 + 3


def test_fp8_weights_are_refused_by_name(save: Save) -> None:
    with pytest.raises(IntegrityError, match=r"encoder\.a is of type 'torch\.float8_e4m3fn'"):
        index_checkpoint(save(wrap(a=torch.ones(2).to(torch.float8_e4m3fn))))


def test_the_fingerprint_follows_the_tensors(save: Save) -> None:
    fingerprints = {
        index_checkpoint(save(wrap(a=tensor), folder)).fingerprint
        for folder, tensor in (("1", torch.zeros(4)), ("2", torch.ones(4)), ("3", torch.ones(4)))
    }
    assert len(fingerprints) == 2


def test_a_malicious_checkpoint_is_refused(save: Save) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return exec, ("raise SystemExit('executed')",)

    with pytest.raises(UnsafePickle, match=r"builtin.*\.exec"):
        index_checkpoint(save(wrap(a=torch.ones(1)) | {"evil": Evil()}))


def test_old_torch_format(tmp_path: Path) -> None:
    torch.save(wrap(a=torch.ones(1)), tmp_path / "x.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(IntegrityError, match=r"old format") as caught:
        index_checkpoint(tmp_path / "x.pt")
    assert "torch.save" in caught.value.hint


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n<!DOCTYPE HTML><html>404</html>", "is a web page"),
        (b"something else", "not a torch checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 3\n", "LFS pointer"),
    ],
)
def test_other_files(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.pt").write_bytes(content)
    with pytest.raises(IntegrityError, match=message):
        index_checkpoint(tmp_path / "x.pt")


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentNotReady, match="No such file"):
        index_checkpoint(tmp_path / "x.pt")


def test_truncations_everywhere(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    content = path.read_bytes()
    for length in range(len(content) - 1, 4, -97):
        path.write_bytes(content[:length])
        with pytest.raises(IntegrityError, match="cut off"):
            index_checkpoint(path)


def test_a_zip_of_something_else(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.pt", "w") as archive:
        archive.writestr("word/document.xml", "x")
    with pytest.raises(IntegrityError, match=r"without a torch pickle"):
        index_checkpoint(tmp_path / "x.pt")


def test_a_packed_again_file(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    repack(path, lambda *member: member, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(IntegrityError, match="compressed"):
        index_checkpoint(path)


def test_a_missing_storage(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    repack(path, lambda *member: None if member[0].endswith("data/0") else member)
    with pytest.raises(IntegrityError, match="data/0 is missing"):
        index_checkpoint(path)


def test_a_storage_shorter_than_its_tensor(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    repack(path, lambda name, data: (name, data[:1196] if name.endswith("data/0") else data))
    with pytest.raises(IntegrityError, match=r"encoder\.a needs bytes 0 to 1200 of .* 1196 bytes"):
        index_checkpoint(path)


def members(path: Path) -> dict[str, zipfile.ZipInfo]:
    with zipfile.ZipFile(path) as archive:
        return {info.filename.partition("/")[2]: info for info in archive.infolist()}


def patch(path: Path, offset: int, new: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(new)


def directory_entry(path: Path, name: str) -> int:
    """Where the directory's entry of a member starts."""
    data = path.read_bytes()
    return data.rindex(b"PK\x01\x02", 0, data.rindex(name.encode()))


def test_a_flipped_bit_in_the_pickle_is_found(save: Save) -> None:
    path = save(wrap(a=torch.ones(4, 4)))
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(members(path)["data.pkl"].filename)
    start = path.read_bytes().index(pickled)
    patch(path, start + pickled.index(b"a"), b"b")
    with pytest.raises(IntegrityError, match=r"data\.pkl is damaged: its CRC-32 is"):
        index_checkpoint(path)


def test_checksums_are_those_of_the_contents_in_the_order_of_the_file(save: Save) -> None:
    path = save(wrap(a=torch.ones(40, 4), b=torch.zeros(3)))
    data, found = path.read_bytes(), index_checkpoint(path).checksums
    assert [each.offset for each in found] == sorted(each.offset for each in found)
    assert {each.name.partition("/")[2] for each in found} == members(path).keys()
    for each in found:
        assert zlib.crc32(data[each.offset : each.offset + each.nbytes]) == each.crc32


def test_a_file_without_checksums_is_read(save: Save) -> None:
    torch.serialization.set_crc32_options(False)
    try:
        path = save(wrap(a=torch.ones(4)))
    finally:
        torch.serialization.set_crc32_options(True)
    file = index_checkpoint(path)
    assert file.checksums == ()
    assert torch.equal(load(file.tensors[0]), torch.ones(4))


def test_a_member_that_is_another_ones_bytes_is_refused(save: Save) -> None:
    path = save(wrap(a=torch.ones(4), b=torch.zeros(4)))
    entry, other = directory_entry(path, "data/1"), members(path)["data/0"]
    patch(path, entry + 42, other.header_offset.to_bytes(4, "little"))
    with pytest.raises(IntegrityError, match=r"data/\d .*(overlap|contradicts)"):
        index_checkpoint(path)


@pytest.mark.parametrize(
    ("field", "new", "message"),
    [
        (6, b"\0\0", "contradicts the directory"),  # flags
        (8, b"\x08\0", "contradicts the directory"),  # method
        (14, b"\1\2\3\4", "contradicts the directory"),  # CRC-32
        (18, b"\1\0\0\0", "contradicts the directory"),  # size
        (26, b"\x0c\0", "contradicts the directory"),  # length of the name
        (28, b"\1\0", "header that is damaged"),  # length of the extra field
        (30, b"X", "contradicts the directory"),  # name
        (0, b"XX", "does not lie where it should"),
    ],
)
def test_a_local_header_that_says_something_else(
    save: Save, field: int, new: bytes, message: str
) -> None:
    path = save(wrap(a=torch.ones(4)))
    patch(path, members(path)["data/0"].header_offset + field, new)
    with pytest.raises(IntegrityError, match=f"data/0 .*{message}"):
        index_checkpoint(path)


def test_a_size_that_reaches_into_the_next_member(save: Save) -> None:
    path = save(wrap(a=torch.ones(4), b=torch.zeros(4)))
    entry = directory_entry(path, "data/0")
    patch(path, entry + 20, (400).to_bytes(4, "little") * 2)
    with pytest.raises(IntegrityError, match="members overlap"):
        index_checkpoint(path)


def test_bytes_before_the_first_member(save: Save) -> None:
    path = save(wrap(a=torch.ones(4)))
    path.write_bytes(b"x" * 64 + path.read_bytes())
    with pytest.raises(IntegrityError, match="bytes precede it"):
        index_checkpoint(path)


def test_big_endian(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    repack(path, lambda name, data: (name, b"big" if name.endswith("byteorder") else data))
    with pytest.raises(IntegrityError, match="big-endian"):
        index_checkpoint(path)


def test_two_members_of_one_name(save: Save) -> None:
    path = save(wrap(a=torch.ones(300)))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr(archive.namelist()[0], b"another pickle")
    with pytest.raises(IntegrityError, match="two members"):
        index_checkpoint(path)


@pytest.mark.parametrize("state", [{}, [], {"module": {"encoder": torch.ones(1)}}, torch.ones(1)])
def test_no_language_model(save: Save, state: object) -> None:
    with pytest.raises(IntegrityError, match="no tensors under module"):
        index_checkpoint(save(state))


def test_a_dictionary_in_itself_and_endless_names(save: Save) -> None:
    state = wrap(a=torch.ones(1))
    state["module"]["language_model"]["self"] = state["module"]
    deep: dict[str, Any] = {"leaf": torch.ones(1)}
    for _ in range(300):
        deep = {"x" * 10: deep}
    state["module"]["language_model"]["deep"] = deep
    assert len(index_checkpoint(save(state)).tensors) == 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8))
def test_mutated_files_never_escape(tmp_path: Path, mutations: list[tuple[int, int]]) -> None:
    buffer = io.BytesIO()
    torch.save(wrap(a=torch.ones(4), b=torch.ones(2, 3)), buffer)
    data = bytearray(buffer.getvalue())
    for position, byte in mutations:
        data[position % len(data)] = byte
    path = tmp_path / "x.pt"
    path.write_bytes(data)
    try:
        for entry in index_checkpoint(path).tensors:
            assert 0 <= entry.offset <= entry.offset + entry.nbytes <= len(data)
    except KitError as error:
        assert error.hint
