"""Selectors: text and sequence forms say the same; what is no selector is refused and says why."""

from __future__ import annotations

import contextlib
import fnmatch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mstore import limits
from mstore.errors import EmptyCluster, InvalidRequest
from mstore.selector import Form, Selector, Step


def parts(source: object) -> list[tuple[object, ...]]:
    return [step.parts for step in Selector.parse(source).steps]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "sequence", "wanted"),
    [
        ("fritz", ["fritz"], [("fritz",)]),
        ("fritz/f02[01-03]", ["fritz", ["f0201", "f0202", "f0203"]],
         [("fritz",), ("f0201", "f0202", "f0203")]),
        ("fritz/f0201/hwthread*", ["fritz", "f0201", "hwthread*"],
         [("fritz",), ("f0201",), (Form(("hwthread", "")),)]),
        ("*/*/socket1", ["*", "*", "socket1"], [(Form(("", "")),), (Form(("", "")),), ("socket1",)]),
        ("a,b[1,3]/r[1-2]n[1-2]", [["a", "b1", "b3"], "r[1-2]n[1-2]"],
         [("a", "b1", "b3"), ("r1n1", "r1n2", "r2n1", "r2n2")]),
        ("c/f1,f1,f2", ["c", ["f1", "f2", "f1"]], [("c",), ("f1", "f2")]),
        (r"c/h/filesystem\/home", ["c", "h", "filesystem/home"], [("c",), ("h",), ("filesystem/home",)]),
        (r"c/h/accelerator00000000:49:00.0/mig\[1\]", ["c", "h", "accelerator00000000:49:00.0", r"mig\[1\]"],
         [("c",), ("h",), ("accelerator00000000:49:00.0",), ("mig[1]",)]),
        (r"c/a\,b\*\\", ["c", r"a\,b\*\\"], [("c",), ("a,b*\\",)]),
        (r"c/ f1 ,\ f2\ ", ["c", ["f1", r"\ f2\ "]], [("c",), ("f1", " f2 ")]),
        ("c/[]", ["c", []], [("c",), ()]),
    ],
)  # fmt: skip
def test_text_and_sequence_say_the_same(text: str, sequence: object, wanted: object) -> None:
    assert parts(text) == parts(sequence) == wanted
    again = Selector.parse(str(Selector.parse(text)))
    assert [step.parts for step in again.steps] == wanted


@pytest.mark.parametrize(
    ("source", "listed"),
    [
        ("a/b", False),
        ("a/b*", False),
        ("a/b,c", True),
        ("a/b[1]", True),
        (["a", ["b"]], True),
        (["a", "b"], False),
    ],
)
def test_a_list_of_one_is_told_from_a_name(source: object, listed: bool) -> None:
    assert Selector.parse(source).steps[1].listed is listed  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("a/b/c/d/e", "at most 4 levels"),
        ("a//b", "an empty name between slashes"),
        ("a/b/", "an empty name between slashes"),
        ("a/f[01", "closing bracket"),
        ("a/f[3-1]", "runs backwards"),
        ("a/f[x]", "numbers and ranges"),
        ("a/f[0-99999]", "more than 65536"),
        ("a/f[1-300]g[1-300]", "more than 65536"),
        ("a/b\\", "escapes nothing"),
        ("a/\\b", "only"),
        ("a/b\n", "control characters"),
        ("a/" + "x" * 256, "more than 255 bytes"),
        ("a/\ud800", "no UTF-8"),
        ("a," * 600_000, "longer than"),
        (["a", ["b" * 200] * 6000], "longer than"),
        (["a", 7], "a name or a list"),
        (["a", ["b", 7]], "a name or a list"),
        (["a", ["b", ["c"]]], "a name or a list"),
        (["a"] * 5, "at most 4 levels"),
        (7, "text like"),
        (b"a/b", "text like"),
        (None, "text like"),
    ],
)
def test_what_is_no_selector_is_refused_and_says_why(source: object, why: str) -> None:
    with pytest.raises(InvalidRequest, match=why) as raised:
        Selector.parse(source)  # type: ignore[arg-type]
    assert len(str(raised.value)) < 400


@pytest.mark.parametrize("source", ["", "  ", [], ["", "f1"], ()])
def test_a_selector_names_a_cluster(source: object) -> None:
    with pytest.raises(EmptyCluster):
        Selector.parse(source)  # type: ignore[arg-type]


def test_nothing_matches_an_empty_name_or_list() -> None:
    for source in (["c", ""], ["c", []], ["c", [""]], "c/[]"):
        selector = Selector.parse(source)
        assert selector.steps[1].names == ()
        assert not selector.matches(["c", ""])
        assert not selector.matches(["c", "f1"])


def test_steps_know_their_names_and_whether_they_are_any() -> None:
    steps = Selector.parse("c/f[1-2],g*/*").steps
    assert [step.names for step in steps] == [("c",), None, None]
    assert [step.any for step in steps] == [False, False, True]
    assert Selector.parse("c/f[1-2]").depth == 2


def test_a_level_is_matched_by_the_whole_of_its_names() -> None:
    selector = Selector.parse("fritz/f02[01-02]/hwthread*")
    assert selector.matches(["fritz", "f0201", "hwthread3"])
    assert not selector.matches(["fritz", "f0203", "hwthread3"])
    assert not selector.matches(["fritz", "f0201", "core3"])
    assert not selector.matches(["fritz", "f0201"])


NAME = st.text(
    st.one_of(st.sampled_from("/,[]*\\ ab01"), st.characters(exclude_categories=["Cc", "Cs"])),
    min_size=1,
    max_size=8,
)
FORM = st.lists(st.text("ab", max_size=3), min_size=2, max_size=4).map(
    lambda texts: Form((texts[0], *filter(None, texts[1:-1]), texts[-1]))
)
STEPS = st.lists(st.one_of(NAME, FORM), max_size=4).map(lambda parts: Step(tuple(dict.fromkeys(parts))))


@given(st.lists(STEPS, min_size=1, max_size=limits.PATH_DEPTH_MAX))
def test_the_text_of_a_selector_parses_to_the_same_selector(steps: list[Step]) -> None:
    selector = Selector(tuple(steps))
    assert [step.parts for step in Selector.parse(str(selector)).steps] == [step.parts for step in steps]


@given(
    st.text(alphabet="ab*", max_size=8).filter(lambda text: "*" in text), st.text(alphabet="ab", max_size=8)
)
def test_a_form_matches_as_shells_do(pattern: str, name: str) -> None:
    (step,) = Selector.parse(pattern).steps
    assert step.matches(name) == fnmatch.fnmatchcase(name, pattern)


@given(st.text(alphabet="a01-,[]*/\\ x", max_size=24))
def test_any_text_is_a_selector_or_is_refused(text: str) -> None:
    with contextlib.suppress(InvalidRequest):  # any other exception fails the test
        selector = Selector.parse(text)
        assert Selector.parse(str(selector)) is not selector
