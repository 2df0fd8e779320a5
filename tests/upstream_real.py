"""The real upstream repo, where KIT_UPSTREAM_DIR names a clone of it at the pinned commit."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from kit.settings import Settings
from kit.upstream.fetch import fetch
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.selection import select
from kit.upstream.tree import pinned, read_pristine, rewritten_dir


def rewritten_tree(folder: Path, groups: Iterable[str] | None = None) -> Path:
    """The ``deepspeed-megatron`` folder, fetched and rewritten below ``folder``.

    The test skips where KIT_UPSTREAM_DIR is not set.
    """
    named = os.environ.get("KIT_UPSTREAM_DIR")
    if not named:
        pytest.skip("KIT_UPSTREAM_DIR does not name a clone of the real upstream repo")
    settings = Settings(data_dir=folder, state_dir=folder)
    fetch(settings, named, print)
    rendered = render(read_pristine(settings), select(groups), pinned(settings))
    write_rendered(rendered, rewritten_dir(settings))
    return rewritten_dir(settings) / MEGATRON
