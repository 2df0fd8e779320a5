"""Run inside a rewritten tree: probes.py TREE PROBE OPTIONS OF UPSTREAM. Prints what it found.

``--block=MODULE`` among the options makes a module look as if it were not installed, and
``--no-torchscript`` makes TorchScript look as if it were gone. ``--script=MODULE`` takes the model
from another script than that of generation.
"""

import functools
import importlib
import itertools
import json
import re
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from kit.serve.megatron.upstream import import_upstream

TREE = Path(sys.argv[1])
BLOCK, NO_TORCHSCRIPT, SCRIPT = "--block=", "--no-torchscript", "--script="
PROMPT = 20


def imports() -> Any:
    """Upstream's inference script is imported; nothing is started."""
    import_upstream(TREE)
    return "imported"


def help_text() -> Any:
    module = import_upstream(TREE)
    from megatron.arguments import parse_args

    sys.argv = ["generate", "--help"]
    parse_args(module.add_text_generate_args)


def dtype_functions() -> Any:
    """Types after casting, where DeepSpeed's tensor types are functions, as they are for CUDA."""
    from deepspeed.accelerator import get_accelerator

    for name in ("FloatTensor", "HalfTensor", "BFloat16Tensor"):
        function = functools.partial(torch.tensor)
        setattr(type(get_accelerator()), name, property(lambda self, function=function: function))
    import_upstream(TREE)
    from megatron.model.module import float16_to_fp32, fp32_to_float16

    mixed = (torch.ones(1), torch.ones(1, dtype=torch.int64), "no tensor")
    half = fp32_to_float16(mixed, torch.Tensor.half)
    whole = float16_to_fp32([half[0], half[1]])
    return [str(value.dtype) for value in (*half[:2], whole[0])]


def generate() -> Any:
    """Greedy ids after a prompt, by upstream's own loop."""
    tokens = torch.tensor([ids() + [0] * 8])
    made, *_ = _generation(loaded())(tokens)
    return made[0, PROMPT:].tolist()


def serving() -> Any:
    """All of what generation takes."""
    model = loaded()
    tokens, built = _generation(model)(torch.tensor([ids() + [0] * 8]))[0], _mask(ids())
    return {
        "tokens": tokens[0, PROMPT:].tolist(),
        "mask_bytes": built.nbytes if torch.is_tensor(built) else 0,
        "buffer_bytes": _buffer_bytes(),
        "scored": _scored(model),
        "score_positions": _score_positions(model),
        "rotated": _rotated(model),
        "chunk_difference": _chunk_difference(model),
    }


def _mask(prompt: list[int]) -> Any:
    return generation()._build_attention_mask_and_position_ids(torch.tensor([prompt]))[0]


def _buffer_bytes() -> int:
    """What upstream keeps in its buffers."""
    from megatron.core import parallel_state

    buffers = parallel_state.get_global_memory_buffer().buffer.values()
    return sum(buffer.nbytes for buffer in buffers)


def _scored(model: torch.nn.Module) -> int | str:
    """How many log-probabilities a text gets that is shorter than --seq-length, or the error."""
    score = generation().score_and_return_on_first_stage
    try:
        return int(score(model, torch.tensor([ids()]), torch.tensor([PROMPT]))[2].numel())
    except RuntimeError as error:
        return str(error)


def _score_positions(model: torch.nn.Module) -> list[int]:
    """Positions that a prompt gets scores for, without and with log-probabilities asked for."""
    module, original = generation(), generation().ForwardStep
    positions: list[int] = []

    class Recorded(original):  # type: ignore[name-defined, misc, valid-type]
        def __call__(self, *arguments: Any) -> Any:
            logits = super().__call__(*arguments)
            positions.append(logits.shape[1])
            return logits

    module.ForwardStep = Recorded
    tokens = torch.tensor([[*ids(), 0]])
    _generation(model)(tokens)
    _generation(model)(tokens, return_output_log_probs=True)
    module.ForwardStep = original
    return positions


