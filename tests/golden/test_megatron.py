"""The megatron engine on the real upstream, rewritten: upstream's tokens, by one rank or two."""

import queue
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from golden_runs import greedy_tokens, read_cases

from kit.serve.engine import SamplingParams, Step
from kit.serve.megatron.engine import MegatronEngine
from kit.serve.megatron.folder import read_folder
from tests.shapes import save_shards
from tests.upstream_real import rewritten_tree

DTYPES = {"fp32": "float32", "bf16": "bfloat16"}


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rewritten_tree(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def start(tree: Path, golden, tmp_path: Path) -> Iterator[Callable[..., MegatronEngine]]:
    """Starts engines of the golden checkpoint in any number of shards."""
    engines: list[MegatronEngine] = []

    def start_one(precision: str, ranks: int) -> MegatronEngine:
        recorded = golden.folder / f"ckpt_tp{ranks}"
        source = golden.path("ckpt") / "mp_rank_00_model_states.pt"
        if ranks > 1 and recorded.exists():  # cut by upstream's own tool
            folder = Path(shutil.copytree(recorded, tmp_path / "shards"))
        else:
            folder = save_shards(torch.load(source), tmp_path / "shards", ranks)
        shutil.copytree(golden.path("tokenizer"), folder / "tokenizer")
        shutil.copy(golden.path("config.json"), folder)
        context = golden.context
        engine = MegatronEngine(
            read_folder(folder), tree, device="cpu", dtype=DTYPES[precision], context=context
        )
        engines.append(engine)
        engine.load(lambda phase, fraction: None)
        return engine

    yield start_one
    for engine in engines:
        engine.close()


@pytest.mark.parametrize(("precision", "ranks"), [("fp32", 1), ("fp32", 2), ("bf16", 1)])
def test_greedy_tokens_are_upstreams(golden, start, precision, ranks):
    recorded = read_cases(golden.folder, precision)
    if not recorded:
        pytest.skip(f"no {precision} generation recorded here")
    if golden.config["num_attention_heads"] % ranks or golden.config["vocab_size"] % ranks:
        pytest.skip(f"this model cannot be cut into {ranks} shards")
    engine = start(precision, ranks)
    for case in recorded:
        assert greedy_tokens(engine, case) == case.tokens, case.name


def test_scores_are_upstreams(golden, start):
    """Greedy tokens alone hide small errors; the scores of a prompt's last position do not."""
    recorded = golden.tensors("logits_fp32.safetensors")
    engine = start("fp32", 1)
    params = SamplingParams(max_tokens=1, top_logprobs=20)
    for name in [name for name in recorded if name.startswith("ids_")]:
        steps: queue.Queue[Step | Exception] = queue.Queue()
        engine.submit(recorded[name].tolist(), params, steps.put)
        step = steps.get(timeout=120)
        assert isinstance(step, Step), step
        expected = recorded[name.replace("ids", "logits")][-1].log_softmax(-1)
        for token, logprob in step.logprobs.top:
            assert abs(logprob - expected[token].item()) < 1e-4, name
