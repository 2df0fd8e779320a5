"""Shared by all tests: small random Spark models in converted form."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell's background jobs inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)
TOKENIZER = Path(__file__).parent / "golden" / "data" / "a" / "tokenizer" / "tokenizer.model"


BY_TURNS = frozenset({"e2e", "gpu", "container"})
"""Folders whose tests start servers with ports and budgets: side by side they would disturb each
other, so one of pytest-xdist's processes runs them all."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where tests run in several processes, those of one of these folders, or of a file, stay
    together. (xdist 3.8 has groups, but pytest 9.2 takes the ids of tests from elsewhere.)
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByTurns(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            path = nodeid.partition("::")[0]
            folder = path.split("/")[1]
            if path == "tests/contracts/test_runtime.py":  # starts containers, too
                return "container"
            return folder if folder in BY_TURNS else path

    return ByTurns(config, log)


@pytest.fixture(scope="session")
def make_model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """``make_model(**config)``: a directory as ``kit weights convert`` makes it, weights random."""

    def make(**overrides: Any) -> Path:
        import torch
        from safetensors.torch import save_file

        from kit.models.spark import SparkConfig, SparkForCausalLM
        from kit.weights.convert.support_files import write_support_files

        config: dict[str, Any] = {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "intermediate_size": 48,
            "vocab_size": 2000,
            "num_attention_heads": 2,
            "max_position_embeddings": 2048,
            "sliding_window": 256,
            "layer_norm_eps": 1e-5,
            "rope_theta": 1e6,
            "dtype": "float32",
        } | overrides
        directory = tmp_path_factory.mktemp("model")
        write_support_files(directory, config, TOKENIZER)
        torch.manual_seed(0)
        model = SparkForCausalLM(SparkConfig.from_pretrained(directory))
        tensors = {
            name: (torch.randn_like(tensor) * 0.2 + (name.endswith("norm.weight"))).to(
                getattr(torch, config["dtype"])
            )
            for name, tensor in model.state_dict().items()
            if name != "lm_head.weight"
        }
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return directory

    return make
