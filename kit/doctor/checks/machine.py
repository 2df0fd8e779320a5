"""Area ``machine``: what torch's packages ask of kernel, C library and CPU."""

from kit.doctor.check import check, known
from kit.doctor.facts import Facts
from kit.doctor.finding import Evidence, Finding, dotted, failure, passed, skipped, warning
from kit.memory.unavailable import Unavailable

OLDEST_GLIBC = (2, 28)
"""By the platform tag of torch's wheels from 2.7 on: manylinux_2_28."""
_FLAGS = {"x86_64": "avx2", "aarch64": "asimd"}


@check("machine.platform", "an architecture and a C library with packages", reads=["machine"])
def platform(facts: Facts) -> Finding:
    """x86-64 or 64-bit Arm, and glibc."""
    machine = known(facts.machine)
    wheels = "what torch's wheels are built for: x86_64 or aarch64, glibc 2.28 or later"
    remedy = "use a Linux with glibc on x86-64 or 64-bit Arm, such as Debian 12 or Ubuntu 22.04"
    if machine.arch not in _FLAGS:
        seen = Evidence("uname -m", machine.arch, wheels)
        return failure(f"no packages for {machine.arch}", seen, remedy=remedy)
    if isinstance(machine.libc, Unavailable):
        seen = Evidence("confstr(CS_GNU_LIBC_VERSION)", machine.libc.reason, wheels)
        return failure("no packages for this C library", seen, remedy=remedy)
    name, version = machine.libc
    text = f"{name} {dotted(version)}"
    if version < OLDEST_GLIBC:
        seen = Evidence("confstr(CS_GNU_LIBC_VERSION)", text, wheels)
        return failure(f"{text} is too old", seen, remedy=remedy)
    return passed(f"Linux {machine.kernel} on {machine.arch}, {text}")


@check("machine.cpu", "vector instructions that torch is fast with", reads=["machine"])
def cpu(facts: Facts) -> Finding:
    """AVX2 on x86-64."""
    machine = known(facts.machine)
    flag = _FLAGS.get(machine.arch)
    if flag is None or not machine.cpu_flags:
        return skipped("/proc/cpuinfo does not list the CPU's features")
    if flag not in machine.cpu_flags:
        return warning(
            f"the CPU has no {flag.upper()}: on it, models are many times slower",
            Evidence("/proc/cpuinfo", f"no {flag}", flag),
            remedy="serve on a GPU, or on a CPU from 2015 or later; in a virtual machine, pass the "
            "host's CPU through",
        )
    return passed(f"{machine.cpus} CPUs with {flag.upper()}")


@check("machine.wsl", "WSL, if this is one, is of version 2", reads=["machine"])
def wsl(facts: Facts) -> Finding:
    """WSL 1 has no GPU and no containers."""
    machine = known(facts.machine)
    if machine.wsl is None:
        return passed("not the Windows Subsystem for Linux")
    if machine.wsl == 1:
        return failure(
            "WSL 1 has neither GPUs nor containers",
            Evidence("kernel release", machine.kernel, "a release of WSL 2"),
            remedy="in Windows: wsl --set-version DISTRIBUTION 2",
        )
    return passed("WSL 2: the GPU's driver is Windows'; .wslconfig sets the RAM")
