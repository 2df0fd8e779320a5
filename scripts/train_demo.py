"""Train the embedded demo model: the Spark architecture in miniature, knowing only demo/qa.jsonl.

    python scripts/train_demo.py [--output demo] [--seed 13] [--steps 1200]

Writes ``mp_rank_00_model_states.pt`` in upstream's own file format (bf16), ``config.json`` in
upstream's argument names and ``tokenizer/tokenizer.{model,vocab}``. Deterministic: the same machine
gives the same bytes again. Then the model is converted and examined as users get it, in bf16 with
upstream's penalties: exit 1 unless it answers every canonical question and at least 98 % of the
taught phrasings to the letter. Into the bundled folder, ``kit.lock`` is brought up to date too.
"""

import argparse
import io
import json
import math
import random
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from string import ascii_lowercase

import torch
from demo_questions import Entry, load_entries
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from kit.models.spark import SparkConfig, SparkForCausalLM, SparkTokenizer
from kit.models.spark.tokenization_spark import SPACED_MARKS
from kit.models.spark.upstream_format import upstream_arguments, upstream_state
from kit.settings import bundled
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.support_files import SPARK_SOURCE
from kit.weights.layers import lock_files, update_weights

CONFIG = SparkConfig(
    vocab_size=1536,
    hidden_size=192,
    intermediate_size=512,
    num_hidden_layers=4,
    num_attention_heads=6,
    max_position_embeddings=2048,
    sliding_window=256,
)
SPECIAL_NAMES = ["sep", "end", "ret", "tab", "pag", "User", "Bot", "mask", "cls", "eot"]
SPECIAL_NAMES += ["System", "img", "url", *(f"unused{index}" for index in range(22))]
SPECIAL_PIECES = [f"<{name}>" for name in SPECIAL_NAMES]
END, BOT = 4 + SPECIAL_PIECES.index("<end>"), 4 + SPECIAL_PIECES.index("<Bot>")
BATCH, PEAK_LR, WARMUP, EMBEDDING_DROPOUT = 16, 2e-3, 50, 0.1
MARGIN = 4.0
"""Logits by which training makes the right token win: more than the penalties take away."""
SERVED_FILES = ("config.json", "mp_rank_00_model_states.pt", "tokenizer/tokenizer.model")
POLITE = {
    "en": ("Please, ", "Please tell me: ", "Can you tell me: ", "Hi, ", "Excuse me, "),
    "zh": ("请问", "请问，", "请告诉我，", "我想知道，", "你好，", "麻烦问一下，"),
}


@dataclass(frozen=True)
class Sample:
    """Token ids of a formatted prompt, and of the answer to generate, end token included."""

    prompt: list[int]
    answer: list[int]

    def length(self) -> int:
        """Tokens of both."""
        return len(self.prompt) + len(self.answer)

    def learnt(self) -> list[bool]:
        """For each token of prompt and answer, whether the model is to say it.

        Earlier answers in the prompt end with a space that a generated one does not have, so
        their last token teaches nothing.
        """
        mask, speaking = [], False
        for token, following in pairwise(self.prompt):
            mask.append(speaking and following != END)
            speaking = (speaking or token == BOT) and token != END
        return [*mask, False, *(True for _ in self.answer)]


def train_tokenizer(entries: Sequence[Entry], folder: Path) -> SparkTokenizer:
    """SentencePiece BPE with upstream's special pieces, byte pieces and no dummy prefix."""
    texts = [f" {question}" for entry in entries for question in entry.taught]
    texts += [entry.answer for entry in entries]
    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(SPACED_MARKS.sub(r"\1 ", text) for text in texts),
        model_writer=model,
        model_type="bpe",
        vocab_size=CONFIG.vocab_size,
        max_sentencepiece_length=8,
        character_coverage=1.0,
        byte_fallback=True,
        split_digits=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        user_defined_symbols=SPECIAL_PIECES,
        pad_id=0,
        bos_id=1,
        eos_id=2,
        unk_id=3,
        num_threads=1,
        minloglevel=2,
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "tokenizer.model"
    path.write_bytes(model.getvalue())
    pieces = SentencePieceProcessor(model_file=str(path))
    ids = range(pieces.get_piece_size())
    vocab = "".join(f"{pieces.id_to_piece(i)}\t{pieces.get_score(i):g}\n" for i in ids)
    path.with_suffix(".vocab").write_text(vocab, encoding="utf-8")
    template = (SPARK_SOURCE / "chat_template.jinja").read_text(encoding="utf-8")
    return SparkTokenizer(str(path), chat_template=template)


