"""The engine with ranks that really run, one and two of them, on the stand-in for upstream."""

import os
import queue
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from kit.errors import EnvironmentNotReady, IntegrityError, ServiceError, UsageError
from kit.memory.probes.proc import descendants, process_stat
from kit.memory.unavailable import Unavailable
from kit.serve.engine import ModelInfo, SamplingParams, Step
from kit.serve.megatron.engine import MegatronEngine
from kit.serve.megatron.folder import read_folder
from kit.serve.worker import EngineDied
from tests.stand_in_megatron import DIES, FAILS, TREE, greedy, scores

Steps = queue.Queue[Step | Exception]
PROMPT = [100, 7, 1500]


@dataclass(frozen=True)
class Running:
    """A loaded engine; ``pids`` are its ranks' and, before them, their launcher's, if any."""

    engine: MegatronEngine
    info: ModelInfo
    pids: list[int]

    @property
    def ranks(self) -> list[int]:
        return self.pids[-self.info.tensor_parallel :]


@contextmanager
def running(folder: Path, **options: object) -> Iterator[Running]:
    before = descendants(os.getpid())
    engine = MegatronEngine(read_folder(folder), TREE, device="cpu", **options)
    info = engine.load(lambda phase, fraction: None)
    started = set(descendants(os.getpid())) - set(before)
    run = Running(engine, info, sorted(started, key=lambda pid: (start_ticks(pid), pid)))
    try:
        yield run
    finally:
        engine.close()
        until_gone(run.pids)


def start_ticks(pid: int) -> int:
    stat = process_stat(pid)
    assert not isinstance(stat, Unavailable)
    return stat.start_ticks


def submit(engine: MegatronEngine, ids: list[int], **params: object) -> Steps:
    steps: Steps = queue.Queue()
    engine.submit(ids, SamplingParams(**{"ignore_end": True} | params), steps.put)
    return steps


def collect(steps: Steps) -> list[Step]:
    collected: list[Step] = []
    while not collected or collected[-1].finish_reason is None:
        step = steps.get(timeout=60)
        if isinstance(step, Exception):
            raise step
        collected.append(step)
    return collected


def tokens(steps: Steps) -> list[int]:
    return [step.token_id for step in collect(steps)]


def until_gone(pids: tuple[int, ...]) -> None:
    deadline = time.monotonic() + 30
    while not all(
        isinstance(stat := process_stat(pid), Unavailable) or stat.state == "Z" for pid in pids
    ):
        assert time.monotonic() < deadline, "the ranks go on"
        time.sleep(0.02)


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def run(make_shards, request, tmp_path_factory) -> Iterator[Running]:
    compiled = tmp_path_factory.mktemp("extensions")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCH_EXTENSIONS_DIR", str(compiled))
        with running(make_shards(request.param), dtype="float32") as run:
            yield run
    assert list(compiled.iterdir()) == [], "something was compiled at the start"


@pytest.fixture
def engine(run) -> MegatronEngine:
    return run.engine


def test_tokens_are_those_of_the_model(engine, table):
    assert tokens(submit(engine, PROMPT, max_tokens=12)) == greedy(table, PROMPT, 12)
    penalised = tokens(submit(engine, PROMPT, max_tokens=12, presence_penalty=50.0))
    assert penalised == greedy(table, PROMPT, 12, presence=50.0)
    assert len(set(penalised)) == 12


def test_sequences_wait_for_each_other_and_share_nothing(engine, table):
    prompts = [[n, n + 1] for n in range(20, 26)]
    queues = [submit(engine, ids, max_tokens=5) for ids in prompts]
    assert [tokens(steps) for steps in queues] == [greedy(table, ids, 5) for ids in prompts]


def test_log_probabilities_are_of_the_models_own_scores(engine, table):
    [step] = collect(submit(engine, PROMPT, max_tokens=1, top_logprobs=3))
    expected = torch.log_softmax(scores(table, PROMPT), dim=-1)
    assert step.logprobs.chosen == pytest.approx(float(expected.max()), abs=1e-4)
    assert [token for token, _ in step.logprobs.top] == torch.topk(expected, 3).indices.tolist()


def test_a_seed_repeats(engine):
    options = {"max_tokens": 8, "temperature": 50.0}
    first, second, other = (
        tokens(submit(engine, PROMPT, seed=seed, **options)) for seed in (1, 1, 2)
    )
    assert first == second != other


def test_what_does_not_fit_is_refused(engine):
    with pytest.raises(ValueError, match="do not fit a context of 1024"):
        submit(engine, PROMPT, max_tokens=1022)


