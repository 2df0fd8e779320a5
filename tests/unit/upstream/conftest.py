"""The stand-in for upstream, and settings under which nothing else is touched."""

from pathlib import Path

import pytest

from kit.settings import Settings
from tests.upstream_tree import StandIn, make_stand_in


@pytest.fixture(scope="session")
def stand_in(tmp_path_factory: pytest.TempPathFactory) -> StandIn:
    return make_stand_in(tmp_path_factory.mktemp("upstream"))


@pytest.fixture
def settings(tmp_path: Path, stand_in: StandIn) -> Settings:
    """Trees go into an empty folder, and the lock is the stand-in's."""
    return Settings(
        data_dir=tmp_path / "data",
        state_dir=tmp_path / "state",
        upstream_mirror=str(stand_in.repository),
        upstream_lock=stand_in.lock_path,
    )
