"""Progress on standard error: rich's bar where it is installed (the extra `cli`), our own plain one elsewhere."""

from __future__ import annotations

import sys
from typing import IO, TYPE_CHECKING, Protocol

from mstore.cli import render

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress


class Bar(Protocol):
    """What shows progress: render.Progress, or a RichBar."""

    def update(self, done: int, n_units: int, now: float, last: bool = False) -> None:
        """done: of total (bytes); n_units: what the speed is told of (lines)."""
        ...

    def clear(self) -> None: ...


class RichBar:
    """rich's bar, with the time that is left."""

    def __init__(self, shown: RichProgress, total: int | None, unit: str, now: float) -> None:
        self._shown = shown
        self._unit, self._start = unit, now
        self._task = shown.add_task("", total=total, told="")
        shown.start()

    def update(self, done: int, n_units: int, now: float, last: bool = False) -> None:
        speed = render.si(n_units / max(now - self._start, 1e-9))
        told = f"{n_units:,} {self._unit}  {speed} {self._unit}/s"
        self._shown.update(self._task, completed=done, told=told, refresh=last)

    def clear(self) -> None:
        self._shown.stop()


def bar(total: int | None, unit: str, now: float, *, on: bool = True, stream: IO[str] | None = None) -> Bar:
    """A bar for `total` bytes (None = not known); silent when `stream` (standard error) is no terminal or not `on`."""
    stream = stream or sys.stderr
    if not (on and stream.isatty()):
        return render.Progress(total, unit, now, stream, on=False)
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
    except ImportError:
        return render.Progress(total, unit, now, stream)
    columns = [
        BarColumn(None),
        TaskProgressColumn(),
        TextColumn("{task.fields[told]}"),
        TimeRemainingColumn(compact=True),
    ]
    shown = Progress(*columns, console=Console(file=stream), transient=True, expand=True)
    return RichBar(shown, total, unit, now)
