"""How a Series looks: a few lines in a terminal, a small picture in a notebook.

Series cpu_load of fritz/f0201: 60 slots of 60 s, 58 with a sample, f32
  2026-01-01T10:00:00Z .. 2026-01-01T11:00:00Z   min 0.5  mean 1.2  max 3.1
  ▁▁▂▃▅█▆▃▂▁▁
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mstore.plurals import count

if TYPE_CHECKING:
    from mstore.frames import Series

_DTYPE_NAMES = {"f4": "f32", "f8": "f64", "u8": "u64"}
_BARS = "▁▂▃▄▅▆▇█"
_SPARK_WIDTH = 72
_PICTURE_WIDTH, _PICTURE_HEIGHT = 360, 48
"""Of the picture in a notebook, in pixels."""
_LEFT = "text-align:left"
"""Notebooks set tables flush right, unless each cell says otherwise."""


class SeriesDisplay:
    """Methods of Series; nothing else has them."""

    __slots__ = ()

    def __repr__(self) -> str:
        series = cast("Series", self)
        if series.columns:
            return "\n".join([self._headline(), *(f"  {name}" for name in series.columns)])
        lines = [self._headline(), f"  {_clock(series.start)} .. {_clock(series.end)}{_range(series)}"]
        if series.valid.any():
            lines.append("  " + sparkline(series.values, series.valid))
        return "\n".join(lines)

    def _headline(self) -> str:
        """One line: what it is, of what, how much of it is there, and why there is nothing."""
        series = cast("Series", self)
        kind = (
            count(len(series), "row")
            if series.stamped
            else f"{count(len(series), 'slot')} of {series.step} s"
        )
        name = str(series.values.dtype.str[1:])
        dtype = count(len(series.columns), "column") if series.columns else _DTYPE_NAMES.get(name, name)
        present = int(np.count_nonzero(series.valid.any(axis=1) if series.columns else series.valid))
        text = f"Series {series.metric or '?'} of {series.path or '?'}: "
        text += f"{kind}, {present:,} with a sample, {dtype}"
        if series.aggregation and series.n_series > 1:
            text += f", {series.aggregation} of {series.n_series} series"
            if n_partial := int(np.count_nonzero(series.partial)):
                text += f" ({count(n_partial, 'slot')} of fewer)"
        return f"{text} ({series.why})" if series.why else text

    def _repr_html_(self) -> str:
        """A table of what it is, and its course as a picture: what a notebook shows."""
        from html import escape  # with it come the names of 2,000 characters

        series = cast("Series", self)
        rows = [("range", f"{_clock(series.start)} to {_clock(series.end)}")]
        if series.columns:
            rows.append(("columns", ", ".join(series.columns)))
        elif series.stats.count:
            stats = series.stats
            texts = (
                f"{name} {value:.6g}"
                for name, value in (("min", stats.min), ("mean", stats.avg), ("max", stats.max))
            )
            rows.append(("values", " · ".join(texts) + (f" {series.unit}" if series.unit else "")))
        body = "".join(
            f"<tr><th style='{_LEFT}'>{escape(name)}</th><td style='{_LEFT}'>{escape(text)}</td></tr>"
            for name, text in rows
        )
        shown = picture(series.values, series.valid) if not series.columns and series.valid.any() else ""
        return f"<div><b>{escape(self._headline())}</b><table>{body}</table>{shown}</div>"


def _range(series: Series) -> str:
    stats = series.stats
    if not stats.count:
        return ""
    return f"   min {stats.min:.6g}  mean {stats.avg:.6g}  max {stats.max:.6g} {series.unit}".rstrip()


def sparkline(values: NDArray[Any], valid: NDArray[np.bool_], width: int = _SPARK_WIDTH) -> str:
    """One line of bars, at most `width` wide: the mean of each run of slots, a space where none is valid.

    values  numeric [n];  valid  bool[n]
    """
    n = len(values)
    if not n:
        return ""
    with np.errstate(invalid="ignore", over="ignore"):  # infinities, and sums beyond float64
        return _bars(values, valid, min(n, width))


def _bars(values: NDArray[Any], valid: NDArray[np.bool_], width: int) -> str:
    n = len(values)
    edges = np.linspace(0, n, width, endpoint=False).astype(np.int64)
    sums = np.add.reduceat(np.where(valid, values, 0).astype(np.float64), edges)
    counts = np.add.reduceat(valid.astype(np.int64), edges)
    means = sums[counts > 0] / counts[counts > 0]
    if not len(means):
        return " " * len(edges)
    low, high = float(means.min()), float(means.max())
    # A constant is drawn low, not as a division by zero; halves keep the span finite at the ends of float64.
    span = high / 2 - low / 2
    shares = (means / 2 - low / 2) / span if span > 0 else np.zeros(len(means))
    heights = (shares * (len(_BARS) - 1)).round()
    bars = iter(np.nan_to_num(heights).clip(0, len(_BARS) - 1).astype(np.int64).tolist())
    return "".join(_BARS[next(bars)] if count else " " for count in counts.tolist())


def picture(values: NDArray[Any], valid: NDArray[np.bool_]) -> str:
    """The course as an SVG: of each pixel column the span from its smallest to its largest sample, a gap where none is.

    Neighbours are joined by a riser, so that they make a line and not a cloud of dots.

    values  numeric [n];  valid  bool[n], one of them true
    """
    numbers = values.astype(np.float64)
    finite = valid & np.isfinite(numbers)
    low, high = (float(numbers[finite].min()), float(numbers[finite].max())) if finite.any() else (0.0, 0.0)
    span = high / 2 - low / 2 or 1.0
    n, width = len(values), min(len(values), _PICTURE_WIDTH)
    edges = np.linspace(0, n, width + 1).astype(np.int64)
    bar = _PICTURE_WIDTH / width
    marks = []
    before: tuple[float, float] | None = None
    for i in range(width):
        part = numbers[edges[i] : edges[i + 1]][finite[edges[i] : edges[i + 1]]]
        if not len(part):
            before = None
            continue
        bottom, top = (
            (float(edge) / 2 - low / 2) / span * (_PICTURE_HEIGHT - 2) for edge in (part.min(), part.max())
        )
        marks.append(_box(i * bar, bar, bottom, top))
        if before is not None and (before[1] < bottom or before[0] > top):
            marks.append(_box(i * bar, 1, min(top, before[1]), max(bottom, before[0])))
        before = bottom, top
    return (
        f"<svg width='{_PICTURE_WIDTH}' height='{_PICTURE_HEIGHT}' role='img' aria-label='course'>"
        f"<path d='{''.join(marks)}' fill='#3b6ea5'/></svg>"
    )


def _box(left: float, width: float, bottom: float, top: float) -> str:
    """A filled box of an SVG's path, a pixel high at least; heights are counted from the picture's lower edge."""
    return f"M{left:.1f} {_PICTURE_HEIGHT - 1 - top:.1f}h{width:.1f}V{_PICTURE_HEIGHT - bottom:.1f}h-{width:.1f}z"


def _clock(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"
