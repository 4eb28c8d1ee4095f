"""Series as a line in the terminal: braille dots, two across and four down in every character.

    120 ┤        ⢀⡠⠤⠒⠒⠢⣀
        │    ⣀⠔⠊         ⠑⢄
     60 ┤⣀⠔⠊               ⠉⠒⠤⣀
        └┬─────────┬──────────┬──
         09:00     09:20      09:40

When there are more samples than dots, a dot column spans the smallest and the largest of its samples, so that
no peak is lost. A missing sample breaks the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.cli import common, render
from mstore.cli.axis import axis

# Bits of a braille character by (column, row) of the dot; the code point is U+2800 plus their sum.
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


class _Canvas:
    """Dots, numbered from the lower left; each character remembers the series that drew in it last."""

    def __init__(self, columns: int, rows: int) -> None:
        self.columns, self.rows = columns, rows
        self.width, self.height = columns * 2, rows * 4
        self._bits = [[0] * columns for _ in range(rows)]
        self._owner = [[-1] * columns for _ in range(rows)]

    def dot(self, x: int, y: int, owner: int) -> None:
        row = self.rows - 1 - y // 4
        self._bits[row][x // 2] |= _DOTS[x % 2][3 - y % 4]
        self._owner[row][x // 2] = owner

    def row_of(self, share: float) -> int:
        """The row, from the top, of the dot at this share of the height."""
        return self.rows - 1 - round(share * (self.height - 1)) // 4

    def column(self, x: int, low: int, high: int, owner: int) -> None:
        for y in range(low, high + 1):
            self.dot(x, y, owner)

    def lines(self, colour: bool) -> list[str]:
        fancy = common.unicode_ok()
        drawn = []
        for bits, owners in zip(self._bits, self._owner, strict=True):
            cells = []
            for bit, owner in zip(bits, owners, strict=True):
                char = (chr(0x2800 + bit) if fancy else "*") if bit else " "
                shade = render.SERIES_COLOURS[owner % len(render.SERIES_COLOURS)]
                cells.append(render.paint(char, shade, colour and bool(bit)))
            drawn.append("".join(cells))
        return drawn


def plot(
    times: Sequence[NDArray[np.float64]],
    values: Sequence[NDArray[np.float64]],
    *,
    columns: int,
    rows: int = 10,
    utc: bool = False,
    colour: bool = False,
) -> list[str]:
    """Lines of text, at most `columns` wide.

    times   a series: float64[n], Unix seconds, rising
    values  a series: float64[n], NaN = missing
    """
    found = np.concatenate([one[np.isfinite(one)] for one in values]) if values else np.empty(0)
    if not len(found):
        return ["(no samples to plot)"]
    scale = axis(float(found.min()), float(found.max()), max(1, min(4, rows - 1)))
    left = scale.width
    canvas = _Canvas(max(10, columns - left - 2), rows)
    start = min(float(one[0]) for one in times if len(one))
    stop = max(float(one[-1]) for one in times if len(one))
    for owner, (when, what) in enumerate(zip(times, values, strict=True)):
        x = (when - start) / max(stop - start, 1e-9) * (canvas.width - 1)
        y = scale.shares(what) * (canvas.height - 1)
        _draw(canvas, x, y, owner)
    fancy = common.unicode_ok()
    tick, bar, corner, rule = ("┤", "│", "└", "─") if fancy else ("+", "|", "+", "-")
    labels = {canvas.row_of(share): text for share, text in scale.ticks}
    lines = [f"{scale.base} +"] if scale.base else []
    for row, line in enumerate(canvas.lines(colour)):
        label = labels.get(row, "")
        lines.append(f"{label:>{left}} {render.paint(tick if label else bar, render.DIM, colour)}{line}")
    below, told = _time_axis(start, stop, canvas.columns, utc, rule, "┬" if fancy else "+")
    lines.append(" " * (left + 1) + render.paint(corner + below, render.DIM, colour))
    lines.append(" " * (left + 2) + told)
    return [line.rstrip() for line in lines]


def _draw(canvas: _Canvas, x: NDArray[np.float64], y: NDArray[np.float64], owner: int) -> None:
    """Connect neighbours; a dot column that holds several samples spans them all."""
    spans: dict[int, tuple[int, int]] = {}
    before: tuple[int, int] | None = None
    for at, height in zip(np.rint(x).astype(int).tolist(), y.tolist(), strict=True):
        if math.isnan(height):
            before = None
            continue
        here = (at, round(height))
        for column, dot in _between(before, here):
            low, high = spans.get(column, (dot, dot))
            spans[column] = (min(low, dot), max(high, dot))
        before = here
    for column, (low, high) in spans.items():
        canvas.column(column, low, high, owner)


def _between(before: tuple[int, int] | None, here: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots on the line from one sample to the next, both ends included."""
    if before is None:
        return [here]
    (x0, y0), (x1, y1) = before, here
    n = max(abs(x1 - x0), abs(y1 - y0), 1)
    return [(round(x0 + (x1 - x0) * i / n), round(y0 + (y1 - y0) * i / n)) for i in range(n + 1)]


def _time_axis(start: float, stop: float, columns: int, utc: bool, rule: str, mark: str) -> tuple[str, str]:
    """The ruled line with its marks, and the clock times under them."""
    span = stop - start
    layout = "%H:%M:%S" if span < 600 else "%H:%M" if span < 86400 else "%d %b %H:%M"
    label = len(render.clock(start, utc, layout))
    n_marks = max(2, min(6, columns // (label + 6)))
    line, told = [rule] * columns, ""
    for i in range(n_marks):
        share = i / (n_marks - 1)
        at = round(share * (columns - 1))
        line[at] = mark
        text = render.clock(start + share * span, utc, layout)
        told = (
            told.ljust(max(len(told) + 1 if told else 0, min(at - (label // 2 if i else 0), columns - label)))
            + text
        )
    return "".join(line), told


def legend(names: list[str], lines_max: int = 3) -> list[str]:
    """The series' names in their colours, as many as fit on a few lines."""
    lines, room = [""], 0
    for index, name in enumerate(names):
        if index and room + len(name) + 2 > common.width():
            if len(lines) == lines_max:
                return [*lines, f"  ... {len(names) - index} more"]
            lines.append("")
            room = 0
        lines[-1] += "  " + render.paint(name, render.SERIES_COLOURS[index % len(render.SERIES_COLOURS)])
        room += len(name) + 2
    return lines
