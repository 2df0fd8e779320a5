import pytest

from kit.errors import EnvironmentNotReady, IntegrityError
from kit.memory.plan.line import Pool
from kit.memory.timeline import Timeline, TimelineWriter, read_timeline
from kit.units import GIB
from tests.timelines import RUN, TIMELINE, sample


def write(path, timeline=TIMELINE):
    with path.open("w", encoding="utf-8") as file:
        writer = TimelineWriter(file, timeline.run)
        for one in timeline.samples:
            writer.add(one)
    return path


def test_written_and_read_again(tmp_path):
    assert read_timeline(write(tmp_path / "t.jsonl")) == TIMELINE


def test_it_can_be_read_while_it_is_written(tmp_path):
    path = tmp_path / "t.jsonl"
    with path.open("w", encoding="utf-8") as file:
        writer = TimelineWriter(file, RUN)
        writer.add(TIMELINE.samples[0])
        assert read_timeline(path) == Timeline(RUN, TIMELINE.samples[:1])


def test_a_last_line_that_was_cut_off_is_left_out(tmp_path):
    path = write(tmp_path / "t.jsonl")
    path.write_text(path.read_text()[:-20])
    assert read_timeline(path).samples == TIMELINE.samples[:-1]


@pytest.mark.parametrize("text", ["", "{}\n", '{"kind": "timeline", "version": 2}\n', "a\nb\n"])
def test_what_is_no_timeline_is_said(tmp_path, text):
    path = tmp_path / "t.jsonl"
    path.write_text(text)
    with pytest.raises(IntegrityError, match="not a timeline"):
        read_timeline(path)


def test_a_missing_file_is_said(tmp_path):
    with pytest.raises(EnvironmentNotReady, match="cannot be read"):
        read_timeline(tmp_path / "none")


def test_phases_in_their_order():
    assert TIMELINE.spans() == (
        ("starting", 0, 1),
        ("weights", 1, 3),
        ("prefill", 3, 4),
        ("decode", 4, 4),
    )


def test_peaks_by_pool():
    assert TIMELINE.peak(Pool.HOST).seconds == 1
    assert TIMELINE.peak(Pool.DEVICE).device_bytes == 27 * GIB
    without_gpu = Timeline(RUN, (sample(0, "starting", GIB),))
    assert without_gpu.peak(Pool.DEVICE) is None
