"""Where answers go: formats by name and by ending, files that appear whole, pictures, and why there is nothing."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest

from mstore.cli import common, output, targets
from mstore.cli import main as cli
from mstore.cli.courses import lacking
from mstore.cli.formats import as_table
from mstore.cli.picture import LINES_MAX, PANELS_MAX, Panel, picture
from mstore.conversions import long_table
from mstore.errors import InvalidRequest, MissingLibrary
from mstore.frames import Series
from tests.jobs_rig import N, filled, reader, store_name
from tests.query_rig import T0, Store

pytestmark = pytest.mark.usefixtures("fonts_open")

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    made = filled(store_name() + "-output")
    yield made
    made.close()


@pytest.fixture
def run(store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    asked = reader(store)
    monkeypatch.setattr(common, "open_client", lambda args, **options: contextlib.nullcontext(asked))

    def call(*argv: str) -> tuple[int, str, str]:
        times = ("--from", str(T0), "--to", str(T0 + 60 * N), "--utc")
        try:
            status = cli.main(["query", *times, "tiny", *argv])
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def wanted(*argv: str) -> output.Wanted:
    parser = argparse.ArgumentParser()
    output.add(parser, ("table", "csv", "json", "parquet", "plot"))
    return output.wanted(parser.parse_args(argv))


def test_the_format_is_the_named_one_or_the_files_ending_or_a_table() -> None:
    assert wanted().text == "table"
    assert wanted("-o", "x.csv") == output.Wanted("csv", Path("x.csv"))
    assert wanted("-o", "x.txt", "--format", "json") == output.Wanted("json", Path("x.txt"))
    assert wanted("--plot", "a.SVG") == output.Wanted("plot", Path("a.SVG"), "svg")


@pytest.mark.parametrize("option", ["--plot", "-o"])
def test_a_file_that_cannot_be_written_is_refused_before_the_store_is_asked(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
) -> None:
    def ask(args: argparse.Namespace, **options: object) -> None:
        raise AssertionError("the store is asked")

    monkeypatch.setattr(common, "open_client", ask)
    name = "x.png" if option == "--plot" else "x.csv"
    missing = tmp_path / "no" / name
    told = (1, "", f"mstore: {missing.parent} is no directory: make it first\n")
    assert run("n01", "load", option, str(missing)) == told
    (tmp_path / name).mkdir()
    told = (1, "", f"mstore: {tmp_path / name} is a directory: name a file\n")
    assert run("n01", "load", option, str(tmp_path / name)) == told
    monkeypatch.setattr(targets.os, "access", lambda path, mode: path != tmp_path)
    told = (1, "", f"mstore: {tmp_path} may not be written in: name another directory\n")
    assert run("n01", "load", option, str(tmp_path / f"another-{name}")) == told


def test_what_export_debug_and_import_cannot_write_is_refused_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setattr(targets.os, "access", lambda path, mode: path != file)
    dir_ = ("--dir", str(tmp_path / "none"))  # there is no store: that would be said next
    for argv, told in (
        (("export", str(file / "sub")), f"{file} is no directory: name another"),
        (("debug", "-o", str(tmp_path / "no" / "x.tar.gz")), f"{tmp_path}/no is no directory: make it first"),
        (("debug", "-o", str(file)), f"{file} may not be written to: name another file"),
        (("import", str(tmp_path), "--state", str(tmp_path)), f"{tmp_path} is a directory: name a file"),
        (("import", str(tmp_path), "--state", str(file)), f"{file} may not be written to: name another file"),
    ):
        assert cli.main([*argv, *dir_]) == 1
        assert capsys.readouterr().err == f"mstore: {told}\n"


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--plot", "a.jpg"], ".png or .svg"),
        (["--plot", "a.png", "-o", "x.csv"], "a call of their own"),
        (["--plot", "a.png", "--format", "csv"], "a call of their own"),
        (["--format", "parquet"], "needs -o FILE"),
        (["-o", "x.txt"], "a name that ends so"),
        (["-o", "x.csv", "--format", "table"], "csv or json or parquet"),
    ],
)
def test_what_does_not_go_together_is_said(argv: list[str], told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        wanted(*argv)


def test_a_file_that_is_written_is_what_would_be_printed(run: Run, tmp_path: Path) -> None:
    printed = run("n[1-2]", "cpu_load", "--format", "csv")[1]
    status, out, err = run("n[1-2]", "cpu_load", "-o", str(tmp_path / "x.csv"))
    assert (status, out) == (0, "")
    assert err.startswith(f"wrote {tmp_path}/x.csv (")
    assert (tmp_path / "x.csv").read_text() == printed
    assert run("n1", "cpu_load", "-o", str(tmp_path / "x.csv"))[0] == 0  # replaces it
    assert (tmp_path / "x.csv").read_text() != printed
    assert [path.name for path in tmp_path.iterdir()] == ["x.csv"]


def aggregate(values: list[float], coverage: list[int], **more: object) -> Series:
    return Series(
        np.array(values),
        T0,
        60,
        coverage=np.array(coverage, np.uint32),
        aggregation="sum",
        n_series=4,
        **more,
    )  # type: ignore[arg-type]


def test_slots_of_an_aggregate_that_lack_some_of_its_series_are_known() -> None:
    nan = float("nan")
    assert aggregate([1, 2, nan, 4], [4, 3, 0, 4]).partial.tolist() == [False, True, False, False]
    assert not aggregate([1, 2], [4, 4]).partial.any()
    # Runs of five slots: of all 20 samples, of 15, and the last one, which is cut short.
    assert aggregate([1, 2, 3], [20, 15, 8]).partial.tolist() == [False, True, False]
    assert not Series(np.ones(3), T0, 60).partial.any()
    assert "sum of 4 series (1 slot of fewer)" in repr(aggregate([1, 2], [4, 1]))


def test_a_plot_says_which_part_lacks_series() -> None:
    series = aggregate([1.0] * 10, [4, 3, 3, 4, 4, 4, 1, 4, 2, 4])
    start, one = (datetime.fromtimestamp(T0 + 60 * n, UTC).strftime("%H:%M") for n in (1, 3))
    (line,) = lacking([("x", series), ("y", aggregate([1.0], [4]))], utc=True)
    assert line.startswith(f"incomplete: x: not all of its 4 series in 4 of 10 slots: {start} to {one}, ")
    many = aggregate([1.0] * 10, [4, 3] * 5)
    assert lacking([("x", many)], utc=True)[0].endswith("... (5 stretches in all)")


def test_a_table_says_it_too(capsys: pytest.CaptureFixture[str]) -> None:
    args = argparse.Namespace(
        cluster="c",
        host="h",
        metric="m",
        utc=True,
        rows=0,
        until_s=T0 + 180,
        function="",
        resolution=0,
        algo="average",
    )
    as_table([aggregate([1.0] * 3, [4, 3, 4])], args)
    assert "incomplete: " in capsys.readouterr().out.splitlines()[-1]


def test_a_picture_shades_what_lacks_series() -> None:
    pytest.importorskip("matplotlib")
    whole, holed = aggregate([1.0] * 4, [4] * 4), aggregate([1.0] * 4, [4, 2, 2, 4])
    drawn = [picture([Panel("p", "W", [("x", one)])], "t", "svg", utc=True) for one in (whole, holed)]
    assert [b"not all series contributed" in one for one in drawn] == [False, True]


def test_a_plots_range_ends_where_the_question_does(run: Run) -> None:
    """A slot of an hour reaches beyond what was asked for."""
    end = datetime.fromtimestamp(T0 + 60 * N, UTC).strftime("%H:%M")
    for resolution in ("1m", "1h"):
        assert f" to {end} UTC" in run("n1", "cpu_load", "--resolution", resolution)[1].splitlines()[0]


def test_parquet_holds_a_row_a_sample(run: Run, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    assert run("n[1-2]", "flops", "--type", "hwthread", "--quiet", "-o", str(tmp_path / "x.parquet")) == (
        0,
        "",
        "",
    )
    table = parquet.read_table(tmp_path / "x.parquet")
    assert table.column_names == ["time", "cluster", "host", "level", "metric", "value"]
    assert table.num_rows == 2 * 8 * N
    assert table.schema.metadata[b"unit"] == b"GF/s"
    first = table.slice(0, 1).to_pylist()[0]
    assert (first["host"], first["level"], first["value"]) == ("n1", "hwthread0", 1.0)
    assert int(first["time"].timestamp()) == T0


def test_a_long_table_keeps_columns_and_exact_integers() -> None:
    pytest.importorskip("pyarrow")
    rows = np.array([(2**63 + 1, 0.5), (3, float("nan"))], [("reads", "<u8"), ("seconds", "<f8")])
    stamped = Series(
        rows, T0, 0, valid=np.array([[True, True], [True, False]]), stamps_ms=np.array([T0 * 1000, T0 * 1000 + 1]),
        host="f1", metric="scrape",
    )  # fmt: skip
    table = long_table([stamped, stamped])
    assert table["reads"].to_pylist() == [2**63 + 1, 3] * 2
    assert table["seconds"].to_pylist() == [0.5, None] * 2
    with pytest.raises(InvalidRequest, match="different columns"):
        long_table([stamped, Series(np.ones(3), T0, 60)])


def test_a_long_table_of_nothing_has_its_columns() -> None:
    pytest.importorskip("pyarrow")
    assert long_table([]).column_names == ["time", "cluster", "host", "level", "metric", "value"]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["node1", "cpu_load"], "no such host; tiny has g1,n[1-2]\n"),
        (["n11", "cpu_load"], "no such host; did you mean n1? tiny has g1,n[1-2]\n"),
        (["n1", "cpu_load", "--type", "socket"], "cpu_load of n1 is stored at the host itself (no --type)"),
        (["n1", "mem_bw", "--type", "core"], "mem_bw of n1 is stored at --type socket"),
        (
            ["n1", "flops", "--type", "hwthread", "--type-id", "9"],
            "hwthread has the ids 0, 1, 2, 3, 4, ... (8 in all)",
        ),
        (["n1", "acc_power"], "n1 has not sent this metric"),
    ],
)
def test_an_empty_answer_says_why_and_what_there_is(run: Run, argv: list[str], told: str) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (1, "")
    assert told in err


def test_a_range_without_samples_says_when_the_newest_is_from(run: Run) -> None:
    status, _, err = run("n1", "cpu_load", "--from", "0", "--to", "60")
    assert status == 1
    assert "no samples in range; the newest sample is of 2023-11-14 22:17:20" in err


# --- pictures


def line(name: str, values: list[float]) -> tuple[str, Series]:
    return name, Series(np.array(values), T0, 60, unit="W")


def svg(*panels: Panel) -> str:
    return picture(panels, "a title", "svg", utc=True).decode()


def test_a_picture_names_its_lines_once_for_all_panels() -> None:
    series = [line("n1", [1, 2, 3]), line("n2", [3, 2, 1])]
    both = svg(Panel("load", "", series), Panel("power", "W", series))
    assert both.count("<!-- n1 -->") == 1
    apart = svg(Panel("load", "", series), Panel("power", "W", [line("n1", [1]), line("n3", [2])]))
    assert apart.count("<!-- n1 -->") == 2


def test_more_series_than_colours_become_a_band() -> None:
    many = [line(f"n{i}", [i, i + 1]) for i in range(LINES_MAX + 1)]
    drawn = svg(Panel("load", "", many))
    assert f"<!-- mean and span of {LINES_MAX + 1} -->" in drawn
    assert "<!-- n1 -->" not in drawn


def test_the_same_series_make_the_same_file() -> None:
    panel = Panel("load", "W", [line("n1", [1, float("nan"), 3])])
    assert svg(panel) == svg(panel)


@pytest.mark.parametrize("kind", ["png", "svg"])
@pytest.mark.parametrize(
    "values",
    [[1.0], [5.0] * 9, [1e308, -1e308], [1e-320, 5e-320], [1, float("inf"), -float("inf"), 2], [0.0] * 3],
)
def test_any_numbers_can_be_drawn(values: list[float], kind: str) -> None:
    panel = Panel("a $name$ of $x$", "$W$", [line("a", values), line("b$^_", [1.0, 2.0])])
    assert len(picture([panel], "$title_{", kind, utc=True)) > 1000
    many = Panel("a band", "", [line(str(i), values) for i in range(LINES_MAX + 1)])
    assert len(picture([many], "", kind, utc=True)) > 1000


def test_too_many_panels_are_refused() -> None:
    panel = Panel("load", "W", [line("n1", [1])])
    with pytest.raises(InvalidRequest, match="choose metrics"):
        picture([panel] * (PANELS_MAX + 1), "", "png")


def test_a_picture_is_drawn_by_query(run: Run, tmp_path: Path) -> None:
    assert run("n[1-2]", "cpu_load", "--quiet", "--plot", str(tmp_path / "x.png")) == (0, "", "")
    assert (tmp_path / "x.png").read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_a_picture_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingLibrary, match=r"mstore\[plot\]"):
        picture([Panel("load", "W", [line("n1", [1])])], "", "png")
    status, out, err = run("n1", "cpu_load", "--plot", str(tmp_path / "x.png"))
    assert (status, out, err.count("\n")) == (1, "", 1)


def test_json_of_nothing_is_still_json(run: Run) -> None:
    status, out, err = run("n9", "cpu_load", "--format", "json")
    assert (status, json.loads(out)[0]["why"]) == (1, "no such host")
    assert "no such host" in err
