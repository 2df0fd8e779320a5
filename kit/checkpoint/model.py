"""The files of a model, of whatever format, as one set of tensors with a mapping."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kit.checkpoint.layout import Dimensions, Mapping, map_tensors
from kit.checkpoint.mindspore import index_mindspore, is_mindspore
from kit.checkpoint.mindspore_layout import map_parameters
from kit.checkpoint.source import SourceFile
from kit.checkpoint.tensor_parallel import merge_ranks
from kit.checkpoint.torchfile import index_checkpoint


@dataclass(frozen=True)
class Model:
    """An indexed model: its files, dimensions, and what becomes of each tensor."""

    files: tuple[SourceFile, ...]
    dimensions: Dimensions
    mappings: tuple[Mapping, ...]

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of the converted tensors by name."""
        return {
            part.name: (len(part.rows), *mapping.source.shape[1:])
            for mapping in self.mappings
            for part in mapping.parts
        }


def read_model(paths: Sequence[Path]) -> Model:
    """Index upstream's file or its tensor-parallel shards in rank order, or a MindSpore file.

    Raises:
        EnvironmentNotReady: a file cannot be read.
        IntegrityError: a file is damaged or unsafe (``UnsafePickle``), the files are not of one
            checkpoint, or tensors are missing, unknown, or of shapes that disagree.
    """
    if len(paths) == 1 and is_mindspore(paths[0]):
        file = index_mindspore(paths[0])
        return Model((file,), *map_parameters(file))
    files = tuple(index_checkpoint(path) for path in paths)
    return Model(files, *map_tensors(merge_ranks(files)))
