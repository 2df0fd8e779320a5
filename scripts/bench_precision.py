"""What fewer bits cost: size, perplexity, agreement and error of each precision, in two tables.

The demo model is scored on the answers that it should give to all its questions; models recorded
from the real upstream code (the golden data) are compared with those records score by score::

    python scripts/bench_precision.py

``KIT_GOLDEN_DIR`` names a folder of golden data, or a folder of such folders. Everything runs on
the CPU, in the layers that serve. Perplexity is per token of the answers. "Same token" is how often
the most probable token is that of fp32. The errors are of raw scores; their spread (standard
deviation) is that of the records.
"""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from demo_questions import load_entries
from safetensors.torch import load_file

from kit.errors import UsageError
from kit.models.spark import SparkForCausalLM
from kit.serve.native.loader import load_model
from kit.serve.tokenizer import Tokenizer, load_tokenizer
from kit.settings import bundled
from kit.units import MIB
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import Precision

PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "int8", "int4")
GOLDEN = Path(__file__).parents[1] / "tests" / "golden" / "data" / "a"


@dataclass(frozen=True)
class Answer:
    """Token ids ``[T]`` of a question and its answer; the answer's begin at ``start``."""

    ids: torch.Tensor
    start: int


def demo_table(folder: Path) -> None:
    """Convert, load and score the demo in every precision."""
    print("| demo | MiB | of bf16 | perplexity | change | same token |\n|---|---|---|---|---|---|")
    sizes = {each: convert(bundled("demo"), folder / each, each) for each in PRECISIONS}
    answers = demo_answers(load_tokenizer(folder / "fp32"))
    expected = torch.cat([answer.ids[answer.start :] for answer in answers])
    reference = answer_scores(load(folder / "fp32"), answers)
    first = perplexity(reference, expected)
    for each in PRECISIONS:
        scores = answer_scores(load(folder / each), answers)
        value = perplexity(scores, expected)
        same = (scores.argmax(-1) == reference.argmax(-1)).float().mean()
        print(
            f"| {each} | {sizes[each] / MIB:.2f} | {sizes[each] / sizes['bf16']:.2f} "
            f"| {value:.4f} | {value / first - 1:+.2%} | {float(same):.2%} |"
        )


def golden_table(golden: Path, folder: Path) -> None:
    """Convert and load a recorded model in every precision; compare with its fp32 records."""
    records = load_file(golden / "logits_fp32.safetensors")
    prompts = {name: t for name, t in records.items() if name.startswith("ids_")}
    expected = torch.cat([records[name.replace("ids", "logits")] for name in prompts])
    print(f"\n| golden {golden.name} | largest error | mean error | spread | same token |")
    print("|---|---|---|---|---|")
    for each in PRECISIONS:
        try:
            convert(golden / "ckpt", folder / each, each, golden)
        except UsageError as error:
            print(f"| {each} | {error.message} | | | |")
            continue
        model = load(folder / each)
        found = torch.cat([model(input_ids=ids[None]).logits[0] for ids in prompts.values()])
        errors = (found.float() - expected).abs()
        same = (found.argmax(-1) == expected.argmax(-1)).float().mean()
        print(
            f"| {each} | {float(errors.max()):.4f} | {float(errors.mean()):.4f} "
            f"| {float(expected.std()):.4f} | {float(same):.2%} |"
        )


def convert(source: Path, output: Path, precision: Precision, golden: Path | None = None) -> int:
    """Convert as ``kit weights convert`` does; the bytes of the tensors' files."""
    config = golden / "config.json" if golden else None
    tokenizer = golden / "tokenizer" if golden else None
    record = convert_checkpoint(
        source, output, precision=precision, config=config, tokenizer=tokenizer
    )
    return sum(record.files.values())


def load(directory: Path) -> SparkForCausalLM:
    """Load as the server does."""
    return load_model(directory, torch.device("cpu"), "auto", lambda phase, fraction: None)


def demo_answers(tokenizer: Tokenizer) -> list[Answer]:
    """Every phrasing of every question with its answer and the end token."""
    answers = []
    for entry in load_entries():
        said = tokenizer.encode(entry.answer)
        if tokenizer.convert_ids_to_tokens(said[-1]) == "▁":
            said.pop()  # the space that the tokenizer puts behind a last full-width mark
        said += tokenizer.encode("<end>")
        for question in entry.questions:
            asked = tokenizer.apply_chat_template(
                [{"role": "user", "content": question}],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=False,
            )
            answers.append(Answer(torch.tensor([*asked, *said]), len(asked)))
    return answers


def answer_scores(model: SparkForCausalLM, answers: Sequence[Answer]) -> torch.Tensor:
    """fp32 log-probabilities ``[N, vocab]`` before each token of all answers."""
    logits = (model(input_ids=a.ids[None, :-1]).logits[0, a.start - 1 :] for a in answers)
    return torch.cat([each.float().log_softmax(-1) for each in logits])


def perplexity(scores: torch.Tensor, expected: torch.Tensor) -> float:
    """Of tokens ``[N]`` under log-probabilities ``[N, vocab]``."""
    return float((-scores.gather(1, expected[:, None])).mean().exp())


def golden_folders() -> list[Path]:
    """The bundled folder, or those that KIT_GOLDEN_DIR names."""
    named = os.environ.get("KIT_GOLDEN_DIR")
    root = Path(named) if named else GOLDEN
    return [root] if (root / "config.json").exists() else sorted(root.glob("*/"))


def main() -> None:
    """Print the tables."""
    torch.set_num_threads(1)
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        demo_table(Path(folder) / "demo")
        for golden in golden_folders():
            golden_table(golden, Path(folder) / golden.name)


if __name__ == "__main__":
    main()
