"""What a request leaves open: the model's generation defaults."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kit.errors import IntegrityError
from kit.records import NotAFileError, read_object


@dataclass(frozen=True)
class GenerationDefaults:
    """Sampling settings for requests that do not choose; here upstream's own.

    Upstream chooses the highest score, never the end token first, and subtracts 1.2 from the score
    of a token that it has generated, and 0.1 for each further time it did: in OpenAI's terms
    presence_penalty 1.1 and frequency_penalty 0.1.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    presence_penalty: float = 1.1
    frequency_penalty: float = 0.1
    min_tokens: int = 1


def read_defaults(model_dir: Path) -> GenerationDefaults:
    """The directory's ``generation_config.json`` laid over upstream's settings.

    As in transformers, temperature, top_k and top_p count only where ``do_sample`` is true.

    Raises:
        IntegrityError: the file is damaged, or a value in it is not a number.
    """
    path = model_dir / "generation_config.json"
    if not path.exists():
        return GenerationDefaults()
    try:
        return _from_config(read_object(path))
    except (NotAFileError, ValueError, TypeError, AttributeError) as error:
        raise IntegrityError(
            f"{path} cannot be used: {error}", hint="convert the weights again, or mend the file"
        ) from error


def _from_config(config: dict[str, Any]) -> GenerationDefaults:
    own = GenerationDefaults()
    sampling = config if config.get("do_sample") else {"temperature": 0.0}
    return GenerationDefaults(
        temperature=float(sampling.get("temperature", 1.0)),
        top_k=int(sampling.get("top_k", own.top_k)),
        top_p=float(sampling.get("top_p", own.top_p)),
        presence_penalty=float(config.get("presence_penalty", own.presence_penalty)),
        frequency_penalty=float(config.get("frequency_penalty", own.frequency_penalty)),
        min_tokens=int(config.get("min_new_tokens", own.min_tokens)),
    )
