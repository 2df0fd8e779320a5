"""Processes that the kernel killed because memory ran out, as its log tells.

Records of /dev/kmsg as Documentation/ABI/testing/dev-kmsg describes them:
``priority,sequence,microseconds since boot,flags;text``. Reading it may take a privilege
(kernel.dmesg_restrict), and a container without it has none.
"""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from kit.memory.unavailable import Unavailable
from kit.units import KIB

KMSG = Path("/dev/kmsg")
# A read of /dev/kmsg gives one record, of at most so much (CONSOLE_EXT_LOG_MAX).
_RECORD_BYTES = 8192
_KILL = re.compile(r"(Memory cgroup out|Out) of memory: Kill(?:ed)? process (\d+)")
_RESIDENT = re.compile(r"(?:anon|file|shmem)-rss:(\d+)kB")


@dataclass(frozen=True)
class Kill:
    """One process killed.

    Attributes:
        seconds: since boot.
        scope: whether a control group's limit was reached, or the whole machine's memory.
        resident_bytes: what it held; 0 where an old kernel tells that in another line.
    """

    pid: int
    seconds: float
    scope: Literal["group", "machine"]
    resident_bytes: int


def kills(*, path: Path = KMSG) -> tuple[Kill, ...] | Unavailable:
    """All that the kernel still remembers, the oldest first."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        return Unavailable(f"the kernel's log cannot be read ({error.strerror})")
    try:
        return read_kills(_records(descriptor))
    except OSError as error:
        return Unavailable(f"the kernel's log cannot be read ({error.strerror})")
    finally:
        os.close(descriptor)


def read_kills(records: Iterable[str]) -> tuple[Kill, ...]:
    """The kills among these records."""
    found = []
    for record in records:
        head, _, text = record.partition(";")
        if match := _KILL.search(text):
            seconds = int(head.split(",")[2]) / 1e6
            scope: Literal["group", "machine"] = "machine" if match[1] == "Out" else "group"
            resident = sum(int(kib) * KIB for kib in _RESIDENT.findall(text))
            found.append(Kill(int(match[2]), seconds, scope, resident))
    return tuple(found)


def _records(descriptor: int) -> Iterable[str]:
    """One read gives one record; the oldest may be overwritten meanwhile (EPIPE)."""
    while True:
        try:
            record = os.read(descriptor, _RECORD_BYTES)
        except BlockingIOError:
            return
        except BrokenPipeError:
            continue
        if not record:
            return
        yield record.decode(errors="replace")
