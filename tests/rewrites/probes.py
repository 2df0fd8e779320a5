"""Run inside a rewritten tree: probes.py TREE PROBE OPTIONS OF UPSTREAM. Prints what it found.

``--block=MODULE`` among the options makes a module look as if it were not installed.
"""

import functools
import importlib
import json
import re
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

TREE = Path(sys.argv[1])
BLOCK = "--block="
PROMPT = 20


def imports() -> Any:
    """Upstream's inference script is imported; nothing is started."""
    script()
    return "imported"


def help_text() -> Any:
    module = script()
    from megatron.arguments import parse_args

    sys.argv = ["generate", "--help"]
    parse_args(module.add_text_generate_args)


def dtype_functions() -> Any:
    """Types after casting, where DeepSpeed's tensor types are functions, as they are for CUDA."""
    from deepspeed.accelerator import get_accelerator

    for name in ("FloatTensor", "HalfTensor", "BFloat16Tensor"):
        function = functools.partial(torch.tensor)
        setattr(type(get_accelerator()), name, property(lambda self, function=function: function))
    script()
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


def mask() -> Any:
    """Bytes of what upstream builds as a mask for a prompt."""
    initialised()
    built, _ = generation()._build_attention_mask_and_position_ids(torch.tensor([ids()]))
    return built.nbytes if torch.is_tensor(built) else 0


def score_positions() -> Any:
    """Positions that a prompt gets scores for, without and with log-probabilities asked for."""
    model, module = loaded(), generation()
    positions: list[int] = []

    class Recorded(module.ForwardStep):  # type: ignore[name-defined, misc]
        def __call__(self, *arguments: Any) -> Any:
            logits = super().__call__(*arguments)
            positions.append(logits.shape[1])
            return logits

    module.ForwardStep = Recorded
    tokens = torch.tensor([[*ids(), 0]])
    _generation(model)(tokens)
    _generation(model)(tokens, return_output_log_probs=True)
    return positions


def rotations() -> Any:
    """Positions rotated, queries and keys of all layers: by a prompt, by one token more."""
    model, module = loaded(), generation()
    from megatron.model import transformer

    counts: list[int] = []
    original = transformer.apply_rotary_pos_emb

    def counting(states: torch.Tensor, angles: torch.Tensor) -> torch.Tensor:
        counts[-1] += states.shape[0]
        return original(states, angles)

    transformer.apply_rotary_pos_emb = counting
    tokens = torch.tensor([[*ids(), 5]])
    step = module.ForwardStep(model, 1, PROMPT + 1)
    built, places = module._build_attention_mask_and_position_ids(tokens)
    for start, end in ((0, PROMPT), (PROMPT, PROMPT + 1)):
        counts.append(0)
        new = slice(start, end)
        with torch.no_grad():
            step(tokens[:, new], places[:, new], built[..., new, :end])
    return counts


def weights() -> Any:
    """Random weights drawn while loading, and the peak of private memory by the weights' size."""
    drawn: list[int] = []
    original = torch.Tensor.normal_
    torch.Tensor.normal_ = lambda self, *a, **k: (drawn.append(1), original(self, *a, **k))[1]  # type: ignore[assignment]
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


def script() -> ModuleType:
    """Upstream's inference script; its ``tools`` is a folder that installed packages may hide."""
    sys.path.insert(0, str(TREE))
    tools = ModuleType("tools")
    tools.__path__ = [str(TREE / "tools")]
    sys.modules["tools"] = tools
    return importlib.import_module("tools.run_iFlytekSpark_text_generation")


def initialised() -> ModuleType:
    module = script()
    from megatron.initialize import initialize_megatron

    defaults = {"no_load_rng": True, "no_load_optim": True}
    initialize_megatron(extra_args_provider=module.add_text_generate_args, args_defaults=defaults)
    return module


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


if __name__ == "__main__":
    probe, sys.argv = sys.argv[2], [sys.argv[0], *sys.argv[3:]]
    for blocked in [argument for argument in sys.argv if argument.startswith(BLOCK)]:
        sys.argv.remove(blocked)
        package, *_ = name = blocked.removeprefix(BLOCK).split(".")
        if len(name) > 1:  # what the package itself takes from it stays
            importlib.import_module(package)
        sys.modules[".".join(name)] = None  # type: ignore[assignment]
    print("found:", json.dumps(globals()[probe]()))
