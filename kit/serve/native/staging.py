"""Safetensors files to a GPU, through a small ring of pinned buffers that is made once.

Reader threads fill the buffers from the disk, or from the page cache where the file is in it, while
earlier ones are copied, asynchronously, straight into the tensors. Host memory is the ring,
whatever the model's size, and neither disk nor bus waits for the other.

On the CPU the ring works the same with plain memory. Only there has it been run: what it reaches on
a GPU has not been measured.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors import safe_open

from kit.checkpoint.pages import ROOM_BYTES, Buffer, SourceReader
from kit.errors import IntegrityError
from kit.memory.probes.pagecache import cached_bytes
from kit.units import MIB

# One is read into and one copied from, and one of each is ready: neither waits for the other.
BUFFERS = 4
BUFFER_BYTES = 16 * MIB - ROOM_BYTES
"""With its room a power of two: torch pins no other sizes, and keeps what it has pinned (its
CachingHostAllocator rounds up). One byte more would pin twice as much."""


class Ring:
    """The buffers and a reader thread for each. Use as a context manager; one file at a time."""

    def __init__(
        self, device: torch.device, buffers: int = BUFFERS, buffer_bytes: int = BUFFER_BYTES
    ) -> None:
        self.device = device
        self._buffer_bytes = buffer_bytes
        self._slots = [_Slot(buffer_bytes, device) for _ in range(buffers)]
        self._readers = ThreadPoolExecutor(max_workers=buffers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._readers.shutdown(cancel_futures=True)
        for slot in self._slots:
            slot.wait_for_copies()

    def pieces(self, path: Path, start: int, end: int) -> Iterator[torch.Tensor]:
        """Bytes ``start`` to ``end`` of a file, in order, as uint8 tensors ``[n]``.

        All copies from a piece must be on the current stream when the next piece is asked for.

        Raises:
            IntegrityError: the file is shorter.
        """
        offsets = iter(range(start, end, self._buffer_bytes))
        reading: deque[tuple[_Slot, int, Future[torch.Tensor]]] = deque()
        reader = SourceReader(path, cached=_in_page_cache(path))

        def read_next(slot: _Slot) -> None:
            if (offset := next(offsets, None)) is not None:
                nbytes = min(self._buffer_bytes, end - offset)
                read = self._readers.submit(slot.fill, reader, offset, nbytes)
                reading.append((slot, nbytes, read))

        try:
            for slot in self._slots:
                read_next(slot)
            while reading:
                slot, nbytes, read = reading.popleft()
                if len(piece := read.result()) < nbytes:
                    raise IntegrityError(
                        f"{path} became shorter while it was read",
                        hint=f"remove {path.parent} and convert the checkpoint again",
                    )
                yield piece
                slot.copies_issued()
                read_next(slot)
        finally:
            wait([read for *_, read in reading])
            reader.close()


def stage(path: Path, ring: Ring) -> Iterator[tuple[str, torch.Tensor]]:
    """Every tensor of a safetensors file, on the ring's device, in the order of the file.

    On a GPU the last copies may still be under way on the current stream.

    Raises:
        IntegrityError: the file became shorter while it was read.
        SafetensorError: it is no intact safetensors file.
        OSError: it cannot be read.
    """
    with safe_open(path, framework="pt") as file:
        mapped = [(name, file.get_tensor(name)) for name in file.offset_keys()]
        size = path.stat().st_size
        pieces = ring.pieces(path, size - sum(tensor.nbytes for _, tensor in mapped), size)
        piece = torch.empty(0, dtype=torch.uint8)
        for name, like in mapped:
            tensor = torch.empty_like(like, device=ring.device)
            left = tensor.reshape(-1).view(torch.uint8)
            while len(left):
                piece = piece if len(piece) else next(pieces)
                count = min(len(left), len(piece))
                left[:count].copy_(piece[:count], non_blocking=True)
                left, piece = left[count:], piece[count:]
            yield name, tensor


class _Slot:
    """One buffer, and the event after which it may be filled again."""

    def __init__(self, nbytes: int, device: torch.device) -> None:
        self._device = device
        self._copied: torch.cuda.Event | None = None
        if device.type == "cuda":
            pinned = torch.empty(nbytes + ROOM_BYTES, dtype=torch.uint8, pin_memory=True)
            self._memory = pinned.numpy()
            # Blocking: by default a thread that waits for an event spins, and there are four.
            self._copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        else:
            self._memory = Buffer(nbytes).bytes

    def fill(self, reader: SourceReader, offset: int, nbytes: int) -> torch.Tensor:
        self.wait_for_copies()
        return torch.from_numpy(reader.read(self._memory, offset, nbytes))

    def wait_for_copies(self) -> None:
        if self._copied:
            self._copied.synchronize()

    def copies_issued(self) -> None:
        if self._copied:
            self._copied.record(torch.cuda.current_stream(self._device))


def _in_page_cache(path: Path) -> bool:
    """Whether most of a file is cached, so that memory is quicker than the disk."""
    cached = cached_bytes(path)
    return isinstance(cached, int) and cached > path.stat().st_size // 2
