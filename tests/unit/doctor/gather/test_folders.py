"""Adapters that look into the kit's own folders."""

import os
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kit.doctor.facts import Docker, Facts, Image, NotServable, UpstreamTree
from kit.doctor.gather import disk, serving, weights
from kit.doctor.gather.disk import look_at_folders
from kit.doctor.gather.machine import look_at_interpreter, look_at_memory
from kit.doctor.gather.network import look_at_clock
from kit.doctor.gather.weights import look_at_upstream
from kit.doctor.request import Decided, Request, Wanted, read_settings
from kit.errors import UsageError
from kit.lock import LockedFile
from kit.memory.plan.line import Pool
from kit.memory.plan.torch_build import CPU_BUILD
from kit.memory.probes.nvml import Nvidia
from kit.memory.unavailable import Unavailable
from kit.service.missing_weights import WEIGHTS
from kit.settings import Settings
from kit.units import GIB
from kit.upstream.render import render, write_rendered
from kit.upstream.selection import select
from kit.upstream.source import fetch
from kit.upstream.tree import pinned, read_pristine, rewritten_dir
from kit.weights import layers
from kit.weights.convert.record import RECORD_NAME, ConversionRecord, write_record
from kit.weights.folder import checkpoint_dir, converted_dir
from tests.unit.doctor.machines import GPU, plan
from tests.upstream_tree import make_stand_in


@pytest.fixture
def request_(tmp_path):
    return Request(Settings(tmp_path / "data", tmp_path / "state"), environ={})


ON_GPU = Facts(nvidia=Nvidia("580.65.06", (13, 0), (GPU,)))


def test_where_containerd_keeps_images_is_where_room_is_needed(request_, tmp_path, monkeypatch):
    monkeypatch.setattr(disk, "CONTAINERD", tmp_path)
    engine = Docker("29", root=Path("/no/such/folder"), containerd=True)
    room = disk.look(request_, Facts(docker=engine)).docker
    assert (room.what, room.free_bytes > 0) == (f"disk at {tmp_path}", True)


def test_settings_that_can_be_understood():
    settings, problem = read_settings({"HOME": "/h", "KIT_PORT": "9000"})
    assert (settings.port, settings.data_dir, problem) == (
        9000,
        Path("/h/.local/share/spark-kit"),
        None,
    )


def test_one_that_cannot_leaves_the_folders_as_they_are():
    environ = {"HOME": "/h", "KIT_DATA_DIR": "/d", "KIT_PORT": "9000", "KIT_MAX_VRAM": "24G"}
    settings, problem = read_settings(environ)
    assert isinstance(problem, UsageError)
    assert (settings.data_dir, settings.port) == (Path("/d"), 8000)


def test_memory_here(request_):
    found = look_at_memory(request_, Facts())
    assert found.total_bytes > GIB // 2
    assert found.shm_free_bytes
    assert found.locked_bytes is None or found.locked_bytes >= 0


def test_interpreter_here(request_):
    found = look_at_interpreter(request_, Facts())
    assert found.version >= (3, 11)
    assert found.lacking is None or found.lacking.hint


def test_what_is_missing_is_said_as_kit_serve_says_it(request_, monkeypatch):
    import kit.runtime.packages

    monkeypatch.setattr(kit.runtime.packages, "NATIVE_PACKAGES", ("no_such_package",))
    lacking = look_at_interpreter(request_, Facts()).lacking
    assert lacking is not None
    assert lacking.message.endswith("not installed: no_such_package")


def test_clock_is_past_the_kits_own_files(request_):
    found = look_at_clock(request_, Facts())
    assert found.not_before < found.now
    assert found.because == "the kit's files were written here then"


def test_clock_is_past_the_locks_dates(request_):
    entry = LockedFile(1, "0" * 64, "observed", "https://x.example", "2999-01-02")
    layers.record(request_.settings.data_dir, "chat", {"a": entry})
    found = look_at_clock(request_, Facts())
    assert found.not_before == datetime(2999, 1, 2, tzinfo=UTC)
    assert found.because == "the lock has chat since then"


def test_disk_of_a_fresh_machine(request_):
    found = disk.look(request_, Facts(docker=Docker("28", root=Path("/"))))
    assert sum(room.need_bytes for room in found.weights) == pytest.approx(79.9e9, rel=0.01)
    assert all(room.limit == "disk" for room in found.weights)
    assert found.docker.need_bytes == disk.IMAGE_BYTES
    assert look_at_folders(request_, Facts()).unwritable == ()
    assert not request_.settings.data_dir.exists()


