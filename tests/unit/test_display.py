"""What a Series shows of itself, in a terminal and in a notebook."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest

from mstore.display import picture, sparkline
from mstore.frames import Series

T0 = 1725620400


def grid(values: list[float], dtype: str = "<f4", **fields: Any) -> Series:
    labels = {"cluster": "fritz", "host": "f0201", "metric": "cpu_load", **fields}
    return Series(np.array(values, dtype), T0, 60, **labels)


class Page(HTMLParser):
    """Tags and text of a piece of HTML."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(html)
        assert self.open == [], "every tag is closed"

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)
        self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def heights(svg: str) -> list[tuple[float, float, float]]:
    """(left, top, bottom) of each box of a picture, in pixels from its upper left corner."""
    path = ElementTree.fromstring(svg).find("path")
    assert path is not None
    boxes = re.findall(r"M([\d.]+) ([\d.]+)h[\d.]+V([\d.]+)h-[\d.]+z", path.get("d", ""))
    return [(float(left), float(top), float(bottom)) for left, top, bottom in boxes]


# --- a terminal


def test_one_is_one_slot_and_many_have_their_commas() -> None:
    assert (
        repr(grid([2.5])).splitlines()[0]
        == "Series cpu_load of fritz/f0201: 1 slot of 60 s, 1 with a sample, f32"
    )
    many = grid([1.0] * 1500, aggregation="sum", n_series=2, coverage=np.ones(1500, np.uint32))
    assert "1,500 slots of 60 s, 1,500 with a sample, f32, sum of 2 series (1,500 slots of fewer)" in repr(
        many
    )
    rows = Series(np.zeros(1, [("a", "<f8"), ("b", "<u8")]), T0, 0, stamps_ms=np.array([T0 * 1000]))
    assert "1 row, 1 with a sample, 2 columns" in repr(rows)


@pytest.mark.parametrize("values", [[], [np.nan, np.nan]])
def test_an_empty_answer_says_why_in_both_places(values: list[float]) -> None:
    series = grid(values, why="no such host; did you mean f0202?")
    assert "0 with a sample, f32 (no such host; did you mean f0202?)" in repr(series).splitlines()[0]
    assert len(repr(series).splitlines()) == 2, "no course"
    page = Page(series._repr_html_())
    assert "(no such host; did you mean f0202?)" in page.texts[0]
    assert "svg" not in page.tags
    assert "nan" not in "".join(page.texts).lower()


def test_a_sparkline_of_a_constant_is_low_and_of_nothing_is_blank() -> None:
    for value in (0.0, 3.0, -1e308, 2.0**63):
        assert sparkline(np.full(5, value), np.ones(5, np.bool_)) == "▁▁▁▁▁"
    assert sparkline(np.zeros(5), np.zeros(5, np.bool_)) == "     "
    assert sparkline(np.zeros(0), np.zeros(0, np.bool_)) == ""
    assert sparkline(np.array([0, 7, 0], np.uint64), np.array([True, True, False])) == "▁█ "


def test_a_missing_u64_is_not_taken_for_a_zero() -> None:
    series = grid([5, 0, 9], "<u8", valid=np.array([True, False, True]))
    assert repr(series).splitlines()[1:] == [
        "  2024-09-06T11:00:00Z .. 2024-09-06T11:03:00Z   min 5  mean 7  max 9", "  ▁ █",
    ]  # fmt: skip


def test_times_beyond_the_calendar_are_seconds() -> None:
    assert f"{2**50} s .." in repr(Series(np.zeros(1), 2**50, 60))


# --- a notebook


@pytest.mark.parametrize(
    "field", ["cluster", "host", "metric", "type", "type_id", "subtype_id", "unit", "why"]
)
def test_a_name_is_shown_and_never_a_tag(field: str) -> None:
    evil = "<script>alert('1')</script>&\"<img src=x>"
    html = grid([1.0, 2.0], **{field: evil})._repr_html_()
    page = Page(html)
    assert set(page.tags) <= {"div", "b", "table", "tr", "th", "td", "svg", "path"}
    assert evil in "".join(page.texts)


def test_the_name_of_a_column_is_never_a_tag() -> None:
    rows = Series(np.zeros(1, [("<b>", "<f8"), ("&", "<u8")]), T0, 0, stamps_ms=np.array([T0 * 1000]))
    page = Page(rows._repr_html_())
    assert "<b>, &" in page.texts
    assert page.tags.count("b") == 1


def test_a_notebook_shows_range_values_and_course() -> None:
    page = Page(grid([1.0, np.nan, 3.0], unit="GB/s")._repr_html_())
    assert page.texts == [
        "Series cpu_load of fritz/f0201: 3 slots of 60 s, 2 with a sample, f32",
        "range", "2024-09-06T11:00:00Z to 2024-09-06T11:03:00Z",
        "values", "min 1 · mean 2 · max 3 GB/s",
    ]  # fmt: skip
    assert page.tags.count("svg") == 1
    assert grid([1.0])._repr_html_().count("text-align:left") == 4, (
        "each cell: notebooks set tables flush right"
    )


def test_a_picture_has_a_gap_where_nothing_is_and_a_riser_between_neighbours() -> None:
    values = np.array([0.0, 1.0, np.nan, 1.0, 0.0])
    boxes = heights(picture(values, ~np.isnan(values)))
    assert boxes == [
        (0, 47, 48), (72, 1, 2), (72, 1, 48), (216, 1, 2), (288, 47, 48), (288, 1, 48),
    ]  # fmt: skip


def test_a_picture_of_many_samples_keeps_each_peak() -> None:
    values = np.zeros(100_000)
    values[77_777] = 1.0
    boxes = heights(picture(values, np.ones(100_000, np.bool_)))
    assert [top for _, top, _ in boxes].count(1.0) == 1
    assert len(boxes) == 360


@pytest.mark.parametrize("value", [0.0, -3.5, 1.7e308])
def test_a_picture_of_a_constant_is_a_line(value: float) -> None:
    assert {box[1:] for box in heights(picture(np.full(7, value), np.ones(7, np.bool_)))} == {(47.0, 48.0)}


def test_a_picture_leaves_out_what_is_not_finite_and_stays_in_its_frame() -> None:
    values = np.array([-1.7e308, np.inf, 1.7e308, -np.inf])
    boxes = heights(picture(values, np.ones(4, np.bool_)))
    assert [box[0] for box in boxes] == [0.0, 180.0]
    assert all(0 <= top < bottom <= 48 for _, top, bottom in boxes)
    assert heights(picture(np.array([np.inf]), np.ones(1, np.bool_))) == []
