"""What the server and its ranks tell each other, over one socket per rank.

The server sends a :class:`Task`, then a :class:`Forward` per forward pass to every rank, and
:class:`End`. A rank sends :class:`Hello`, :class:`Progress` and :class:`Loaded`, then one
:class:`Done` per forward pass; or :class:`Failed`. Both sides are the kit's own processes and the
socket lies in a folder of the user's, so the messages are pickled.
"""

from dataclasses import dataclass
from pathlib import Path

from kit.errors import KitError
from kit.serve.gpu import DeviceMemory


@dataclass(frozen=True)
class Task:
    """What a rank is to load.

    Attributes:
        tree: the rewritten upstream tree.
        arguments: upstream's command line.
        rendezvous: a file where the ranks find each other (torch's ``file://`` initialisation:
            no port is opened for it).
        device: "cpu" or "cuda".
        capacity: positions of the KV cache, which holds one sequence.
        threads: for torch on the CPU; None leaves its default.
        max_vram_bytes: what the rank's torch may take of its GPU; None: all.
    """

    tree: Path
    arguments: tuple[str, ...]
    rendezvous: Path
    device: str
    capacity: int
    threads: int | None = None
    max_vram_bytes: int | None = None


@dataclass(frozen=True)
class Forward:
    """One forward pass of one sequence.

    Attributes:
        start: position of the first token; 0 begins a sequence: the KV cache is made anew.
        tokens: those that follow what was read before.
    """

    start: int
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class End:
    """There is nothing more to do."""


ToRank = Task | Forward | End


@dataclass(frozen=True)
class Hello:
    """The first words of a rank."""

    rank: int


@dataclass(frozen=True)
class Progress:
    """How far loading is; see :data:`kit.serve.engine.Progress`."""

    phase: str
    fraction: float


@dataclass(frozen=True)
class Loaded:
    """The model is there.

    Attributes:
        weights_bytes: of this rank's parameters.
        memory: None on the CPU.
    """

    weights_bytes: int
    memory: DeviceMemory | None


@dataclass(frozen=True)
class Done:
    """A forward pass has been made.

    Attributes:
        scores: of the last position, fp32 ``[vocab]`` in the machine's byte order; from rank 0.
        memory: None on the CPU.
    """

    scores: bytes
    memory: DeviceMemory | None


@dataclass(frozen=True)
class Failed:
    """Loading or a forward pass has failed; a rank that was alone goes on."""

    error: KitError


FromRank = Hello | Progress | Loaded | Done | Failed