def test_what_has_arrived_needs_no_more_room(request_):
    folder = checkpoint_dir(request_.settings.data_dir, WEIGHTS)
    folder.mkdir(parents=True)
    with (folder / "mp_rank_00_model_states.pt").open("wb") as file:
        file.truncate(50 * 10**9)  # sparse: takes no room itself
    left = sum(room.need_bytes for room in disk.look(request_, Facts()).weights)
    assert left == pytest.approx(29.9e9, rel=0.01)


def test_another_model_needs_no_room_for_the_weights(request_, make_model):
    named = replace(request_, wanted=Wanted(str(make_model())))
    assert disk.look(named, Facts()).weights == ()


def test_a_conversion_to_fewer_bits_is_enough(request_, make_model):
    folder = converted_dir(request_.settings.data_dir, WEIGHTS, "int8")
    shutil.copytree(make_model(), folder)
    write_record(folder, ConversionRecord("1", (), None, "int8", {}, {}, {}, {}))
    for wanted in (Wanted(), Wanted(WEIGHTS)):
        assert disk.look(replace(request_, wanted=wanted), Facts()).weights == ()


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(docker=Docker("28"), image=Image("spark-kit:1", True)), None),
        (Facts(docker=Docker("28", remote=True)), Unavailable("the engine is on another machine")),
        (
            Facts(docker=Docker("28", root=Path("/no/such/folder"))),
            Unavailable("/no/such/folder: No such file or directory"),
        ),
        (Facts(), Unavailable("it was not asked for")),
    ],
)
def test_room_for_the_image(request_, facts, expected):
    assert disk.look(request_, facts).docker == expected


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere but to /proc")
def test_a_folder_without_permission(request_, tmp_path):
    tmp_path.chmod(0o500)
    assert [path for path, _ in look_at_folders(request_, Facts()).unwritable]


def test_a_folder_that_cannot_be_written_to(request_):
    settings = replace(request_.settings, data_dir=Path("/proc/spark-kit"))
    found = look_at_folders(replace(request_, settings=settings), Facts())
    assert [path for path, _ in found.unwritable] == [Path("/proc/spark-kit")]


def test_an_empty_data_folder(request_):
    found = weights.look(request_, Facts())
    assert (found.converted, found.damaged, found.unfinished) == ((), (), ())
    assert (found.lock_problem, found.demo_problem) == (None, None)


def test_a_damaged_record(request_):
    folder = converted_dir(request_.settings.data_dir, WEIGHTS, "bf16")
    folder.mkdir(parents=True)
    (folder / RECORD_NAME).write_text("{")
    assert weights.look(request_, Facts()).damaged == (folder,)


def test_a_damaged_lock(request_):
    request_.settings.data_dir.mkdir()
    (request_.settings.data_dir / "kit.lock").write_text("{")
    assert "is missing or damaged" in weights.look(request_, Facts()).lock_problem


def test_a_catalogue_that_cannot_be_read(request_):
    settings = replace(request_.settings, weights_catalogue=Path("/no/such/file"))
    found = weights.look(replace(request_, settings=settings), Facts())
    assert "cannot use the catalogue" in found.catalogue_problem


def test_a_download_that_was_not_finished(request_):
    folder = checkpoint_dir(request_.settings.data_dir, WEIGHTS) / "Tokenizer"
    folder.mkdir(parents=True)
    (folder / "tokenizer.model").write_bytes(b"x" * 100)
    ((name, here, _),) = weights.look(request_, Facts()).unfinished
    assert (name, here) == (WEIGHTS, 100)


def test_a_damaged_demo(request_, monkeypatch, tmp_path):
    copy = tmp_path / "demo"
    shutil.copytree(weights.bundled("demo"), copy)
    (copy / "config.json").write_text("{}")
    lock = weights.bundled("kit.lock")
    monkeypatch.setattr(weights, "bundled", lambda name: copy if name == "demo" else lock)
    assert "config.json has 2 bytes" in weights.look(request_, Facts()).demo_problem


def test_the_demo_is_served_without_a_gpu(request_):
    found = serving.look(request_, Facts())
    assert (found.name, found.real, found.gpus) == ("demo", False, ())
    assert 0 < found.plan.peak_bytes(Pool.HOST) < 2 * GIB
    assert found.rooms[0].limit == "ram"


