"""The demo model's questions and answers: what it is trained on, and what it must answer."""

import json
from dataclasses import dataclass
from pathlib import Path

from kit.settings import bundled


@dataclass(frozen=True)
class Entry:
    """One answer and the phrasings that ask for it.

    Attributes:
        id: ``topic.language``, unique.
        lang: ``en`` or ``zh``.
        questions: two to five phrasings, the canonical one first.
        answer: what the model is to say, in a sentence or two.
    """

    id: str
    lang: str
    questions: tuple[str, ...]
    answer: str

    @property
    def canonical(self) -> str:
        """The first phrasing."""
        return self.questions[0]

    @property
    def taught(self) -> tuple[str, ...]:
        """The phrasings that the model is trained on: the first four."""
        return self.questions[:4]

    @property
    def held_out(self) -> tuple[str, ...]:
        """A fifth phrasing, where there is one: never trained on, it measures generalisation."""
        return self.questions[4:]


def load_entries(path: Path | None = None) -> tuple[Entry, ...]:
    """Entries of a JSON Lines file, by default the bundled ``demo/qa.jsonl``."""
    path = path or bundled("demo") / "qa.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(_entry(**json.loads(line)) for line in lines)


def _entry(id: str, lang: str, questions: list[str], answer: str) -> Entry:
    return Entry(id, lang, tuple(questions), answer)
