"""Room for the download, its conversion and the image; folders that may be written."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from kit.doctor.facts import Disk, Docker, Facts, Folders, Image
from kit.doctor.gather.serving import PRECISION
from kit.doctor.request import Request
from kit.memory.room import Room
from kit.memory.unavailable import Unavailable
from kit.service.missing_weights import WEIGHTS
from kit.service.model import DEMO, find_here
from kit.units import GIB
from kit.weights import preflight
from kit.weights.catalogue import read_catalogue
from kit.weights.fetch.partial import arrived_bytes
from kit.weights.folder import checkpoint_dir

IMAGE_BYTES = 16 * GIB
"""Assumed: torch with CUDA unpacked takes about 7 GiB, and the build keeps its layers twice."""


CONTAINERD = Path("/var/lib/containerd")
"""Where containerd keeps images; Docker does not tell. A build keeps its layers there, too."""


def look(request: Request, facts: Facts) -> Disk:
    """Room for what is not here yet."""
    return Disk(_weights_rooms(request), _docker_room(facts))


def _weights_rooms(request: Request) -> tuple[Room, ...]:
    """Of the catalogue's chat weights, fetched and converted as the README does.

    None where another model is to be served, or a conversion of them is here.
    """
    data_dir = request.settings.data_dir
    if request.wanted.model not in (None, DEMO, WEIGHTS):
        return ()
    if find_here(WEIGHTS, data_dir, "native", fits=lambda shape: True) is not None:
        return ()
    weights = read_catalogue(request.settings.weights_catalogue).find(WEIGHTS)
    folder = checkpoint_dir(data_dir, WEIGHTS)
    paths = [folder / file for file in weights.files]
    here = sum(path.stat().st_size if path.is_file() else arrived_bytes(path) for path in paths)
    left = max(0, (weights.tensors_bytes or 0) - here)
    converted = preflight.converted_bytes(weights, PRECISION) or 0
    return preflight.disk_needs(
        [(folder, left, "to download"), (data_dir, converted, "for the conversion")]
    )


def _docker_room(facts: Facts) -> Room | Unavailable | None:
    engine, image = facts.docker, facts.image
    if not isinstance(engine, Docker):
        return engine
    if isinstance(image, Image) and image.present:
        return None
    if engine.remote or not engine.root.is_absolute():
        return Unavailable("the engine is on another machine")
    root = CONTAINERD if engine.containerd and CONTAINERD.is_dir() else engine.root
    try:
        state = os.statvfs(root)
    except OSError as error:
        return Unavailable(f"{root}: {error.strerror}")
    return Room(
        what=f"disk at {root}",
        free_bytes=state.f_bavail * state.f_frsize,
        need_bytes=IMAGE_BYTES,
        remedy="make room: docker system df, docker image prune; or move Docker's data-root",
        limit="disk",
    )


def look_at_folders(request: Request, facts: Facts) -> Folders:
    """Try it: a file without a name, in each folder, or in the parent of one that is to come."""
    return Folders(tuple(_unwritable(request)))


def _unwritable(request: Request) -> Iterator[tuple[Path, str]]:
    """Folders of the kit in which no file can be made; those to come count by their parent."""
    for folder in (request.settings.data_dir, request.settings.state_dir):
        there = next(path for path in (folder, *folder.parents) if path.exists())
        try:
            with tempfile.TemporaryFile(dir=there):
                pass
        except OSError as error:
            yield folder, error.strerror or str(error)
