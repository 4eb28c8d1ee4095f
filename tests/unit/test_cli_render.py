"""Tables, numbers, bars and plots as text."""

from __future__ import annotations

import io

import numpy as np
import pytest

from mstore.cli import common
from mstore.cli.plot import plot
from mstore.cli.render import Progress, in_columns, number, si, size, table

NAN = float("nan")


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (NAN, "-"), (0.0, "0"), (1.0, "1"), (0.1, "0.1"), (1234567.0, "1234567"),
     (1e-9, "1e-09"), (1e15, "1e+15"), (123.456789, "123.457"), (-2.5, "-2.5"),
     (2**63, "9223372036854775808")],
)  # fmt: skip
def test_numbers_have_six_digits_and_no_needless_zeros(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (614, "614"),
        (999.4, "999"),
        (999.6, "1 k"),
        (1234567, "1.23 M"),
        (999_700, "1 M"),
        (2.5e12, "2.5 T"),
    ],
)
def test_speeds_have_three_digits_and_a_letter(value: float, text: str) -> None:
    assert si(value) == text


def test_sizes_are_binary() -> None:
    assert [size(n) for n in (0, 1023, 1024, 1536, 3 << 30)] == ["0 B", "1023 B", "1 KiB", "1.5 KiB", "3 GiB"]


def test_a_table_is_aligned_by_what_the_terminal_shows() -> None:
    lines = table(("a", "b"), [["é°C", "1"], ["x", "100"], ["表", "5"]], "<>", colour=False)
    assert lines == ["a      b", "───  ───", "é°C    1", "x    100", "表     5"]


def test_an_empty_table_is_its_head() -> None:
    assert table(("name", "n"), [], colour=False) == ["name  n", "────  ─"]


def test_names_fill_columns_downwards() -> None:
    assert in_columns(["a", "b", "c", "d", "e"], 8) == ["a  c  e", "b  d"]
    assert in_columns([], 80) == []
    assert in_columns(["long" * 30], 20) == ["long" * 30]


def test_progress_is_silent_off_a_terminal_and_never_wider_than_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")
    pipe = io.StringIO()
    Progress(100, "lines", 0.0, pipe).update(50, 5, 1.0)
    assert pipe.getvalue() == ""
    screen = Terminal()
    bar = Progress(100, "lines", 0.0, screen)
    for done in range(101):
        bar.update(done, done * 10_000, done * 0.2)
    frames = screen.getvalue().replace("\x1b[K", "").split("\r")[1:]
    assert len(frames) > 90
    assert max(len(frame) for frame in frames) <= 80
    assert "100%  1,000,000 lines" in frames[-1]


def test_a_plot_draws_between_round_numbers_and_clock_times() -> None:
    times = np.arange(0.0, 3600.0, 60.0)
    lines = plot([times], [np.linspace(0, 97, 60)], columns=60, rows=5, utc=True)
    assert [line.split("┤")[0].strip() for line in lines if "┤" in line] == ["100", "75", "50", "25", "0"]
    assert max(map(len, lines)) <= 60
    assert lines[-1].split()[0] == "00:00"
    assert lines[-1].split()[-1] == "00:59"


@pytest.mark.parametrize(
    "values",
    [
        [5.0],
        [5.0, 5.0],
        [0.0, 0.0],
        [-3.0, -3.0],
        [-1e30, 1e30],
        [1e-12, 2e-12],
        [NAN, 1.0, NAN],
        [3e9, 3e9 + 1],
        [-5.0, 7.0],
    ],
)
def test_any_values_can_be_plotted(values: list[float]) -> None:
    lines = plot([np.arange(float(len(values)))], [np.array(values)], columns=50, rows=6, utc=True)
    assert max(map(len, lines)) <= 50
    assert any("⠀" < char <= "⣿" for char in "".join(lines))


def test_nothing_to_plot_is_said() -> None:
    assert plot([], [], columns=40) == ["(no samples to plot)"]
    assert plot([np.arange(2.0)], [np.array([NAN, NAN])], columns=40) == ["(no samples to plot)"]


def test_a_missing_sample_breaks_the_line() -> None:
    def dots(values: list[float]) -> int:
        times = np.arange(float(len(values)))
        text = "".join(plot([times], [np.array(values)], columns=60, rows=4, utc=True))
        return sum("⠀" < char <= "⣿" for char in text)

    assert dots([1.0, NAN, 1.0]) < 5 < dots([1.0, 1.0, 1.0])


def test_no_peak_is_lost_when_samples_outnumber_dots() -> None:
    values = np.zeros(100_000)
    values[54_321] = 100.0
    lines = plot([np.arange(100_000.0)], [values], columns=60, rows=5, utc=True)
    assert any("⠀" < char <= "⣿" for char in lines[0])


def test_colours_can_be_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Terminal()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert common.colours(screen)
    monkeypatch.setenv("NO_COLOR", "1")
    assert not common.colours(screen)
