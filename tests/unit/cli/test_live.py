import io

from rich.console import Console

from kit.cli.memory.live import Live
from tests.timelines import RUN, TIMELINE


def shown(count):
    """Live after the first samples, and its screen at 80 columns."""
    live = Live(RUN)
    for sample in TIMELINE.samples[:count]:
        live.show(sample)
    out = io.StringIO()
    Console(file=out, width=80).print(live.screen(TIMELINE.samples[count - 1]))
    return out.getvalue().splitlines()


def test_the_screen_has_every_figure_and_fits_80_columns(capsys):
    lines = shown(5)
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    for words in (
        "spark, native engine on cuda:0",
        "27.00 GiB now, 27.00 GiB at most, ┊ plan 28.00 GiB, ┃ budget 30.00 GiB",
        "torch's pool 26.50 GiB, CUDA context 0.50 GiB",
        "private 1.50 GiB",
        "starting 1.0 s > weights 2.0 s > prefill 1.0 s > decode 0.0 s",
    ):
        assert words in text


def test_the_bar_ends_before_the_plan_where_less_is_held(capsys):
    bar = next(line for line in shown(5) if line.startswith("VRAM"))
    assert bar.rindex("█") < bar.index("┊") < bar.index("┃")


def test_no_figure_of_the_gpu_yet(capsys):
    assert "VRAM      not told yet" in shown(1)


def test_piped_a_line_for_each_phase_and_second(capsys):
    shown(5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "    0.0 s  starting  host RAM 1.00 GiB"
    assert lines[-1] == "    4.0 s  decode    host RAM 2.00 GiB, VRAM 27.00 GiB"
    assert len(lines) == 5
