"""One rank: a process that holds upstream's model, or its part of it, and carries out tasks.

Usage: python -m kit.serve.megatron.rank SOCKET
"""

import os
import queue
import signal
import sys
import threading
import traceback
from multiprocessing.connection import Client, Connection
from typing import Any

import torch

from kit.errors import KitError, ServiceError
from kit.serve.gpu import GPU_ERRORS, DeviceMemory, cap_vram, device_memory, gpu_failed
from kit.serve.megatron.messages import (
    Done,
    End,
    Failed,
    Forward,
    FromRank,
    Hello,
    Loaded,
    Progress,
    Task,
    ToRank,
)
from kit.serve.megatron.upstream import CachedSequence, import_upstream, initialise, load_model
from kit.serve.worker import EngineDied


class Orders:
    """What the server sends. When the server is gone, this process ends at once."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._arrived: queue.SimpleQueue[ToRank] = queue.SimpleQueue()
        threading.Thread(target=self._receive, name="orders", daemon=True).start()

    def next(self) -> ToRank:
        """The next one; waits for it."""
        return self._arrived.get()

    def _receive(self) -> None:
        """From a thread, so that even a rank that hangs in a collective ends with its server.

        The exit code is 0: it is not this rank that failed, and DeepSpeed's launcher passes on
        the code of one that did.
        """
        while True:
            try:
                order = self._connection.recv()
            except (EOFError, OSError):
                os._exit(0)
            self._arrived.put(order)
            if isinstance(order, End):
                return


class Rank:
    """The model of this process and the sequence that runs in it."""

    def __init__(self, task: Task, connection: Connection) -> None:
        self._task = task
        self._connection = connection
        self._rank = int(os.environ["RANK"])
        self._device = _own_device(task.device)
        self._alone = os.environ["WORLD_SIZE"] == "1"
        self._model: torch.nn.Module | None = None
        self._sequence: CachedSequence | None = None

    def load(self) -> None:
        """Import upstream, load the weights, and tell the server."""
        self._tell(Progress("imports", 0.0))
        if self._task.threads is not None:
            torch.set_num_threads(self._task.threads)
        script = import_upstream(self._task.tree)
        self._tell(Progress("startup", 0.0))
        initialise(script, self._task.arguments, self._task.rendezvous)
        cap_vram(self._device, self._task.max_vram_bytes)
        self._tell(Progress("weights", 0.0))
        self._model = load_model(script, lambda done: self._tell(Progress("weights", done)))
        weights_bytes = sum(parameter.nbytes for parameter in self._model.parameters())
        self._tell(Loaded(weights_bytes, self._memory()))

    def forward(self, order: Forward) -> None:
        """One forward pass. Rank 0 sends its scores; they are the same on every rank."""
        scores = self._scores(order)
        told = scores.cpu().numpy().tobytes() if self._rank == 0 else b""
        self._tell(Done(told, self._memory()))

    def survive(self, error: Exception) -> bool:
        """Report a failed forward pass. Whether this rank can go on: others would not follow, and
        nothing works any more after a GPU's failure.
        """
        traceback.print_exc()
        self._sequence = None
        told = _explain(error)
        lost = isinstance(told, EngineDied)
        if self._device.type == "cuda" and not lost:
            torch.cuda.empty_cache()
        self._tell(Failed(told))
        return self._alone and not lost

    def _scores(self, order: Forward) -> torch.Tensor:
        assert self._model is not None  # noqa: S101  (load() comes first)
        if order.start == 0:
            self._sequence = None  # its KV cache is freed before the next is made
            self._sequence = CachedSequence(self._model, self._task.capacity)
        assert self._sequence is not None  # noqa: S101
        return self._sequence.forward(order.tokens)

    def _memory(self) -> DeviceMemory | None:
        return device_memory(self._device)

    def _tell(self, message: FromRank) -> None:
        self._connection.send(message)


def _own_device(kind: str) -> torch.device:
    """This rank's; of the GPUs that the launcher made visible, LOCAL_RANK says which."""
    return torch.device(f"cuda:{os.environ['LOCAL_RANK']}" if kind == "cuda" else kind)


def _explain(error: Exception) -> KitError:
    if isinstance(error, KitError):
        return error
    if isinstance(error, GPU_ERRORS):
        return gpu_failed(error)
    first_line = next(iter(str(error).splitlines()), "")  # the log has the others
    return ServiceError(
        f"upstream's code failed: {type(error).__name__}: {first_line}",
        hint="its traceback is in the log",
    )


def run(connection: Connection) -> None:
    """Follow orders until there are no more.

    A rank that failed waits for the server to end it: the exit codes then name no other rank
    than one that was killed, which may be why this one failed.
    """
    orders = Orders(connection)
    connection.send(Hello(int(os.environ["RANK"])))
    task = orders.next()
    assert isinstance(task, Task)  # noqa: S101
    rank = Rank(task, connection)
    try:
        rank.load()
    except Exception as error:
        traceback.print_exc()
        connection.send(Failed(_explain(error)))
        orders.next()
        sys.exit(1)
    while isinstance(order := orders.next(), Forward):
        try:
            rank.forward(order)
        except Exception as error:
            if not rank.survive(error):
                orders.next()
                sys.exit(1)
    end_group: Any = torch.distributed.destroy_process_group
    end_group()


def main() -> None:
    """Connect to the server. Signals to stop are the server's to handle; it sends End."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with Client(sys.argv[1], family="AF_UNIX") as connection:
        run(connection)


if __name__ == "__main__":
    main()