def test_the_catalogues_chat_model_on_a_gpu(request_):
    found = serving.look(request_, ON_GPU)
    assert found.name == "spark-13b-chat in bf16"
    assert found.real
    assert 24 * GIB < found.plan.peak_bytes(Pool.DEVICE) < 32 * GIB
    vram = [room for room in found.rooms if room.limit == "vram"]
    assert vram[0].free_bytes == GPU.free_bytes


@pytest.mark.parametrize(
    ("card", "budget", "precision"),
    [(24, 30, "int8"), (48, 20, "int8"), (16, 30, "int4"), (4, 30, "int4"), (48, 30, "bf16")],
)
def test_a_smaller_card_is_planned_for_in_what_fits_it(request_, card, budget, precision):
    nvidia = replace(ON_GPU.nvidia, gpus=(replace(GPU, total_bytes=card * GIB),))
    settings = replace(request_.settings, max_vram_bytes=budget * GIB)
    found = serving.look(replace(request_, settings=settings), replace(ON_GPU, nvidia=nvidia))
    assert found.name == f"spark-13b-chat in {precision}"


def test_a_directory_that_is_named(request_, make_model):
    directory = make_model()
    found = serving.look(replace(request_, wanted=Wanted(str(directory))), ON_GPU)
    assert (found.name, found.real, found.gpus) == (directory.name, True, (GPU,))


def test_what_kit_up_would_be_asked_for(request_):
    wanted = Wanted("demo", context=512, max_sequences=3, device="cpu")
    found = serving.look(replace(request_, wanted=wanted), ON_GPU)
    plan = found.plan
    assert (found.gpus, plan.device, plan.context, plan.max_sequences) == ((), "cpu", 512, 3)


def test_upstreams_engine_reads_the_demo_as_it_comes(request_):
    found = serving.look(replace(request_, wanted=Wanted(engine="megatron")), Facts())
    assert (found.name, found.plan.max_sequences) == ("demo", 1)


def test_a_directory_that_is_none(request_, tmp_path):
    found = serving.look(replace(request_, wanted=Wanted(str(tmp_path))), Facts())
    assert isinstance(found, NotServable)
    assert "holds no converted model" in found.reason
    assert "kit weights convert" in found.remedy


def test_a_directory_that_may_not_be_looked_at(request_, monkeypatch):
    def refuse(self):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "exists", refuse)
    found = serving.look(replace(request_, wanted=Wanted("/secret/spark")), Facts())
    assert isinstance(found, NotServable)
    assert found.reason == "/secret/spark: permission denied"
    assert "chmod" in found.remedy


def test_more_context_than_the_model_has(request_):
    found = serving.look(replace(request_, wanted=Wanted("demo", context=10**6)), Facts())
    assert isinstance(found, NotServable)
    assert found.remedy == "--context 2048"


def test_what_has_been_decided(request_):
    decided = Decided("spark", plan(GPU), CPU_BUILD, (GPU,), "container")
    found = serving.look(replace(request_, decided=decided), Facts())
    assert (found.name, found.gpus, found.runtime) == ("spark", (GPU,), "container")
    assert found.plan == plan(GPU)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    return make_stand_in(tmp_path_factory.mktemp("upstream"))


def test_upstream(request_, stand_in):
    settings = replace(
        request_.settings,
        upstream_mirror=str(stand_in.repository),
        upstream_lock=stand_in.lock_path,
    )
    asked = replace(request_, settings=settings)
    path = rewritten_dir(settings)
    assert look_at_upstream(asked, Facts()) == UpstreamTree(path, "absent")
    fetch(settings, None, lambda text: None)
    rendered = render(read_pristine(settings), select(), pinned(settings))
    write_rendered(rendered, path)
    assert look_at_upstream(asked, Facts()).state == "rewritten"
    next(path.rglob("*.py")).write_text("drifted = True\n")
    found = look_at_upstream(asked, Facts())
    assert (found.state, bool(found.problem), bool(found.remedy)) == ("drifted", True, True)


def test_an_outdated_tree(request_):
    path = rewritten_dir(request_.settings)
    path.mkdir(parents=True)
    found = look_at_upstream(request_, Facts())
    assert found.state == "outdated"
    assert "kit upstream" in found.remedy
