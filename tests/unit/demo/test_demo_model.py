"""The demo answers, by the path that the real weights take: verify, convert, load, generate."""

import queue
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

import pytest
from demo_questions import Entry, load_entries

from kit.lock import read_lock
from kit.models.spark.tokenization_spark import SPACED_MARKS
from kit.serve.defaults import read_defaults
from kit.serve.engine import SamplingParams, Step
from kit.serve.native.engine import NativeEngine
from kit.serve.tokenizer import InContextDecoder, Tokenizer, load_tokenizer
from kit.settings import bundled
from kit.units import MIB
from kit.weights.convert.convert import convert_checkpoint
from kit.weights.convert.record import Precision
from kit.weights.layers import verify_files

ENTRIES = load_entries()
DEMO = bundled("demo")


class Demo:
    """The served demo: conversations in, answers out, many at once."""

    def __init__(self, directory: Path) -> None:
        self.tokenizer: Tokenizer = load_tokenizer(directory)
        self.params = SamplingParams(max_tokens=80, **asdict(read_defaults(directory)))
        self.engine = NativeEngine(directory, device="cpu", context=1024, max_sequences=16)
        self.engine.load(lambda phase, fraction: None)

    def answers(self, conversations: Sequence[Sequence[str]]) -> list[str]:
        """What the model says next in each; a conversation is questions and answers in turn."""
        queues = [self._ask(conversation) for conversation in conversations]
        return [self._text(answer) for answer in queues]

    def _ask(self, conversation: Sequence[str]) -> "queue.Queue[Step | Exception]":
        roles = ["user", "assistant"] * len(conversation)
        messages = [
            {"role": role, "content": text} for role, text in zip(roles, conversation, strict=False)
        ]
        prompt = self.tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, tokenize=True, return_dict=False
        )
        steps: queue.Queue[Step | Exception] = queue.Queue()
        self.engine.submit(prompt, self.params, steps.put)
        return steps

    def _text(self, steps: "queue.Queue[Step | Exception]") -> str:
        ids: list[int] = []
        while True:
            step = steps.get(timeout=120)
            if isinstance(step, Exception):
                raise step
            ids.append(step.token_id)
            if step.finish_reason:
                assert step.finish_reason == "stop"
                return InContextDecoder(self.tokenizer).text(ids)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    directory = tmp_path_factory.mktemp("demo") / "converted"
    convert_checkpoint(DEMO, directory)
    served = Demo(directory)
    yield served
    served.engine.close()


def shown(entry: Entry) -> str:
    """The answer as decoded text has it: one space behind each full-width mark but the last."""
    return SPACED_MARKS.sub(r"\1 ", entry.answer).rstrip()


def test_files_are_those_of_the_lock() -> None:
    locked = read_lock(bundled("kit.lock")).weights["demo"]
    assert set(locked) == {
        "config.json",
        "mp_rank_00_model_states.pt",
        "tokenizer/tokenizer.model",
    }
    verify_files(DEMO, locked)


def test_all_of_it_is_small() -> None:
    assert sum(path.stat().st_size for path in DEMO.rglob("*") if path.is_file()) <= 8 * MIB


def test_answers_every_canonical_question(demo: Demo) -> None:
    said = demo.answers([[entry.canonical] for entry in ENTRIES])
    assert dict(zip([entry.id for entry in ENTRIES], said, strict=True)) == {
        entry.id: shown(entry) for entry in ENTRIES
    }


def test_answers_in_a_conversation_longer_than_its_window(demo: Demo) -> None:
    topics = ("hello", "start", "memory-pain", "exit-codes", "endpoints", "architecture", "bye")
    by_id = {entry.id: entry for entry in ENTRIES}
    conversation: list[str] = []
    for topic in topics:
        for entry in (by_id[f"{topic}.en"], by_id[f"{topic}.zh"]):
            conversation.append(entry.canonical)
            (said,) = demo.answers([conversation])
            assert said == shown(entry), entry.id
            conversation.append(said)
    assert len(demo.tokenizer.encode("".join(conversation))) > 256


def test_says_what_it_does_not_know(demo: Demo) -> None:
    english, chinese = demo.answers([["Who invented the telephone?"], ["李白是谁？"]])
    assert "only knows about spark-kit" in english
    assert "只懂 spark-kit" in chinese


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_answers_with_fewer_bits(tmp_path: Path, precision: Precision) -> None:
    """Nineteen of twenty at least; when this was written it was every one of them."""
    convert_checkpoint(DEMO, tmp_path / "converted", precision=precision)
    served = Demo(tmp_path / "converted")
    try:
        said = served.answers([[entry.canonical] for entry in ENTRIES])
    finally:
        served.engine.close()
    right = sum(text == shown(entry) for text, entry in zip(said, ENTRIES, strict=True))
    assert right >= 0.95 * len(ENTRIES)
