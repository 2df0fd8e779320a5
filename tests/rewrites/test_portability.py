"""Each rewrite for portability: what fails without it, and does not with it."""

import re

import pytest

FAILURES = {
    "no-apex": ("imports", (), "No module named 'apex'"),
    "no-compression": (
        "imports",
        ("--block=deepspeed.compression.compress",),
        "import of deepspeed.compression.compress halted",
    ),
    "no-vision": ("imports", ("--block=torchvision",), "torchvision"),
    "no-transformers": ("imports", ("--block=transformers",), "import of transformers halted"),
    "any-device": ("generate", (), "not compiled with CUDA"),
    "torch-layer-norm": ("generate", (), "unexpected keyword argument"),
    "no-gradient-fusion": ("generate", (), "gradient_accumulation_fusion set to True"),
    "dtype-checks": ("dtype_functions", (), r"isinstance\(\) arg 2 must be a type"),
}
FOUND = {
    "imports": "imported",
    "dtype_functions": ["torch.float16", "torch.int64", "torch.float32"],
}


@pytest.mark.parametrize("name", FAILURES)
def test_fails_without_and_passes_with_it(name, tree, probe):
    what, options, message = FAILURES[name]
    without = probe(tree(without=[name]), what, *options)
    assert without.code != 0, without.output
    assert re.search(message, without.output), without.output[-2000:]
    with_it = probe(tree(), what, *options)
    assert with_it.code == 0, with_it.output[-2000:]
    assert with_it.found == FOUND.get(what, with_it.found)


def test_help_text(tree, probe):
    without = probe(tree(without=["help-text"]), "help_text")
    assert "incomplete format" in without.output or "unsupported format" in without.output
    with_it = probe(tree(), "help_text")
    assert with_it.code == 0, with_it.output[-2000:]
    assert "--localsize" in with_it.output


def test_no_compile(tree, probe, tmp_path):
    """With no make on the path: upstream gives up, the rewritten tree does not look for it."""
    without = probe(tree(without=["no-compile"]), "generate", path=str(tmp_path))
    assert without.code != 0, without.output
    assert "make" in without.output
    with_it = probe(tree(), "generate", path=str(tmp_path))
    assert with_it.code == 0, with_it.output[-2000:]
