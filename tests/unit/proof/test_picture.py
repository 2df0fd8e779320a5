import re

import pytest

from kit.memory.plan.line import Pool
from kit.memory.timeline import Timeline
from kit.proof.picture import thinned, write_html, write_png
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


def test_what_was_not_measured_is_no_zero(tmp_path):
    write_html(Timeline(RUN, (sample(0, "starting", GIB),)), tmp_path / "t.html")
    assert "<td>1.00</td><td>–</td>" in (tmp_path / "t.html").read_text(encoding="utf-8")


def test_few_points_of_many_samples_and_every_peak_among_them():
    samples = [sample(i, "serving", GIB + i % 7, GIB + i % 5) for i in range(1000)]
    points = thinned(samples, 100)
    assert 100 <= len(points) <= 200
    assert [one.seconds for one in points] == sorted({one.seconds for one in points})
    for pool in (Pool.HOST, Pool.DEVICE):
        assert Timeline(RUN, points).peak(pool) == Timeline(RUN, samples).peak(pool)
    assert thinned(samples[:3], 100) == samples[:3]
    assert thinned([], 100) == []
