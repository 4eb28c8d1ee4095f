"""Text for terminals: tables, numbers, progress. Plain functions to strings, ANSI colours when wanted."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import IO, Any

from mstore.cli import common
from mstore.plurals import count as count

BOLD, DIM, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN = "1", "2", "31", "32", "33", "34", "35", "36"
SERIES_COLOURS = (CYAN, YELLOW, MAGENTA, GREEN, BLUE, RED)


def paint(text: str, colour: str, on: bool | None = None) -> str:
    """Text in a colour; `on` None = when standard output is a terminal that shows colours."""
    wanted = common.colours() if on is None else on
    return f"\x1b[{colour}m{text}\x1b[0m" if wanted and text else text


def number(value: float | int | None, digits: int = 6) -> str:
    """A value as a table shows it: 6 significant digits, no needless zeros; None and NaN are "-"."""
    if value is None or value != value:
        return "-"
    if isinstance(value, int):
        return str(value)
    if value == 0:
        return "0"
    text = f"{value:.{digits}g}"
    if "e" in text and 1e-4 <= abs(value) < 1e12:
        text = f"{value:.0f}"
    return text


def exact(values: Any) -> list[Any]:
    """Python numbers whose text is the shortest that reads back to the same stored value."""
    if values.dtype.kind == "f" and values.dtype.itemsize == 4:
        return [float(text) for text in values.astype(str).tolist()]
    found: list[Any] = values.tolist()
    return found


def si(value: float) -> str:
    """3 significant digits with k, M, G: 1234567 -> "1.23 M"."""
    for factor, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor * 0.9995:
            share = value / factor
            return f"{share:.3g} {letter}" if abs(share) < 999.5 else f"{value:.3g}"
    return f"{value:.3g}"


def size(n_bytes: float) -> str:
    """Bytes for people: 1536 -> "1.5 KiB"."""
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if n_bytes >= 1024**power:
            return f"{n_bytes / 1024**power:.3g} {unit}"
    return f"{n_bytes:.0f} B"


def step(seconds: object) -> str:
    """How a metric's samples follow each other: "10 s", or "stamped" for 0."""
    return f"{seconds} s" if seconds else "stamped"


def span(seconds: float) -> str:
    """A length of time for people, two units at most: 95 -> "1 min 35 s"."""
    whole = round(seconds)
    units = (("d", 86_400), ("h", 3600), ("min", 60), ("s", 1))
    at = next((i for i, (_, length) in enumerate(units) if whole >= length), len(units) - 1)
    (unit, length), rest = units[at], whole % units[at][1]
    text = f"{whole // length} {unit}"
    if at + 1 < len(units) and (more := rest // units[at + 1][1]):
        text += f" {more} {units[at + 1][0]}"
    return text


def clock(seconds: float, utc: bool, layout: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A Unix time in the terminal's zone or in UTC."""
    moment = datetime.fromtimestamp(seconds, UTC)
    return (moment if utc else moment.astimezone()).strftime(layout)


def zone(seconds: float, utc: bool) -> str:
    return "UTC" if utc else clock(seconds, False, "%Z") or "local time"


def time_range(start: float, end: float, utc: bool) -> str:
    """ "2026-01-01 10:00 to 11:00 UTC"; the second date only where it is another day."""
    one_day = clock(start, utc, "%j %Y") == clock(end, utc, "%j %Y")
    until = clock(end, utc, "%H:%M" if one_day else "%Y-%m-%d %H:%M")
    return f"{clock(start, utc, '%Y-%m-%d %H:%M')} to {until} {zone(start, utc)}"


def columns_of(text: str) -> int:
    """How many terminal columns a text takes."""
    if text.isascii():
        return len(text)
    import unicodedata

    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


def table(
    heads: Sequence[str], rows: Sequence[Sequence[str]], align: str = "", colour: bool | None = None
) -> list[str]:
    """Lines of a table. align: one of < and > a column; missing = left."""
    align = align.ljust(len(heads), "<")
    wide = [max(columns_of(text) for text in column) for column in zip(heads, *rows, strict=True)]
    rule = "─" if common.unicode_ok() else "-"
    lines = [
        paint(_row(heads, wide, align), BOLD, colour),
        paint("  ".join(rule * one for one in wide), DIM, colour),
    ]
    return lines + [_row(row, wide, align) for row in rows]


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Lines of a table without heads."""
    wide = [max(columns_of(text) for text in column) for column in zip(*rows, strict=True)]
    return [_row(row, wide, align) for row in rows]


def _row(cells: Sequence[str], wide: Sequence[int], align: str) -> str:
    padded = []
    for cell, columns, side in zip(cells, wide, align, strict=True):
        room = " " * (columns - columns_of(cell))
        padded.append(room + cell if side == ">" else cell + room)
    return "  ".join(padded).rstrip()


def in_columns(names: Sequence[str], columns: int) -> list[str]:
    """Names side by side, filled downwards, as ls does."""
    if not names:
        return []
    wide = max(columns_of(name) for name in names) + 2
    n_across = max(1, (columns + 2) // wide)
    n_down = -(-len(names) // n_across)
    rows = [names[start::n_down] for start in range(n_down)]
    return ["".join(name + " " * (wide - columns_of(name)) for name in row).rstrip() for row in rows]


class Progress:
    """A bar on standard error that redraws itself ten times a second; silent when that is no terminal."""

    def __init__(
        self, total: int | None, unit: str, now: float, stream: IO[str] | None = None, on: bool = True
    ) -> None:
        self._stream = stream or sys.stderr
        self._on = on and self._stream.isatty()
        self._total, self._unit = total, unit
        self._start = self._drawn = now

    def update(self, done: int, n_units: int, now: float, last: bool = False) -> None:
        """done: of total (bytes); n_units: what the speed is told of (lines)."""
        if not self._on or (now - self._drawn < 0.1 and not last):
            return
        self._drawn = now
        speed = n_units / max(now - self._start, 1e-9)
        told = f"{n_units:,} {self._unit}  {si(speed)} {self._unit}/s"
        if self._total:
            share = min(1.0, done / self._total)
            n_cells = max(10, common.width() - len(told) - 9)
            told = f"{_bar(share, n_cells, self._stream)} {share:4.0%}  {told}"
        self._stream.write(f"\r{told}\x1b[K")
        self._stream.flush()

    def clear(self) -> None:
        if self._on:
            self._stream.write("\r\x1b[K")
            self._stream.flush()


def _bar(share: float, n_cells: int, stream: IO[str]) -> str:
    if not common.unicode_ok(stream):
        return "[" + ("#" * int(share * (n_cells - 2))).ljust(n_cells - 2, ".") + "]"
    eighths = int(share * n_cells * 8)
    text = "█" * (eighths // 8) + (" ▏▎▍▌▋▊▉"[eighths % 8] if eighths % 8 else "")
    return paint(text.ljust(n_cells, "·"), CYAN, common.colours(stream))
