"""Series as a picture, PNG or SVG, drawn by matplotlib: panels with a common time axis.

A panel of a few series is a line for each. More would be a tangle: it is a band from the smallest to the largest
value of any of them at a time, and the mean as a line.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from mstore.cli.courses import Floats, band, drawn, stretches
from mstore.conversions import library
from mstore.errors import InvalidRequest

if TYPE_CHECKING:
    from mstore.frames import Series

LINES_MAX = 7
"""More series than colours that can be told apart become a band."""
PANELS_MAX = 120
"""In one picture: what matplotlib draws in some ten seconds, and a PNG of 10,000 pixels' height."""
# Of Okabe and Ito: told apart by colour-blind people, and on paper.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000")
_INCHES = {1: (9.0, 4.0), 2: (5.4, 2.7), 3: (4.4, 2.3)}
"""Width and height of a panel, by how many stand side by side."""
_DPI = 110
SHADES_MAX = 500
"""In one panel: more would be drawn for seconds, and be one grey."""
_VALUE_MAX = 1e300
_OPTIONS = {
    "svg.hashsalt": "mstore", "text.parse_math": False, "font.size": 9.0, "axes.titlesize": 9.5,
    "path.simplify_threshold": 0.3,
}  # fmt: skip
"""The same input is the same file: no random ids, no date. Names are no formulas."""


@dataclass(frozen=True, slots=True)
class Panel:
    """One set of axes: series by name."""

    title: str
    unit: str
    series: Sequence[tuple[str, Series]]


def picture(panels: Sequence[Panel], title: str, kind: str, *, utc: bool = False) -> bytes:
    """The picture's file.

    kind    "png" or "svg"
    utc     times in UTC instead of the local zone
    raises  InvalidRequest for too many panels; MissingLibrary without matplotlib
    """
    figures, rc = library("matplotlib.figure"), library("matplotlib").rc_context
    if len(panels) > PANELS_MAX:
        raise InvalidRequest(
            f"{len(panels)} panels are too many for a picture (at most {PANELS_MAX}): choose metrics"
        )
    n_across = 1 if len(panels) == 1 else 2 if len(panels) <= 4 else 3
    n_down = -(-len(panels) // n_across)
    wide, high = _INCHES[n_across]
    with rc(_OPTIONS):
        figure = figures.Figure(figsize=(wide * n_across, high * n_down + 0.4), layout="constrained")
        axes = figure.subplots(n_down, n_across, squeeze=False).ravel()
        for ax, panel in zip(axes, panels, strict=False):
            _draw(ax, panel, utc)
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        _legends(figure, axes[: len(panels)], panels)
        figure.suptitle(title, fontsize=10)
        file = io.BytesIO()
        figure.savefig(file, format=kind, dpi=_DPI, metadata={"Date": None} if kind == "svg" else None)
    return file.getvalue()


def _draw(ax: Any, panel: Panel, utc: bool) -> None:
    if len(panel.series) <= LINES_MAX:
        for (name, series), colour in zip(panel.series, _COLOURS, strict=False):
            # A sample between two gaps is no line: it needs a dot.
            values = _bounded(drawn(series))
            style = {"marker": ".", "markersize": 2.5} if _has_loners(values) else {}
            ax.plot(_dates(series.times_ms), values, color=colour, linewidth=1.1, label=name, **style)
    else:
        times, lowest, mean, highest = band([series for _, series in panel.series])
        dates = _dates((times * 1000).astype(np.int64))
        lowest, mean, highest = map(_bounded, (lowest, mean, highest))
        ax.fill_between(dates, lowest, highest, color=_COLOURS[0], alpha=0.25, linewidth=0)
        ax.plot(dates, mean, color=_COLOURS[0], linewidth=1.1)
        ax.set_title(f"mean and span of {len(panel.series)}", loc="right", fontsize=7, color="0.35")
    _shade(ax, [series for _, series in panel.series])
    ax.set_title(panel.title, loc="left")
    if panel.unit:
        ax.set_ylabel(panel.unit)
    low, high = ax.dataLim.intervaly
    if 0 <= low < 0.6 * high:
        ax.set_ylim(bottom=0)
    ax.grid(alpha=0.25, linewidth=0.5)
    ax.spines[["top", "right"]].set_visible(False)
    dates_module = library("matplotlib.dates")
    zone = UTC if utc else datetime.now().astimezone().tzinfo
    locator = dates_module.AutoDateLocator(tz=zone, minticks=3, maxticks=7)
    ax.xaxis.set_major_locator(locator)
    ax.xaxis.set_major_formatter(dates_module.ConciseDateFormatter(locator, tz=zone, show_offset=False))
    first, last = ax.dataLim.intervalx
    around = 30 / 86_400 if first == last else 0.0  # a single time has no span: a minute around it
    ax.set_xlim(first - around, last + around)


def _shade(ax: Any, found: Sequence[Series]) -> None:
    """Where an aggregate lacks some of its series, and a word about what the shade means."""
    spans = sorted({span for series in found for span in stretches(series)})[:SHADES_MAX]
    for first, stop in spans:
        ends = _dates(np.array([first, stop]) * 1000)
        ax.axvspan(ends[0], ends[1], color="0.5", alpha=0.2, linewidth=0)
    if spans:
        ax.set_xlabel("shaded: not all series contributed", fontsize=7, color="0.35")


def _legends(figure: Any, axes: Any, panels: Sequence[Panel]) -> None:
    """One below all panels when their lines have the same names, else one in each."""
    lined = [
        (ax, tuple(name for name, _ in panel.series))
        for ax, panel in zip(axes, panels, strict=True)
        if len(panel.series) <= LINES_MAX
    ]
    if len({names for _, names in lined}) == 1:
        ax, names = lined[0]
        if len(names) > 1:
            figure.legend(
                *ax.get_legend_handles_labels(), loc="outside lower center", ncols=LINES_MAX, fontsize=8
            )
        return
    for ax, names in lined:
        if len(names) > 1:
            ax.legend(loc="upper right", fontsize=7, ncols=2 if len(names) > 3 else 1, framealpha=0.7)


def _bounded(values: Floats) -> Floats:
    """Without infinities, and without what lies so near the end of float64 that an axis of it would overflow."""
    return np.where(np.isfinite(values), np.clip(values, -_VALUE_MAX, _VALUE_MAX), np.nan)


def _dates(times_ms: Any) -> Any:
    return times_ms.astype("datetime64[ms]")


def _has_loners(values: Floats) -> bool:
    """Whether a value has a gap, or nothing, on both sides."""
    gap = np.concatenate([[True], np.isnan(values), [True]])
    return bool((~gap[1:-1] & gap[:-2] & gap[2:]).any())