def _rotated(model: torch.nn.Module) -> list[int]:
    """Positions rotated, queries and keys of all layers: by a prompt, by one token more."""
    from megatron.model import transformer

    counts = [0]
    original = transformer.apply_rotary_pos_emb

    def counting(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        counts[-1] += states.shape[0]
        return original(states, angles)

    transformer.apply_rotary_pos_emb = counting
    for _ in _read(model, [*ids(), 5], PROMPT, PROMPT + 1):
        counts.append(0)
    transformer.apply_rotary_pos_emb = original
    return counts[:-1]


def _chunk_difference(model: torch.nn.Module) -> float:
    """Between the last scores of a prompt that is read at once, and in chunks."""
    *_, at_once = _read(model, ids(), PROMPT)
    *_, in_chunks = _read(model, ids(), 3, 11, PROMPT)
    return float((at_once[0, -1] - in_chunks[0, -1]).abs().max())


def _read(model: torch.nn.Module, prompt: list[int], *ends: int) -> Iterator[torch.Tensor]:
    """The scores of each chunk of a prompt; ``ends`` says where they end."""
    module, tokens = generation(), torch.tensor([prompt])
    step = module.ForwardStep(model, 1, len(prompt))
    built, places = module._build_attention_mask_and_position_ids(tokens)
    for start, end in itertools.pairwise([0, *ends]):
        new = slice(start, end)
        with torch.no_grad():
            yield step(tokens[:, new], places[:, new], built[..., new, :end])


def weights() -> Any:
    """Random weights drawn while loading, and the peak of private memory by the weights' size."""
    drawn: list[int] = []
    original = torch.Tensor.normal_

    def counting(self: torch.Tensor, *arguments: Any, **named: Any) -> torch.Tensor:
        if not self.is_meta:
            drawn.append(1)
        return original(self, *arguments, **named)

    torch.Tensor.normal_ = counting  # type: ignore[assignment]
    module = initialised()
    with PrivatePeak() as peak:
        model = _model(module)
    size = sum(parameter.nbytes for parameter in model.parameters())
    return {"drawn": len(drawn), "peak_by_size": peak.growth_bytes / size}


def load_devices() -> Any:
    """Where the checkpoint is put, and where the model's weights are by then, off the CPU.

    The device is torch's meta device, which every machine has.
    """
    module = initialised()
    from deepspeed.accelerator import get_accelerator
    from megatron.model import iFlytekSparkModel

    found: list[str] = []
    load, load_state = torch.load, iFlytekSparkModel.load_state_dict
    type(get_accelerator()).current_device_name = lambda self, index=None: "meta"

    def recorded(path: str, map_location: object = None, **more: Any) -> Any:
        found.append(str(map_location))
        return load(path, map_location="cpu", **more)

    def recorded_state(self: torch.nn.Module, state: Any, strict: bool = True) -> None:
        found.append(next(self.parameters()).device.type)
        load_state(self, state, strict)

    torch.load, iFlytekSparkModel.load_state_dict = recorded, recorded_state
    _model(module)
    return found


class PrivatePeak:
    """Growth of this process's private memory (RssAnon) inside the context."""

    def __enter__(self) -> "PrivatePeak":
        self._start = self._peak = _private_bytes()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self.growth_bytes = self._peak - self._start

    def _watch(self) -> None:
        while not self._ended.wait(0.002):
            self._peak = max(self._peak, _private_bytes())


def initialised() -> ModuleType:
    module = import_upstream(TREE)
    from megatron.initialize import initialize_megatron

    defaults = {"no_load_rng": True, "no_load_optim": True}
    initialize_megatron(extra_args_provider=module.add_text_generate_args, args_defaults=defaults)
    return importlib.import_module(script) if script else module


def loaded() -> torch.nn.Module:
    return _model(initialised())


def generation() -> ModuleType:
    return importlib.import_module("megatron.text_generation.generation")


def ids() -> list[int]:
    return [(7 * i) % 200 for i in range(PROMPT)]


def _model(module: ModuleType) -> torch.nn.Module:
    from megatron.training import get_model

    model: torch.nn.Module = get_model(module.model_provider, wrap_with_ddp=False)[0]
    return model.eval()


def _generation(model: torch.nn.Module) -> Any:
    run = generation().generate_tokens_probs_and_return_on_first_stage
    options = {"top_k": 1, "prevent_newline_after_colon": False}  # no tokenizer is asked
    return lambda tokens, **more: run(model, tokens, torch.tensor([PROMPT]), **options, **more)


def _private_bytes() -> int:
    text = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"RssAnon:\s+(\d+)", text)[1])  # type: ignore[index]


def _block(options: list[str]) -> list[str]:
    """Make things look as if they were not there; the other options."""
    for blocked in [option for option in options if option.startswith(BLOCK)]:
        package, *_ = name = blocked.removeprefix(BLOCK).split(".")
        if len(name) > 1:  # what the package itself takes from it stays
            importlib.import_module(package)
        sys.modules[".".join(name)] = None  # type: ignore[assignment]
    if NO_TORCHSCRIPT in options:
        torch.jit.script = None  # type: ignore[assignment]
    return [option for option in options if not option.startswith((BLOCK, NO_TORCHSCRIPT))]


if __name__ == "__main__":
    options = sys.argv[3:]
    script = next((each.removeprefix(SCRIPT) for each in options if each.startswith(SCRIPT)), None)
    options = [each for each in options if not each.startswith(SCRIPT)]
    probe, sys.argv = sys.argv[2], [sys.argv[0], *_block(options)]
    print("found:", json.dumps(globals()[probe]()))
