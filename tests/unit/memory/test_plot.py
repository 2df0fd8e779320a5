import re

import pytest

from kit.memory.plot import write_html, write_png
from kit.memory.timeline import Timeline
from kit.units import GIB
from tests.timelines import RUN, TIMELINE, sample


def test_a_png(tmp_path):
    write_png(TIMELINE, tmp_path / "t.png")
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")


def test_a_page_that_needs_nothing_else(tmp_path):
    write_html(TIMELINE, tmp_path / "t.html")
    page = (tmp_path / "t.html").read_text(encoding="utf-8")
    for word in ("plan 28.00 GiB", "budget 30.00 GiB", "prefill", "VRAM, GiB", "host RAM, GiB"):
        assert word in page
    assert "<script" not in page
    assert not re.findall(r"""(?:src|href)=["']https?:""", page.replace("xlink:href", ""))


def test_names_are_escaped(tmp_path):
    odd = Timeline(RUN.__class__(**{**vars(RUN), "model": "<b>&"}), TIMELINE.samples)
    write_html(odd, tmp_path / "t.html")
    assert "<b>&" not in (tmp_path / "t.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("count", [1, 2])
def test_few_samples_and_no_gpu(tmp_path, count):
    samples = tuple(sample(i, "starting", GIB) for i in range(count))
    write_png(Timeline(RUN, samples), tmp_path / "t.png")
