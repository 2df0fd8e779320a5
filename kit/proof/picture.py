"""A timeline as a picture: PNG, and an HTML page that needs nothing else."""

import html
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kit.errors import EnvironmentNotReady
from kit.memory.plan.line import Pool
from kit.memory.timeline import Sample, Timeline
from kit.proof.explain import explain
from kit.proof.receipt import phase_results
from kit.units import GIB

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_HOST_AREAS = (
    ("private", "private_bytes", "#3b6ea8"),
    ("shared", "shared_bytes", "#8a5fa8"),
    ("mapped files", "mapped_bytes", "#a9c6e8"),
)
_DEVICE, _POOL = "#3f8f5f", "#a7d7b5"
_POINTS = 2000
_HEADROOM = 1.08  # for the phases' names
_PLAN, _BUDGET = "#555555", "#c0392b"


def write_png(timeline: Timeline, path: Path) -> None:
    """Draw the timeline; one panel for each pool that was measured.

    Raises:
        EnvironmentNotReady: matplotlib is not installed.
    """
    _figure(timeline).savefig(path, format="png", dpi=120)


def write_html(timeline: Timeline, path: Path) -> None:
    """Write a page with the picture (as SVG) and the explanation; no scripts, nothing from afar.

    Raises:
        EnvironmentNotReady: matplotlib is not installed.
    """
    svg = io.StringIO()
    _figure(timeline).savefig(svg, format="svg")
    picture = svg.getvalue()
    picture = picture[picture.index("<svg") :]
    title = f"{timeline.run.model}: memory, {timeline.run.started}"
    page = _PAGE.format(
        title=html.escape(title),
        picture=picture,
        words=html.escape("\n".join(explain(timeline))),
        rows="\n".join(_rows(timeline)),
    )
    path.write_text(page, encoding="utf-8")


def _figure(timeline: Timeline) -> "Figure":
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise EnvironmentNotReady(
            "pictures need the package matplotlib", hint="in the kit's clone: make setup"
        ) from error
    pools = [pool for pool in (Pool.DEVICE, Pool.HOST) if timeline.peak(pool)]
    with mpl.rc_context({"svg.fonttype": "none", "font.size": 9}):
        figure = Figure(figsize=(10, 1 + 3.2 * len(pools)), layout="constrained")
        axes: list[Axes] = list(figure.subplots(len(pools), 1, sharex=True, squeeze=False)[:, 0])
        for pool, panel in zip(pools, axes, strict=True):
            (_draw_device if pool is Pool.DEVICE else _draw_host)(panel, timeline)
            _draw_lines(panel, timeline, pool)
            _mark_phases(panel, timeline)
        axes[-1].set_xlabel("seconds")
        run = timeline.run
        figure.suptitle(f"{run.model}, {run.engine} engine on {run.device}, {run.started}")
    return figure


def _draw_host(panel: "Axes", timeline: Timeline) -> None:
    samples = thinned(timeline.samples)
    held = [area for area in _HOST_AREAS if any(getattr(s, area[1]) for s in samples)]
    panel.stackplot(
        [sample.seconds for sample in samples],
        *([getattr(s, name) / GIB for s in samples] for _, name, _ in held),
        labels=[label for label, _, _ in held],
        colors=[color for _, _, color in held],
    )
    panel.set_ylabel("host RAM, GiB")


def _draw_device(panel: "Axes", timeline: Timeline) -> None:
    samples = thinned(timeline.samples)
    seconds = [sample.seconds for sample in samples]
    used = [(sample.device_bytes or 0) / GIB for sample in samples]
    pool = [min((s.pool_bytes or 0) / GIB, u) for s, u in zip(samples, used, strict=True)]
    outside = [all_ - inside for all_, inside in zip(used, pool, strict=True)]
    labels = ["torch's pool", "CUDA context and kernels"]
    panel.stackplot(seconds, pool, outside, labels=labels, colors=[_DEVICE, _POOL])
    panel.set_ylabel("VRAM, GiB")


def _draw_lines(panel: "Axes", timeline: Timeline, pool: Pool) -> None:
    lines = (
        ("plan", timeline.run.planned_bytes, _PLAN, "--"),
        ("budget", timeline.run.budget_bytes, _BUDGET, "-"),
    )
    for label, sizes, color, style in lines:
        if size := sizes.get(pool.value):
            text = f"{label} {size / GIB:.2f} GiB"
            panel.axhline(size / GIB, color=color, linestyle=style, linewidth=1.2, label=text)
    panel.set_ylim(0, panel.get_ylim()[1] * _HEADROOM)
    panel.margins(x=0)
    panel.legend(loc="lower right", fontsize=8, framealpha=0.9)


def _mark_phases(panel: "Axes", timeline: Timeline) -> None:
    """A line where a phase begins, its name above; a name that has no room is left out."""
    end = timeline.samples[-1].seconds
    for phase, begin, until in timeline.spans():
        panel.axvline(begin, color="#999999", linewidth=0.6, linestyle=":")
        if end and (until - begin) / end > 0.012 * len(phase):
            panel.text(
                begin,
                0.99,
                f" {phase}",
                transform=panel.get_xaxis_transform(),
                va="top",
                fontsize=8,
                color="#444444",
            )


def _rows(timeline: Timeline) -> list[str]:
    """A row for each phase; what was not measured is a dash."""
    rows = []
    for (phase, begin, end), most in zip(timeline.spans(), phase_results(timeline), strict=True):
        sizes = (most.host_bytes, most.device_bytes)
        figures = ("–" if size is None else f"{size / GIB:.2f}" for size in sizes)
        cells = (html.escape(phase), f"{begin:.1f}", f"{end:.1f}", *figures)
        rows.append("<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>")
    return rows


def thinned(samples: Sequence[Sample], count: int = _POINTS) -> list[Sample]:
    """About ``count`` of the samples, in their order: out of each group those that hold the most.

    A service that was watched for a day has more of them than a picture has points.
    """
    size = math.ceil(len(samples) / count)
    chosen: list[Sample] = []
    for start in range(0, len(samples), size or 1):
        group = samples[start : start + size]
        peaks = {
            max(group, key=lambda s: s.host_bytes),
            max(group, key=lambda s: s.device_bytes or 0),
        }
        chosen += sorted(peaks, key=lambda s: s.seconds)
    return chosen


_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
  body {{ font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto;
         padding: 0 1rem; color: #222; background: #fff; }}
  svg {{ width: 100%; height: auto; }}
  pre {{ background: #f5f5f5; padding: 1rem; white-space: pre-wrap; }}
  table {{ border-collapse: collapse; }}
  td, th {{ border-bottom: 1px solid #ddd; padding: .2rem .8rem; text-align: right; }}
  td:first-child, th:first-child {{ text-align: left; }}
</style>
<h1>{title}</h1>
{picture}
<pre>{words}</pre>
<table>
<tr><th>phase</th><th>from, s</th><th>to, s</th><th>host RAM, GiB</th><th>VRAM, GiB</th></tr>
{rows}
</table>
</html>
"""
