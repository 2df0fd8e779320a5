"""What a golden folder records, computed again by a rewritten tree of the real upstream code.

Run inside the tree, once for each rank: upstream_run.py TREE GOLDEN PRECISION OUTPUT OPTIONS OF
UPSTREAM. Rank 0 writes OUTPUT/generate.json, long.json and scores.safetensors.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from kit.serve.megatron.upstream import import_upstream

RECORDED_RUNS, RECORDED_STEPS = (0, 3), 12
"""Golden folders hold the scores of these runs, so many steps of each."""
SETTINGS = ("repeat_penalty", "num_repeat_penalty", "min_len", "max_tokens_to_oom")
"""What a run overrides among upstream's global arguments; the rest are arguments of its call."""


class Upstream:
    """Upstream's model, loaded as its inference script loads it."""

    def __init__(self, tree: Path, options: list[str]) -> None:
        script = import_upstream(tree)
        sys.argv = ["generate", *options]
        _module("megatron.initialize").initialize_megatron(
            extra_args_provider=script.add_text_generate_args,
            args_defaults={"no_load_rng": True, "no_load_optim": True},
        )
        self.args = _module("megatron").get_args()
        self.format = script.fmt_prompt
        get_model = _module("megatron.training").get_model
        self.model: torch.nn.Module = get_model(script.model_provider, wrap_with_ddp=False)[0]
        self.model.eval()

    def run(self, recorded: dict[str, Any]) -> dict[str, Any]:
        """One recorded run: tokens and text, or the type of the error."""
        before = {name: getattr(self.args, name) for name in SETTINGS}
        overrides = dict(recorded["overrides"])
        for name in before.keys() & overrides:
            setattr(self.args, name, overrides.pop(name))
        prompts = [self.format(prompt, recorded["fmt"]) for prompt in recorded["prompts"]]
        try:
            text, _, _, tokens = _module("megatron.text_generation").generate_and_post_process(
                self.model,
                prompts,
                tokens_to_generate=recorded["tokens_to_generate"],
                top_k_sampling=1,
                **overrides,
            )
        except (RuntimeError, ValueError) as error:
            return {"error": type(error).__name__}
        finally:
            vars(self.args).update(before)
        return {"tokens": tokens, "text": text}

    def run_long(self, recorded: dict[str, Any]) -> list[list[int]]:
        """A recorded run of ids."""
        prompts = torch.tensor(recorded["prompt_ids"])
        room = torch.zeros(len(prompts), recorded["n"], dtype=torch.int64)
        tokens, *_ = _generation().generate_tokens_probs_and_return_on_first_stage(
            self.model,
            torch.cat([prompts, room], dim=1),
            torch.full((len(prompts),), prompts.shape[1]),
            top_k=1,
            prevent_newline_after_colon=False,
        )
        ids: list[list[int]] = tokens.tolist()
        return ids

    @torch.no_grad()
    def scores(self, ids: torch.Tensor, first: int) -> torch.Tensor:
        """fp32 scores ``[len(ids), vocab]``: ``first`` tokens at once, then one by one."""
        step = _generation().ForwardStep(self.model, 1, len(ids))
        mask, positions = _generation()._build_attention_mask_and_position_ids(ids[None])
        starts = [0, *range(first, len(ids))]
        pieces = [
            step(ids[None, start:end], positions[:, start:end], mask[..., start:end, :end])
            for start, end in zip(starts, [*starts[1:], len(ids)], strict=True)
        ]
        return torch.cat([piece[0].float() for piece in pieces])


def step_scores(run: Any) -> list[torch.Tensor]:
    """The scores that ``run()`` samples from, before any penalty: of each step's last position."""
    found: list[torch.Tensor] = []
    original = _generation().ForwardStep

    class Recorded(original):  # type: ignore[name-defined, misc, valid-type]
        def __call__(self, *arguments: Any) -> Any:
            scores = super().__call__(*arguments)
            found.append(scores[0, -1].float().clone())
            return scores

    _generation().ForwardStep = Recorded
    try:
        run()
    finally:
        _generation().ForwardStep = original
    return found


def record(upstream: Upstream, golden: Path, precision: str) -> dict[str, torch.Tensor]:
    """The scores of the recorded prompts, by the names that they have there.

    ``long`` is a text in one piece, ``long_steps`` the same text token by token from a quarter on.
    """
    found: dict[str, torch.Tensor] = {}
    recorded = load_file(golden / f"logits_{precision}.safetensors")
    for name in [name for name in recorded if "logits_" in name]:
        ids = recorded[f"ids_{name.rpartition('_')[2]}"]
        found[name] = upstream.scores(ids, first=5 if name.startswith("inc_") else len(ids))
    if (path := golden / f"long_{precision}.safetensors").exists():
        long = load_file(path)
        for name, share in (("long", 1), ("long_steps", 4)):
            first = len(long["ids"]) // share
            found[name] = upstream.scores(long["ids"], first)[long["positions"]].clone()
    return found


def main() -> None:
    """Compute all that is recorded."""
    tree, golden = Path(sys.argv[1]), Path(sys.argv[2])
    precision, output = sys.argv[3], Path(sys.argv[4])
    upstream = Upstream(tree, sys.argv[5:])
    runs = json.loads((golden / f"generate_{precision}.json").read_text())
    long_runs = json.loads((golden / f"long_{precision}.json").read_text())["generate"]
    found = [upstream.run(run) for run in runs]
    found_long = [upstream.run_long(run) for run in long_runs]
    scores = record(upstream, golden, precision)
    for index in RECORDED_RUNS:
        steps = step_scores(lambda index=index: upstream.run(runs[index]))
        for number, step in enumerate(steps[:RECORDED_STEPS]):
            scores[f"raw_{index}_{number}"] = step
    if os.environ["RANK"] == "0":
        output.mkdir()
        (output / "generate.json").write_text(json.dumps(found))
        (output / "long.json").write_text(json.dumps(found_long))
        save_file(scores, output / "scores.safetensors")


def _module(name: str) -> Any:
    return importlib.import_module(name)


def _generation() -> Any:
    return _module("megatron.text_generation.generation")


if __name__ == "__main__":
    main()
