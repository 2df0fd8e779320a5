"""The megatron engine in a container, with its ranks, on the stand-in for upstream that runs."""

import shutil
from pathlib import Path

import openai
import pytest
import torch

from kit.models.spark.tokenization_spark import SparkTokenizer
from tests.container.conftest import Run
from tests.shapes import parts, save_shards
from tests.stand_in_megatron import greedy, install

pytestmark = pytest.mark.container

GOLDEN = Path(__file__).parents[1] / "golden" / "data" / "a"
PROMPT = [7, 11, 13]
TOKENS = 12


@pytest.mark.parametrize("ranks", [1, 2])
def test_it_answers(run: Run, tmp_path: Path, ranks: int) -> None:
    source = torch.load(GOLDEN / "ckpt" / "mp_rank_00_model_states.pt")
    checkpoint = save_shards(source, tmp_path / "checkpoint", ranks)
    shutil.copy(GOLDEN / "config.json", checkpoint)
    shutil.copy(GOLDEN / "tokenizer" / "tokenizer.model", checkpoint)
    upstream = tmp_path / "upstream"
    upstream.mkdir()
    mounted = {
        name: path.replace(str(upstream), "/stand-in") for name, path in install(upstream).items()
    }
    variables = {"KIT_ENGINE": "megatron", "KIT_DEVICE": "cpu"} | mounted
    options = [f"--env={name}={value}" for name, value in variables.items()]

    container = run(*options, f"--volume={upstream}:/stand-in:ro", model=checkpoint)
    container.wait_ready()
    client = openai.OpenAI(base_url=f"{container.url}/v1", api_key="none", timeout=60)
    answer = client.completions.create(
        model="demo", prompt=PROMPT, max_tokens=TOKENS, presence_penalty=0, frequency_penalty=0
    )
    _, table = parts(source)
    expected = greedy(table.bfloat16(), PROMPT, TOKENS)
    tokenizer = SparkTokenizer(str(GOLDEN / "tokenizer" / "tokenizer.model"))
    assert answer.choices[0].text == tokenizer.decode(expected)
    container.signal("TERM")
    assert container.wait_ended() == 0
