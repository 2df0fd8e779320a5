"""Indices of training data by numpy, against upstream's own helper, compiled."""

import importlib.util
import shutil
import subprocess
import sys
import sysconfig
from types import ModuleType

import numpy as np
import pytest

from kit.upstream.added import helpers


@pytest.fixture(scope="session")
def compiled(tree, tmp_path_factory) -> ModuleType:
    """Upstream's helpers.cpp, outside of the tree."""
    if not shutil.which("c++"):
        pytest.skip("there is no c++ to compile upstream's helper")
    pybind11 = pytest.importorskip("pybind11", reason="pybind11 is not installed")
    source = tree() / "megatron" / "data" / "helpers.cpp"
    library = (
        tmp_path_factory.mktemp("helpers") / f"helpers{sysconfig.get_config_var('EXT_SUFFIX')}"
    )
    paths = (pybind11.get_include(), sysconfig.get_path("include"))
    options = ["-O1", "-shared", "-std=c++17", "-fPIC", *(f"-I{path}" for path in paths)]
    subprocess.run(["c++", *options, str(source), "-o", str(library)], check=True)
    spec = importlib.util.spec_from_file_location("helpers", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.modules.pop("helpers", None)
    return module


@pytest.mark.parametrize("seed", range(10))
def test_samples(compiled, seed):
    random = np.random.default_rng(seed)
    sizes = random.integers(0, 50, size=200, dtype=np.int32)
    epochs, seq_length = 1 + seed % 3, int(random.integers(2, 90))
    order = np.concatenate([random.permutation(200) for _ in range(epochs)]).astype(np.int32)
    arguments = (sizes, order, seq_length, epochs, int(sizes.sum()))
    theirs = compiled.build_sample_idx(*arguments)
    ours = helpers.build_sample_idx(*arguments)
    assert ours.dtype == theirs.dtype
    assert np.array_equal(ours, theirs)


@pytest.mark.parametrize("weights", [[1.0], [0.5, 0.5], [0.7, 0.2, 0.1], [0.1] * 10])
def test_blends(compiled, weights):
    shares, size = np.array(weights), 5000
    found = []
    for build in (compiled.build_blending_indices, helpers.build_blending_indices):
        found.append((np.zeros(size, np.uint8), np.zeros(size, np.int64)))
        build(*found[-1], shares, len(weights), size, False)
    assert np.array_equal(found[0][0], found[1][0])
    assert np.array_equal(found[0][1], found[1][1])