def test_a_whole_context(engine):
    ids = [100 + n % 7 for n in range(1000)]
    assert len(tokens(submit(engine, ids, max_tokens=24))) == 24


def test_what_it_says_of_itself(run):
    info, ranks = run.info, len(run.pids) - (len(run.pids) > 1)
    assert (info.tensor_parallel, info.dtype, info.device) == (ranks, "float32", "cpu")
    assert (info.context_length, info.max_sequences, info.vocab_size) == (1024, 1, 2000)
    assert info.end_token_id == 5
    assert info.weights_bytes == 2000 * 64 * 4
    assert info.kv_cache_bytes == 2 * 4 * 64 * 4 * 1024
    assert run.engine.stats().device_peak_reserved_bytes is None


def test_signals_to_stop_are_for_the_server_alone(run, table):
    for pid in run.ranks:
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)
    assert tokens(submit(run.engine, PROMPT, max_tokens=3)) == greedy(table, PROMPT, 3)


def test_half_precision_and_a_context_of_ones_own(make_shards, table):
    with running(make_shards(1), context=300) as run:
        assert (run.info.dtype, run.info.context_length) == ("bfloat16", 300)
        assert run.info.weights_bytes == 2000 * 64 * 2
        rounded = greedy(table.bfloat16(), PROMPT, 6)
        assert tokens(submit(run.engine, PROMPT, max_tokens=6)) == rounded
        with pytest.raises(ServiceError, match="ArithmeticError: a token that fails"):
            collect(submit(run.engine, [1, FAILS], max_tokens=3))
        assert tokens(submit(run.engine, PROMPT, max_tokens=6)) == rounded
        assert run.engine.healthy()


def test_ranks_that_cannot_follow_each_other_end_together(make_shards):
    with running(make_shards(2)) as run:
        with pytest.raises(EngineDied, match="a token that fails"):
            collect(submit(run.engine, [1, FAILS], max_tokens=3))
        assert isinstance(run.engine.wait(), EngineDied)


@pytest.mark.parametrize("ranks", [1, 2])
def test_a_rank_that_is_killed_while_it_works_ends_the_engine(make_shards, ranks):
    with running(make_shards(ranks)) as run:
        killed, waits = (submit(run.engine, ids, max_tokens=3) for ids in ([1, DIES], PROMPT))
        for steps in (killed, waits):
            with pytest.raises(EngineDied, match=f"rank {ranks - 1} .*: killed by SIGKILL"):
                collect(steps)
        assert "killed by SIGKILL" in run.engine.wait().message
        assert not run.engine.healthy()
        until_gone(run.pids)


@pytest.mark.parametrize(("index", "who"), [(2, "rank 1"), (0, "DeepSpeed's launcher")])
def test_what_is_killed_while_nothing_runs_ends_the_engine(make_shards, index, who):
    with running(make_shards(2)) as run:
        os.kill(run.pids[index], signal.SIGKILL)
        assert f"{who} ended unexpectedly: killed by SIGKILL" in run.engine.wait().message
        with pytest.raises(EngineDied):
            collect(submit(run.engine, PROMPT, max_tokens=3))
        until_gone(run.pids)


def test_a_tree_that_does_not_start_is_an_error_with_its_last_words(make_shards, tmp_path, caplog):
    (tmp_path / "megatron").mkdir()
    engine = MegatronEngine(read_folder(make_shards(1)), tmp_path, device="cpu")
    with pytest.raises(ServiceError, match="upstream's code failed: ModuleNotFoundError"):
        engine.load(lambda phase, fraction: None)
    assert "Traceback" in caplog.text


def test_weights_that_are_not_numbers_never_become_ready(make_shards, tmp_path):
    folder = tmp_path / "nan"
    shutil.copytree(make_shards(1), folder)
    path = folder / "mp_rank_00_model_states.pt"
    state = torch.load(path)
    state["module"]["language_model"]["embedding"]["word_embeddings"]["weight"][3, 3] = torch.nan
    torch.save(state, path)
    engine = MegatronEngine(read_folder(folder), TREE, device="cpu")
    with pytest.raises(IntegrityError, match="not numbers"):
        engine.load(lambda phase, fraction: None)


def test_limits_are_checked_before_anything_starts(make_shards):
    folder = read_folder(make_shards(1))
    with pytest.raises(UsageError, match="made for 2 to 1024"):
        MegatronEngine(folder, TREE, device="cpu", context=2048).load(lambda *_: None)
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(EnvironmentNotReady, match="torch sees none"):
        MegatronEngine(folder, TREE, device="cuda").load(lambda *_: None)