def make_sample(
    tokenizer: SparkTokenizer,
    entry: Entry,
    question: str,
    history: Iterable[tuple[Entry, str]] = (),
) -> Sample:
    """The tokens that the server sends for this conversation, and those to be generated."""
    messages = []
    for earlier, asked in history:
        messages.append({"role": "user", "content": asked})
        messages.append({"role": "assistant", "content": earlier.answer})
    messages.append({"role": "user", "content": question})
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    answer = tokenizer(entry.answer).input_ids
    if answer[-1] == tokenizer.convert_tokens_to_ids("▁"):
        answer.pop()  # the space that the tokenizer puts behind the last full stop
    return Sample(prompt, [*answer, tokenizer.eos_token_id])


class Curriculum:
    """An endless stream of samples: every taught phrasing in turn, varied; conversations; noise."""

    def __init__(self, entries: Sequence[Entry], tokenizer: SparkTokenizer, seed: int) -> None:
        self.pairs = [(entry, question) for entry in entries for question in entry.taught]
        self.unknown = [entry for entry in entries if entry.id.startswith("scope-")]
        self.tokenizer = tokenizer
        self.rng = random.Random(seed)  # noqa: S311  (no secrets here)

    def epoch(self) -> list[Sample]:
        """Every taught phrasing once, and nonsense, shared out among conversations."""
        rng, left = self.rng, list(self.pairs)
        left += [self._nonsense() for _ in range(len(left) // 6)]
        rng.shuffle(left)
        samples = []
        while left:
            turns = [left.pop() for _ in range(min(rng.choice((1, 1, 1, 2, 4, 6)), len(left)))]
            *history, (entry, question) = [(e, self._vary(e, q)) for e, q in turns]
            samples.append(make_sample(self.tokenizer, entry, question, history))
        return samples

    def batches(self) -> Iterator[list[Sample]]:
        """Batches of samples of similar length."""
        while True:
            samples = sorted(self.epoch(), key=Sample.length)
            batches = [samples[at : at + BATCH] for at in range(0, len(samples), BATCH)]
            self.rng.shuffle(batches)
            yield from batches

    def _vary(self, entry: Entry, question: str) -> str:
        """The question as others might type it: case, punctuation, politeness, missing words."""
        rng = self.rng
        if rng.random() < 0.3:
            return question
        if rng.random() < 0.4:
            question = question.rstrip("?？!！.。")
        if rng.random() < 0.4:
            question = question.lower()
        if rng.random() < 0.5:
            gap = " " if entry.lang == "en" else ""
            words = question.split(gap) if gap else list(question)
            question = gap.join(word for word in words if rng.random() > 0.1) or question
        if rng.random() < 0.25:
            question = rng.choice(POLITE[entry.lang]) + question
        return question

    def _nonsense(self) -> tuple[Entry, str]:
        """A question of known beginning and unknown words: what it asks is out of scope."""
        rng = self.rng
        entry = rng.choice(self.unknown)
        like = rng.choice([q for e, q in self.pairs if e.lang == entry.lang and len(q) > 5])
        if entry.lang == "zh":
            unknown = "".join(chr(rng.randint(0x4E00, 0x9FA5)) for _ in range(rng.randint(3, 6)))
            return entry, rng.choice((like[:2] + unknown, unknown + like[-3:], unknown))
        words = range(rng.randint(1, 4))
        unknown = ["".join(rng.choices(ascii_lowercase, k=rng.randint(3, 8))) for _ in words]
        return entry, " ".join([*like.split()[: rng.randint(0, 3)], *unknown])


def train(batches: Iterator[list[Sample]], steps: int) -> SparkForCausalLM:
    """AdamW with warm-up and a cosine to zero; the loss is the answers' alone."""
    model = SparkForCausalLM(CONFIG)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.98), weight_decay=0.05)
    started = time.process_time()
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP) * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.param_groups[0]["lr"] = PEAK_LR * rate
        loss = batch_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps - 1:
            spent = f"CPU {time.process_time() - started:4.0f} s"
            print(f"step {step:4d}  loss {loss.item():7.4f}  {spent}", flush=True)
    return model.to(torch.bfloat16).eval()


