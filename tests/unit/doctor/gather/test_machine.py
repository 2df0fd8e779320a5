import pytest

from kit.doctor.gather.machine import ROOT, module_version, observe, wsl_version

PROPRIETARY = (
    "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 02:06:39 UTC 2025\n"
)
OPEN = (
    "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs)\n"
    "GCC version:  gcc version 13.3.0 (Ubuntu 13.3.0-6ubuntu2)\n"
)


@pytest.mark.parametrize(
    ("text", "version"),
    [(PROPRIETARY, "570.124.06"), (OPEN, "580.65.06"), ("", None), ("nonsense", None)],
)
def test_version_of_the_module(text, version):
    assert module_version(text) == version


@pytest.mark.parametrize(
    ("kernel", "version"),
    [
        ("6.8.0-45-generic", None),
        ("5.15.153.1-microsoft-standard-WSL2", 2),
        ("4.4.0-19041-Microsoft", 1),
    ],
)
def test_wsl(kernel, version):
    assert wsl_version(kernel) == version


def write(root, **files):
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)


def device(root, address, vendor, kind):
    folder = root / "sys/bus/pci/devices" / address
    folder.mkdir(parents=True)
    (folder / "vendor").write_text(f"{vendor}\n")
    (folder / "class").write_text(f"{kind}\n")


def test_signs_of_nvidia_hardware(tmp_path):
    device(tmp_path, "0000:00:02.0", "0x8086", "0x030000")
    device(tmp_path, "0000:01:00.0", "0x10de", "0x030000")
    device(tmp_path, "0000:01:00.1", "0x10de", "0x040300")  # its sound device
    device(tmp_path, "0000:41:00.0", "0x10de", "0x030200")  # a GPU without video
    write(tmp_path, proc__driver__nvidia__version=OPEN, sys__module__nouveau__x="")
    found = observe(tmp_path)
    assert found.nvidia_cards == ("0000:01:00.0", "0000:41:00.0")
    assert found.nvidia_module == "580.65.06"
    assert found.nouveau


def test_cpu_flags(tmp_path):
    write(
        tmp_path, proc__cpuinfo="processor\t: 0\nflags\t\t: fpu avx2\nprocessor\t: 1\nflags\t: x\n"
    )
    assert observe(tmp_path).cpu_flags == {"fpu", "avx2"}
    write(tmp_path, proc__cpuinfo="Features\t: fp asimd\n")
    assert observe(tmp_path).cpu_flags == {"fp", "asimd"}


def test_nothing_to_be_seen(tmp_path):
    found = observe(tmp_path)
    assert (found.cpu_flags, found.nvidia_cards, found.nvidia_module) == (frozenset(), (), None)
    assert found.container is None
    assert not found.nouveau


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        (".dockerenv", "", "docker"),
        ("run/.containerenv", "", "podman"),
        ("run/systemd/container", "lxc\n", "lxc"),
    ],
)
def test_containers(tmp_path, name, content, kind):
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    assert observe(tmp_path).container == kind


def test_here():
    found = observe(ROOT)
    assert found.cpus >= 1
    assert found.arch
    assert found.kernel
