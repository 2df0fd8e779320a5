"""The loaded model: everything that a route needs to answer."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from kit.serve.defaults import GenerationDefaults
from kit.serve.engine import Engine, ModelInfo, Progress
from kit.serve.tokenizer import InContextDecoder, Tokenizer


@dataclass(frozen=True)
class ModelSource:
    """Where the model comes from. The functions import and build; they run in the loading thread.

    Attributes:
        name: what clients call the model.
        engine_name: what builds it, such as "native".
    """

    name: str
    engine_name: str
    build_engine: Callable[[], Engine]
    load_tokenizer: Callable[[], Tokenizer]
    read_defaults: Callable[[], GenerationDefaults]


@dataclass(frozen=True)
class Model:
    """A model that has been proven to work.

    Attributes:
        created: Unix time when it was ready.
        load_seconds: from the start of loading until then.
        longest_piece: characters of the vocabulary's longest piece.
    """

    name: str
    engine_name: str
    engine: Engine
    tokenizer: Tokenizer
    decoder: InContextDecoder
    defaults: GenerationDefaults
    info: ModelInfo
    created: int
    load_seconds: float
    longest_piece: int


def load_model(source: ModelSource, progress: Progress) -> Model:
    """Load everything. Blocks.

    Raises:
        KitError: the directory is damaged, or the machine cannot hold the model.
    """
    started = time.monotonic()
    defaults = source.read_defaults()
    tokenizer = source.load_tokenizer()
    engine = source.build_engine()
    info = engine.load(progress)
    return Model(
        name=source.name,
        engine_name=source.engine_name,
        engine=engine,
        tokenizer=tokenizer,
        decoder=InContextDecoder(tokenizer),
        defaults=defaults,
        info=info,
        created=int(time.time()),
        load_seconds=time.monotonic() - started,
        longest_piece=max(len(tokenizer.convert_ids_to_tokens(i)) for i in range(info.vocab_size)),
    )