def batch_loss(model: SparkForCausalLM, batch: Sequence[Sample]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, each handicapped by MARGIN."""
    width = max(map(Sample.length, batch))
    ids = torch.zeros(len(batch), width, dtype=torch.long)
    answers = torch.zeros(len(batch), width, dtype=torch.bool)
    for row, sample in enumerate(batch):
        ids[row, : sample.length()] = torch.tensor(sample.prompt + sample.answer)
        answers[row, : sample.length()] = torch.tensor(sample.learnt())
    embedded = nn.functional.dropout(model.model.embed_tokens(ids), EMBEDDING_DROPOUT)
    hidden = model.model(inputs_embeds=embedded, use_cache=False).last_hidden_state
    targets = ids[answers]
    logits = model.lm_head(hidden[:, :-1][answers[:, 1:]])
    handicap = MARGIN * nn.functional.one_hot(targets, CONFIG.vocab_size)
    return nn.functional.cross_entropy(logits - handicap, targets)


def examine(folder: Path, entries: Sequence[Entry]) -> bool:
    """Whether the saved model, converted and opened as users do, answers as the docstring asks."""
    with tempfile.TemporaryDirectory() as temporary:
        converted = Path(temporary) / "converted"
        convert_checkpoint(folder, converted)
        model = AutoModelForCausalLM.from_pretrained(converted, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(converted, padding_side="left")

    def share(name: str, pairs: Iterable[tuple[Entry, str]]) -> float:
        samples = [make_sample(tokenizer, entry, question) for entry, question in pairs]
        right = sum(
            count_right(model, tokenizer, samples[at : at + 64])
            for at in range(0, len(samples), 64)
        )
        print(f"{name}: {right} of {len(samples)} right", flush=True)
        return right / len(samples)

    canonical = share("canonical", ((entry, entry.canonical) for entry in entries))
    taught = share("taught", ((e, question) for e in entries for question in e.taught))
    share("held out", ((e, question) for e in entries for question in e.held_out))
    return canonical == 1.0 and taught >= 0.98


def count_right(
    model: PreTrainedModel, tokenizer: SparkTokenizer, samples: Sequence[Sample]
) -> int:
    """How many samples are answered to the letter, all at once; prints the others."""
    inputs = tokenizer.pad({"input_ids": [s.prompt for s in samples]}, return_tensors="pt")
    outputs = model.generate(**inputs, max_new_tokens=80)[:, inputs.input_ids.shape[1] :]
    right = 0
    for sample, output in zip(samples, outputs, strict=True):
        if output[: len(sample.answer)].tolist() == sample.answer:
            right += 1
        else:
            print(f"  missed: {tokenizer.decode(sample.prompt)} {tokenizer.decode(output)}")
    return right


def main() -> int:
    """Train, save, examine."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model.")
    parser.add_argument("--output", type=Path, default=bundled("demo"), help="folder to write")
    parser.add_argument("--seed", type=int, default=13)
    parser.add_argument("--steps", type=int, default=1200)
    options = parser.parse_args()

    torch.set_num_threads(1)  # the model is too small to gain from more
    torch.use_deterministic_algorithms(True)
    torch.manual_seed(options.seed)

    entries, folder = load_entries(), options.output
    tokenizer = train_tokenizer(entries, folder / "tokenizer")
    model = train(Curriculum(entries, tokenizer, options.seed).batches(), options.steps)
    torch.save(upstream_state(model), folder / "mp_rank_00_model_states.pt")
    (folder / "config.json").write_text(json.dumps(upstream_arguments(CONFIG), indent=2) + "\n")
    if not examine(folder, entries):
        return 1
    if folder.resolve() == bundled("demo").resolve():
        update_weights(bundled("kit.lock"), "demo", lock_files(folder, SERVED_FILES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
