"""The progress bar: rich's where it is installed, the plain one elsewhere, none into a pipe."""

from __future__ import annotations

import builtins
import io
from typing import Any

import pytest

from mstore.cli import progress, render


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_pipe_gets_no_bar() -> None:
    pipe = io.StringIO()
    shown = progress.bar(100, "lines", 0.0, stream=pipe)
    shown.update(50, 5, 1.0, last=True)
    shown.clear()
    assert pipe.getvalue() == ""


def test_a_terminal_gets_richs_bar_with_lines_and_speed() -> None:
    screen = Screen()
    shown = progress.bar(100, "lines", 0.0, stream=screen)
    assert isinstance(shown, progress.RichBar)
    shown.update(50, 2000, 1.0, last=True)
    shown.clear()
    assert "2,000 lines" in screen.getvalue()
    assert "50%" in screen.getvalue()


def test_without_rich_the_plain_bar_shows_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def no_rich(name: str, *rest: Any, **named: Any) -> Any:
        if name.startswith("rich"):
            raise ImportError(name)
        return real(name, *rest, **named)

    monkeypatch.setattr(builtins, "__import__", no_rich)
    screen = Screen()
    shown = progress.bar(100, "lines", 0.0, stream=screen)
    assert isinstance(shown, render.Progress)
    shown.update(50, 2000, 1.0, last=True)
    shown.clear()
    assert "2,000 lines" in screen.getvalue()
    assert "50%" in screen.getvalue()
