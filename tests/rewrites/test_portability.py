"""Each rewrite for portability: what fails without it, and does not with it."""

import re
import warnings

import pytest

UNIMPORTABLE = {
    "no-apex": ("--block=apex", "No module named 'apex"),
    "no-compression": (
        "--block=deepspeed.compression.compress",
        "import of deepspeed.compression.compress halted",
    ),
    "no-torchscript": ("--no-torchscript", "'NoneType' object is not callable"),
    "no-transformers": ("--block=transformers", "import of transformers halted"),
    "no-vision": ("--block=torchvision", "torchvision"),
}
"""What is not there, and how upstream fails when it is imported."""
UNUSABLE = {
    "any-device": "not compiled with CUDA",
    "no-gradient-fusion": "gradient_accumulation_fusion set to True",
    "torch-layer-norm": "unexpected keyword argument",
}
"""How generating fails."""


@pytest.mark.parametrize("name", UNIMPORTABLE)
def test_imports(name, tree, probe):
    blocked, message = UNIMPORTABLE[name]
    without = probe(tree(without=[name]), "imports", blocked)
    assert without.code != 0, without.output
    assert re.search(message, without.output), without.output[-2000:]
    with_it = probe(tree(), "imports", *(option for option, _ in UNIMPORTABLE.values()))
    assert with_it.found == "imported", with_it.output[-2000:]


@pytest.mark.parametrize("name", UNUSABLE)
def test_generates(name, tree, probe):
    without = probe(tree(without=[name]), "generate")
    assert without.code != 0, without.output
    assert UNUSABLE[name] in without.output
    with_it = probe(tree(), "generate")
    assert with_it.code == 0, with_it.output[-2000:]


def test_dtype_checks(tree, probe):
    without = probe(tree(without=["dtype-checks"]), "dtype_functions")
    assert without.code != 0, without.output
    assert "isinstance() arg 2 must be a type" in without.output
    with_it = probe(tree(), "dtype_functions")
    assert with_it.found == ["torch.float16", "torch.int64", "torch.float32"], with_it.output


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


def test_no_warnings_at_start(tree, probe):
    assert "FutureWarning" in probe(tree(without=["any-device"]), "generate").output
    assert "Warning" not in probe(tree(), "generate").output


@pytest.mark.parametrize(
    "file", ["megatron/arguments.py", "megatron/core/tensor_parallel/cross_entropy.py"]
)
def test_escape_sequences(tree, file):
    def compile_in(folder):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            compile((folder / file).read_text(), file, "exec")

    with pytest.raises(SyntaxError, match="invalid escape sequence"):
        compile_in(tree(without=["escape-sequences"]))
    compile_in(tree())
