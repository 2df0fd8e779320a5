"""How each rewrite stands."""

from pathlib import Path

import pytest

from kit.settings import Settings
from kit.upstream import verify
from kit.upstream.render import MEGATRON, render, write_rendered
from kit.upstream.rewrite import Rewrite, Text
from kit.upstream.selection import all_rewrites, select
from kit.upstream.source import fetch
from kit.upstream.tree import pinned, pristine_dir, read_pristine, rewritten_dir
from kit.upstream.verify import list_rewrites

STAND_IN = Rewrite(
    "stand-in", "portability", "why", "when", {"tools/stand_in.py": (Text("a stand-in", "it"),)}
)


@pytest.fixture
def one(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more rewrite, which fits the stand-in."""
    monkeypatch.setattr(verify, "all_rewrites", lambda: (*all_rewrites(), STAND_IN))


def standings(settings: Settings) -> dict[str, str]:
    return {each.rewrite.name: each.standing for each in list_rewrites(settings)}


@pytest.mark.usefixtures("one")
def test_standings(settings: Settings) -> None:
    assert set(standings(settings).values()) == {"no tree"}
    fetch(settings, None, lambda text: None)
    assert set(standings(settings).values()) == {"fits"}
    rendered = render(read_pristine(settings), select(), pinned(settings))
    write_rendered(rendered, rewritten_dir(settings))
    found = standings(settings)
    chosen = {rewrite.name for rewrite in select()}
    assert {name for name, standing in found.items() if standing == "applied"} == chosen
    assert found["stand-in"] == "fits"


@pytest.mark.usefixtures("one")
def test_a_rewrite_that_does_not_fit_says_where(settings: Settings) -> None:
    fetch(settings, None, lambda text: None)
    Path(pristine_dir(settings) / MEGATRON / "tools" / "stand_in.py").write_text("changed")
    listed = list_rewrites(settings)[-1]
    assert listed.standing == "drifted"
    assert [str(drift) for drift in listed.drift] == [
        "stand-in: tools/stand_in.py: 'a stand-in' expected 1 times, found 0"
    ]


def test_a_rewrite_whose_file_is_drifted_is_not_said_to_be_applied(settings: Settings) -> None:
    fetch(settings, None, lambda text: None)
    chosen = select()
    rendered = render(read_pristine(settings), chosen, pinned(settings))
    write_rendered(rendered, rewritten_dir(settings))
    file, names = next(iter(rendered.manifest.changed.items()))
    (rewritten_dir(settings) / file).write_text("changed")
    found = standings(settings)
    for rewrite in chosen:
        assert found[rewrite.name] == ("drifted" if rewrite.name in names else "applied")
    listed = next(each for each in list_rewrites(settings) if each.rewrite.name == names[0])
    assert listed.drift == (
        f"{names[0]}: {file} differs in the rewritten tree: kit upstream render makes it again",
    )
    (rewritten_dir(settings) / file).unlink()
    assert standings(settings)[names[0]] == "drifted"
