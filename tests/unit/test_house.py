"""A sentence of the README leads to its code, and what is drawn of the rooms is there."""

import ast
import re
from pathlib import Path

import pytest

import kit
from scripts.measure_house import LONG_FUNCTION, read

PACKAGE = Path(kit.__file__).parent
CHECKOUT = PACKAGE.parent

SENTENCES = (
    ("the start fails when the measured peak passes its budget", "memory/budget.py", "require"),
    ("look at the machine", "doctor/examine.py", "examine"),
    ("wait until it is ready", "runtime/ready.py", "wait_ready"),
    ("first answer; fill its context", "proof/assertion.py", "fill_context"),
    ("a service that fails its checks is rolled back", "service/change.py", "upgrade"),
    ("an archive for a bug report, without secrets", "service/support_bundle.py", "write_bundle"),
    ("take in files that are here", "weights/fetch/take_in.py", "take_in"),
    ("every file is verified against its sha256", "weights/convert/verify.py", "verify_set"),
    ("nothing in the pickle is ever executed", "checkpoint/unpickle.py", "read_pickle"),
    ("can be interrupted anywhere and goes on", "weights/fetch/download.py", "download"),
    ("DeepSpeed training checkpoints", "weights/convert/locate.py", "find_checkpoint"),
    ("LoRA adapters (merged)", "checkpoint/lora.py", "Merge"),
    ("MindSpore files", "checkpoint/mindspore.py", "index_mindspore"),
    ("carry weights to machines without a network", "weights/carry/bundle.py", "bundle"),
    ("what serving takes, line by line", "memory/plan/predict.py", "plan_serving"),
    ("at full size on tensors without data", "proof/simulate/run.py", "simulate"),
    ("side by side on your machine", "bench/loaders.py", "compare_loaders"),
    ("bearer token that `/v1` then asks for", "serve/api/middleware.py", "Gate"),
    ("those of upstream's own command line", "serve/defaults.py", "GenerationDefaults"),
    ("continuous batching", "serve/native/batch.py", "Batch"),
    ("what a message says stays text", "serve/api/chat.py", "encode_conversation"),
    ("200 only after a real forward pass", "serve/warm_up.py", "warm_up"),
)


@pytest.mark.parametrize(("sentence", "file", "name"), SENTENCES, ids=lambda each: each)
def test_a_sentence_of_the_readme_leads_to_its_code(sentence: str, file: str, name: str) -> None:
    assert sentence in " ".join((CHECKOUT / "README.md").read_text(encoding="utf-8").split())
    tree = ast.parse((PACKAGE / file).read_text(encoding="utf-8"))
    assert name in {getattr(node, "name", None) for node in tree.body}


def test_the_drawing_names_files_that_are_there() -> None:
    page = (CHECKOUT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    drawing = page.partition("```text")[2].partition("```")[0]
    named = re.findall(r"\w[\w/]*(?:\.py|/(?=\s))", drawing)
    assert len(named) > 20
    assert not [name for name in named if not (PACKAGE / name).exists()]


def test_functions_are_short() -> None:
    lengths = {module.name: max(module.functions(), default=0) for module in read(PACKAGE)}
    assert not [name for name, lines in lengths.items() if lines > LONG_FUNCTION]
