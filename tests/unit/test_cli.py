"""The command line, against a stand-in for the client: output, status, and never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import mstore
from mstore.cli import common, info, write
from mstore.cli import main as cli
from mstore.client.results import WriteResult
from mstore.errors import Unavailable
from mstore.frames import Series
from mstore.model import MetricSpec
from tests import cli_rig
from tests.cli_rig import START_S, FakeClient, Run

client, run = cli_rig.client, cli_rig.run


def series(values: list[float], **fields: Any) -> Series:
    names = {"cluster": "fritz", "host": "f2", "metric": "mem_bw", "unit": "GB/s"} | fields
    return Series(np.array(values, np.float32), START_S, 60, **names)


# --- the whole


def test_version_is_the_packages(run: Run) -> None:
    assert run("--version") == (0, f"mstore {mstore.__version__}\n", "")


def test_without_a_command_the_help_says_where_to_start(run: Run) -> None:
    status, out, _ = run()
    assert status == 0
    assert "Start here:  mstore demo" in out


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_a_help_with_an_example(
    run: Run, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    status, out, _ = run(command, "--help")
    assert max(map(len, out.splitlines())) <= 80
    assert status == 0
    assert f"Example:\n  mstore {command}" in out or f"| mstore {command}" in out
    assert "--dir DIR" in out


def test_the_help_lists_every_command(run: Run) -> None:
    expected = (
        *("demo", "serve", "stop", "restart", "reload", "snapshot", "config"),
        *("check", "backup", "archive", "debug", "dump"),
        *("write", "query", "job", "follow", "top", "ls", "info", "free", "protect", "sizes"),
        *("import", "export"),
        *("simulate", "collect"),
    )
    assert expected == cli.COMMANDS
    for argv in ((), ("--help",), ("--help", "query"), ("--dir", "query", "-h")):
        listed = re.findall(r"^    ([a-z]+) ", run(*argv)[1], re.MULTILINE)
        assert tuple(listed) == expected, argv


def test_a_value_that_is_called_like_a_command_is_none(run: Run, client: FakeClient) -> None:
    assert run("--dir", "query", "info", "--json")[0] == 0
    assert run("query", "write", "info", "top")[0] == run("query", "write", "info2", "top2")[0]


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["serv"], "there is no command 'serv'; did you mean 'serve'?"),
        (["query", "a"], "required: HOST, METRIC"),
        (["write"], "required: FILE"),
        (["write", "x", "--ack", "never"], "durable"),
        (["simulate", "--gaps", "2"], "expected 0 up to"),
        (["simulate", "--span", "1y"], "expected a duration"),
        (["simulate", "--nodes", "0"], "whole number from 1"),
        (["collect", "moon"], "host"),
        (["ls", "--nonsense"], "--nonsense"),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run: Run, argv: list[str], told: str) -> None:
    status, out, err = run(*argv)
    assert (status, out) == (2, "")
    assert err.count("\n") == 1
    assert told in err
    assert "--help)" in err


@pytest.mark.parametrize(
    ("error", "status", "told"),
    [
        (Unavailable("no store\nanswers"), 1, "mstore: no store answers\n"),
        (
            FileNotFoundError(2, "No such file or directory", "x.lp"),
            1,
            "mstore: x.lp: No such file or directory\n",
        ),
        (mstore.errors.ConfigError("bad key"), 2, "mstore: bad key\n"),
        (mstore.errors.InvalidTimeRange("no time"), 2, "mstore: no time\n"),
        (KeyboardInterrupt(), 130, "mstore: interrupted\n"),
        (IndexError("bug"), 70, "mstore: internal error: IndexError: bug (MSTORE_TRACEBACK=1 shows where)\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, told: str
) -> None:
    def fail(args: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(common, "open_client", fail)
    assert run("info") == (status, "", told)


def test_the_directory_may_stand_before_or_after_the_command(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def note(args: Any, **options: Any) -> FakeClient:
        seen.append(common.store_dir(args))
        return FakeClient()

    monkeypatch.setattr(common, "open_client", note)
    monkeypatch.setenv("MSTORE_DIR", "/from/environment")
    run("--dir", "/a", "ls")
    run("ls", "--dir", "/b")
    run("--dir", "/a", "ls", "--dir", "/b")
    run("ls")
    assert [str(path) for path in seen] == ["/a", "/b", "/b", "/from/environment"]


# --- write


def test_write_sends_a_file_and_says_how_fast(run: Run, client: FakeClient, tmp_path: Path) -> None:
    (tmp_path / "x.lp").write_bytes(b"a value=1\nb value=2\n")
    path = str(tmp_path / "x.lp")
    status, out, err = run("write", path, "--cluster", "fritz", "--precision", "ms", "--ack", "memory")
    assert (status, err) == (0, "")
    assert out.startswith("2 lines written in ")
    assert "lines/s" in out
    assert client.text == b"a value=1\nb value=2\n"
    assert client.calls == [("write", "fritz", "ms")]
    assert client.options == {"ack": "memory"}


def test_refused_lines_are_counted_and_make_the_status_1(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    (tmp_path / "x.lp").write_bytes(b"a value=1\n?\n?\n!\n")
    status, out, _ = run("write", str(tmp_path / "x.lp"))
    assert status == 1
    assert out.splitlines()[1] == "2 rejected and 1 ignored: bad_syntax 2, unknown_metric 1"
    (tmp_path / "x.lp").write_bytes(b"a value=1\n!\n")
    assert run("write", str(tmp_path / "x.lp"))[0] == 0


def test_the_speed_is_of_the_lines_that_it_names() -> None:
    refused = WriteResult(0, 1000, 0, {"bad_syntax": 1000})
    assert write.summary(refused, 4096, 2.0) == [
        "0 of 1,000 lines written; all sent in 2.00 s (500 lines/s, 2 KiB/s)",
        "1,000 rejected: bad_syntax 1,000",
    ]
    assert write.summary(WriteResult(1000), 4096, 2.0) == [
        "1,000 lines written in 2.00 s (500 lines/s, 2 KiB/s)"
    ]


def test_an_interrupted_write_says_what_was_not_acknowledged(
    run: Run, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*args: object, **options: object) -> WriteResult:
        raise KeyboardInterrupt

    monkeypatch.setattr(client, "write", interrupted)
    (tmp_path / "x.lp").write_bytes(b"a value=1 60\nb value=2 60\n")
    status, out, err = run("write", str(tmp_path / "x.lp"))
    assert (status, err) == (130, "mstore: interrupted\n")
    assert out.splitlines()[0].startswith("0 lines written in ")
    assert out.splitlines()[1:] == [
        "2 more lines sent and not acknowledged: perhaps stored; sending lines with a time again is safe"
    ]
    assert run("write", str(tmp_path / "x.lp"), "--quiet")[1] == ""


def test_write_reads_standard_input_and_compressed_files(
    run: Run, client: FakeClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a value=1\nb value=2")))
    assert run("write", "-", "--quiet") == (0, "", "")
    with gzip.open(tmp_path / "x.lp.gz", "wb") as file:
        file.write(b"\nc value=3\n")
    assert run("write", str(tmp_path / "x.lp.gz"), "--quiet")[0] == 0
    assert client.text == b"a value=1\nb value=2\nc value=3\n"


def test_a_compressed_file_that_is_cut_or_none_is_named_and_what_stood_before_is_counted(
    run: Run, client: FakeClient, tmp_path: Path
) -> None:
    none, cut = tmp_path / "none.lp.gz", tmp_path / "cut.lp.gz"
    none.write_bytes(b"a value=1\n")
    cut.write_bytes(gzip.compress(b"a value=1\n" * 10)[:-4])
    for path in (none, cut):
        status, out, err = run("write", str(path))
        assert status == 1
        assert " written" in out
        assert err.startswith(f"mstore: {path} is cut short or damaged: ")
        assert err.count("\n") == 1


def test_a_missing_file_is_one_line(run: Run, client: FakeClient) -> None:
    status, out, err = run("write", "/no/such/file")
    assert (status, out, err) == (1, "", "mstore: /no/such/file: No such file or directory\n")


@pytest.mark.parametrize("block_bytes", [1, 2, 3, 7, 100, 1 << 20])
def test_blocks_hold_whole_lines_whatever_their_size(block_bytes: int) -> None:
    text = b"a value=1\n\nbb value=2\r\n# comment\nccc value=3"
    found = list(write.blocks(io.BytesIO(text), block_bytes))
    assert b"".join(found) == text
    assert all(block.endswith(b"\n") for block in found[:-1])


@pytest.mark.parametrize("block_bytes", [1000, 65_000, 70_000, 200_000])
def test_an_endless_line_is_cut_and_the_next_one_is_whole(block_bytes: int) -> None:
    text = b"a value=1\n" + b"x" * 300_000 + b"\nb value=2\n" + b"y" * 300_000
    found = b"".join(write.blocks(io.BytesIO(text), block_bytes)).split(b"\n")
    assert [line for line in found if len(line) < 100 and line] == [b"a value=1", b"b value=2"]
    assert all(len(line) > 65_536 for line in found if len(line) >= 100)


# --- ls and info


def test_ls_lists_levels_in_natural_order(run: Run, client: FakeClient) -> None:
    assert run("ls")[1] == "fritz\n"
    assert run("ls", "fritz")[1] == "f2\nf10\n"
    assert run("ls", "/fritz/f10/")[1] == "core0\ncore2\ncore10\n"
    assert run("ls", "fritz", "f10")[1] == "core0\ncore2\ncore10\n"
    assert run("ls", "fritz", "f2") == (0, "", "")
    assert json.loads(run("ls", "fritz", "--json")[1]) == ["f2", "f10"]


def test_ls_of_something_missing_says_what_there_is(run: Run, client: FakeClient) -> None:
    status, out, err = run("ls", "fritz/f3")
    assert (status, out) == (1, "")
    assert err == "mstore: fritz has no 'f3'; it has f2, f10\n"
    assert "the store has no 'alex'; it has fritz" in run("ls", "alex/a1")[2]


def test_ls_metrics_is_a_table(run: Run, client: FakeClient) -> None:
    lines = run("ls", "--metrics", "fritz")[1].splitlines()
    assert lines[0].split() == ["cluster", "metric", "step", "type", "aggregation", "unit"]
    assert lines[2].split() == ["fritz", "job_bytes", "stamped", "u64", "none"]
    assert lines[3].split() == ["fritz", "mem_bw", "60", "s", "f32", "sum", "GB/s"]
    assert json.loads(run("ls", "--metrics", "--json")[1])[1]["step_s"] == 60


def test_info_tells_state_memory_log_rates_and_what_was_refused(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(info, "LOOK_S", 0.01)
    lines = [line.split() for line in run("info")[1].splitlines()]
    assert ["running", "for", "1", "h", "1", "min,"] in [line[:6] for line in lines]
    assert any(line[:1] == ["FULL:"] for line in lines)
    assert not any(line[:1] == ["DEGRADED:"] for line in lines)
    assert ["samples", "3", "GiB", "4", "GiB", "8", "GiB"] in lines
    assert ["in", "all", "4.02", "GiB"] in lines
    assert ["block", "1,200", "written,", "1", "not", "yet", "on", "disk"] in lines
    assert ["no", "snapshot", "yet"] in lines
    assert ["lines", "10,000", "2.7", "/s", "500", "k/s"] in [
        [*line[:2], line[2].removesuffix("/s"), "/s", *line[3:]] for line in lines if len(line) == 5
    ]
    assert ["7", "bad_value"] in lines
    assert not any("no_host" in line for line in lines)
    assert ["1", "workers", "replaced"] in lines
    assert ["ingest", "0", "77", "1", "min", "35", "s", "2"] in lines


@pytest.mark.parametrize("first", ["ready", "replaying"])
def test_info_of_a_store_that_is_renewed_says_that_it_starts_and_nothing_of_the_start_before(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    monkeypatch.setattr(info, "LOOK_S", 0.01)
    last = {"samples": 0, "seconds": 0.0, "log_blocks": 0}
    states = iter([first, "replaying"])
    usual = client.info
    monkeypatch.setattr(client, "info", lambda: {**usual(), "state": next(states), "last_recovery": last})
    out = run("info")[1]
    assert "mstore 0.1.0  replaying" in out
    assert (
        "start\n  memory is about to be filled from the files, or taken over as it was kept; senders wait"
        in out
    )
    for unknown in ("last start", "holds", "traffic", "log\n", "workers"):
        assert unknown not in out


@pytest.mark.parametrize(
    ("last", "told"),
    [
        (
            {"samples": 0, "adopted": True},
            "the memory of before, used again in 0.2 s, 3 blocks of the log replayed",
        ),
        ({"samples": 1234, "adopted": False}, "1,234 samples in 0.2 s, 3 blocks of the log replayed"),
        ({"samples": 1234}, "1,234 samples in 0.2 s, 3 blocks of the log replayed"),
    ],
)
def test_info_tells_whether_the_last_start_read_files_or_took_memory_over(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch, last: dict[str, Any], told: str
) -> None:
    monkeypatch.setattr(info, "LOOK_S", 0.01)
    usual = client.info
    monkeypatch.setattr(
        client, "info", lambda: {**usual(), "last_recovery": {**last, "seconds": 0.2, "log_blocks": 3}}
    )
    assert f"last start\n  {told}\n" in run("info")[1]


def test_info_as_json_is_what_the_store_answered(run: Run, client: FakeClient) -> None:
    found = json.loads(run("info", "--json")[1])
    client.n_looks = 0
    assert found == client.info()


# --- query


def query(run: Run, *more: str) -> tuple[int, str, str]:
    times = ("--from", str(START_S), "--to", str(START_S + 240), "--utc")
    return run("query", "fritz", "f2", "mem_bw", *times, *more)


def test_a_table_has_a_row_for_every_slot(run: Run, client: FakeClient) -> None:
    client.answer = series([1.5, float("nan"), 0.1, 1e6])
    status, out, err = query(run)
    assert (status, err) == (0, "")
    assert out.splitlines() == [
        "fritz/f2  mem_bw [GB/s]  every 60 s, 2023-11-14 22:13 to 22:17 UTC",
        "time        value",
        "────────  ───────",
        "22:13:20      1.5",
        "22:14:20        -",
        "22:15:20      0.1",
        "22:16:20  1000000",
    ]


def test_several_series_stand_side_by_side_or_are_summed_up(run: Run, client: FakeClient) -> None:
    client.answer = [series([1.0, 2.0], type="socket", type_id=str(i)) for i in range(2)]
    assert query(run, "--type", "socket")[1].splitlines()[1].split() == ["time", "socket0", "socket1"]
    client.answer = [series([1.0, 2.0], type="hwthread", type_id=str(i)) for i in range(72)]
    out = query(run, "--type", "hwthread")[1]
    assert out.splitlines()[3].split() == ["hwthread0", "2", "1", "1.5", "2", "2", "▁█"]
    assert "--format csv prints every value" in out
    assert max(len(line) for line in out.splitlines()) <= 80


def test_a_long_table_leaves_out_its_middle_unless_asked(run: Run, client: FakeClient) -> None:
    client.answer = series([float(i) for i in range(100)])
    lines = query(run, "--rows", "5")[1].splitlines()[3:]
    assert [line.split()[-1] for line in lines[:3] + lines[4:]] == ["0", "1", "2", "98", "99"]
    assert "95 rows left out" in lines[3]
    assert len(query(run, "--rows", "0")[1].splitlines()) == 103


def test_empty_slots_at_the_ends_of_a_table_are_one_line_each(run: Run, client: FakeClient) -> None:
    nan = float("nan")
    client.answer = series([nan] * 9 + [1.0, nan, 2.0] + [nan] * 4)
    lines = query(run)[1].splitlines()
    assert lines[3] == "... 9 slots without a sample"
    assert [line.split()[1] for line in lines[4:7]] == ["1", "-", "2"]
    assert lines[7:] == ["... 4 slots without a sample"]
    assert len(query(run, "--rows", "0")[1].splitlines()) == 3 + 16


@pytest.mark.parametrize(("columns", "n_lines"), [("60", 2), ("90", 1)])
def test_a_heading_that_is_too_long_for_the_terminal_takes_two_lines(
    run: Run, client: FakeClient, monkeypatch: pytest.MonkeyPatch, columns: str, n_lines: int
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    client.answer = series([1.0, 2.0])
    lines = query(run)[1].splitlines()
    assert max(map(len, lines)) <= int(columns)
    assert lines[n_lines].split() == ["time", "value"]


def test_csv_has_every_value_as_it_is_stored(run: Run, client: FakeClient) -> None:
    values = ([0.1, float("nan")], [2.0, 3.0])
    client.answer = [series(values[i], type="core", type_id=str(i)) for i in range(2)]
    assert query(run, "--format", "csv")[1] == f"time,core0,core1\n{START_S},0.1,2.0\n{START_S + 60},,3.0\n"


def test_hosts_that_write_at_different_seconds_have_their_rows_in_the_order_of_time(
    run: Run, client: FakeClient
) -> None:
    def answer(_cluster: str, host: str, *_: object) -> Series:
        start = START_S + 30 * (host == "n1")
        values = np.array([1.5, np.nan, 2.5]) + (host == "n2")
        return Series(values, start, 60, cluster="fritz", host=host, metric="mem_bw")

    client.answer = answer
    status, out, _ = run("query", "fritz", "n[1-2]", "mem_bw", "--format", "csv")
    assert status == 0
    assert out.splitlines() == [
        "time,n1,n2",
        f"{START_S},,2.5",
        f"{START_S + 30},1.5,",
        f"{START_S + 60},,",
        f"{START_S + 90},,",
        f"{START_S + 120},,3.5",
        f"{START_S + 150},2.5,",
    ]


def test_json_is_valid_and_missing_is_null(run: Run, client: FakeClient) -> None:
    client.answer = series([0.1, float("nan")])
    assert json.loads(query(run, "--format", "json")[1]) == [
        {"cluster": "fritz", "host": "f2", "metric": "mem_bw", "unit": "GB/s", "start": START_S, "step": 60,
         "values": [0.1, None]}
    ]  # fmt: skip


def test_large_counters_are_exact(run: Run, client: FakeClient) -> None:
    values = np.array([2**64 - 2, 0], np.uint64)
    valid = np.array([True, False])
    client.answer = Series(values, START_S, 60, valid=valid, cluster="fritz", host="f2", metric="m")
    assert json.loads(query(run, "--format", "json")[1])[0]["values"] == [2**64 - 2, None]
    assert query(run, "--format", "csv")[1].splitlines()[1:] == [f"{START_S},{2**64 - 2}", f"{START_S + 60},"]


def test_stamped_rows_keep_their_milliseconds_and_columns(run: Run, client: FakeClient) -> None:
    values = np.array([(1.5, 7), (2.5, 9)], [("seconds", "<f8"), ("bytes", "<u8")])
    stamps = np.array([START_S * 1000 + 250, START_S * 1000 + 1750], np.int64)
    client.answer = Series(values, START_S, 0, stamps_ms=stamps, cluster="fritz", host="f2", metric="job")
    assert query(run, "--format", "csv")[1].splitlines() == [
        "time_ms,seconds,bytes", f"{START_S * 1000 + 250},1.5,7", f"{START_S * 1000 + 1750},2.5,9",
    ]  # fmt: skip
    assert query(run)[1].splitlines()[3].split() == ["22:13:20.250", "1.5", "7"]
    document = json.loads(query(run, "--format", "json")[1])[0]
    assert document["columns"] == {"seconds": [1.5, 2.5], "bytes": [7, 9]}
    assert document["times_ms"] == stamps.tolist()


def test_what_is_done_to_the_samples_is_asked_for_and_told(run: Run, client: FakeClient) -> None:
    rates = series([1.0, 2.0, 9.0, 3.0], unit="J/s")
    client.answer = rates.picked(np.array([0, 2, 3]))
    more = ("--function", "rate", "--window", "10m", "--missing", "propagate", "--resolution", "2m")
    more += ("--algo", "lttb", "--scale-by", "1e-3", "--fill", "linear", "--max-gap", "5m")
    lines = query(run, *more)[1].splitlines()
    assert "rate over 600 s, lttb of 120 s" in " ".join(lines[:2])
    assert [line.split() for line in lines[-3:]] == [["22:13:20", "1"], ["22:15:20", "9"], ["22:16:20", "3"]]
    asked = client.calls[0][2]
    assert {name: asked[name] for name in ("function", "window", "missing", "algo", "resolution")} == {
        "function": "rate", "window": 600, "missing": "propagate", "algo": "lttb", "resolution": 120,
    }  # fmt: skip
    assert (asked["scale_by"], asked["fill"], asked["max_gap"]) == (0.001, "linear", 300)
    assert query(run, *more, "--format", "csv")[1].splitlines()[:2] == ["time,value", f"{START_S},1.0"]
    for wrong in (("--function", "rating"), ("--algo", "mean"), ("--fill", "next"), ("--window", "-5")):
        assert query(run, *wrong)[0] == 2


def test_a_plot_fits_the_terminal_and_names_its_series(run: Run, client: FakeClient) -> None:
    values = [float(i % 7) for i in range(50)]
    client.answer = [series(values, type="core", type_id=str(j)) for j in range(40)]
    lines = query(run, "--format", "plot")[1].splitlines()
    assert max(len(line) for line in lines) <= 80
    assert any("⠀" < char <= "⣿" for char in "".join(lines))
    assert "core0 0  core1 0" in lines[-4]
    assert lines[-1].strip().endswith("more")


def test_no_samples_say_why_and_make_the_status_1(run: Run, client: FakeClient) -> None:
    client.answer = series([float("nan")] * 4, why="no such host")
    assert query(run) == (1, "", "mstore: fritz/f2 mem_bw: no such host; fritz has f[2,10]\n")
    status, out, err = query(run, "--format", "csv")
    assert (status, err) == (1, "mstore: fritz/f2 mem_bw: no such host; fritz has f[2,10]\n")
    assert out.startswith(f"time,value\n{START_S},\n")


def test_a_hostlist_asks_for_every_host_and_the_same_range(run: Run, client: FakeClient) -> None:
    client.answer = lambda cluster, host, metric, start, end: series([1.0], host=host)
    more = ("--from", "-2h", "--resolution", "5m", "--type", "core", "--type-id", "0", "1", "--aggregate")
    status, out, _ = run("query", "fritz", "f[1-3]", "mem_bw", *more)
    assert status == 0
    assert "f1  f2  f3" in out.splitlines()[1]
    ranges = {args[3:] for _, args, _ in client.calls}
    assert [args[1] for _, args, _ in client.calls] == ["f1", "f2", "f3"]
    assert len(ranges) == 1
    start, end = next(iter(ranges))
    assert end - start == 7201
    chosen = {"type": "core", "type_ids": ["0", "1"], "subtype": None, "subtype_ids": None}
    asked = {"aggregate": True, "resolution": 300, "algo": "average", "function": "", "window": 0}
    asked |= {"missing": "skip", "scale_by": 1.0, "fill": "none", "max_gap": 0}
    assert client.calls[0][2] == chosen | asked


@pytest.mark.parametrize("host", ["n[01]", "a,b", "x[", "[1-2]"])
def test_a_host_that_looks_like_a_hostlist_can_be_asked_for(run: Run, client: FakeClient, host: str) -> None:
    client.answer = lambda cluster, host, metric, start, end: series([1.0], host=host)
    status, out, _ = run("query", "fritz", host, "mem_bw", "--exact")
    assert (status, [args[1] for _, args, _ in client.calls]) == (0, [host])
    assert out.startswith(f"fritz/{host}  mem_bw")


def test_a_bad_hostlist_says_how_to_ask_for_a_name(run: Run, client: FakeClient) -> None:
    client.answer = series([1.0])
    status, _, err = run("query", "fritz", "n[01", "mem_bw")
    assert status == 2
    assert "n[01" in err
    assert "--exact takes HOST" in err
    assert run("query", "fritz", "", "mem_bw", "--exact")[0] == 2


def test_a_mean_is_finite_where_the_sum_is_not(run: Run, client: FakeClient) -> None:
    huge = Series(
        np.array([1e308, 1.7e308, 1.7e308]), START_S, 60, cluster="fritz", host="f2", metric="mem_bw"
    )
    client.answer = [huge] * 40
    status, out, err = query(run)
    assert (status, err) == (0, "")
    assert "1.4667e+308" in out


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--from", "yesterday"], "yesterday"),
        (["--from", "200", "--to", "100"], "--from 200 is after --to 100"),
    ],
)
def test_a_bad_range_is_one_line(run: Run, client: FakeClient, argv: list[str], told: str) -> None:
    status, out, err = run("query", "fritz", "f2", "mem_bw", *argv)
    assert (status, out) == (2, "")
    assert told in err
    assert err.count("\n") == 1


# --- simulate and collect


def test_simulate_writes_text_that_parses(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert cli.main(["simulate", "--text", "--span", "20s", "--seed", "5"]) == 0
    lines = capfdbinary.readouterr().out.splitlines()
    assert len(lines) > 614
    assert all(line.count(b" ") == 2 and b",hostname=" in line for line in lines)


def test_simulate_sends_lines_or_columns_to_the_store(run: Run, client: FakeClient) -> None:
    status, out, _ = run("simulate", "--span", "30s", "--nodes", "2", "--seed", "5")
    assert status == 0
    assert out.startswith(f"{len(client.text.splitlines()):,} samples of 130 series in ")
    assert run("simulate", "--span", "30s", "--nodes", "2", "--seed", "5", "--columns")[0] == 0
    assert len({path for path, _ in client.samples}) == 130
    assert {spec.step_s for spec in client.specs if spec} == {1, 5, 10, 30}


def test_collect_once_stores_every_reading_with_interval_and_unit(run: Run, client: FakeClient) -> None:
    status, out, _ = run("collect", "host", "--once", "--host", "box", "--interval", "30")
    assert status == 0
    assert out.endswith("written to local/box\n")
    metrics = {path.metric for path, _ in client.samples}
    assert {"cpu_load", "mem_used", "cpu_busy"} <= metrics
    specs = {spec.name: spec for spec in client.specs if spec}
    assert specs["mem_used"] == MetricSpec("mem_used", 30, "sum", "f32", "B")


# --- config


def test_the_example_configuration_is_printed_and_parses(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("config", "--example")
    assert status == 0
    (tmp_path / "mstore.toml").write_text(out)
    status, shown, _ = run("config", "--config", str(tmp_path / "mstore.toml"))
    assert status == 0
    assert 'retention = "48h"' in shown


def test_a_bad_configuration_is_one_line_and_status_2(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mstore.toml").write_text('retenton = "1h"')
    status, out, err = run("config", "--config", str(tmp_path / "mstore.toml"))
    assert (status, out) == (2, "")
    assert "unknown key retenton" in err
    assert err.count("\n") == 1


def test_the_metrics_of_a_cluster_are_listed_as_configured(run: Run, tmp_path: Path) -> None:
    (tmp_path / "mstore.toml").write_text('[metrics.a]\nunit = "W"\n[clusters.c.metrics.a]\nstep = 5')
    out = run("config", "--config", str(tmp_path / "mstore.toml"), "--cluster", "c")[1]
    assert out.splitlines()[2].split() == ["a", "5", "s", "f32", "avg", "W"]


# --- commands to a store


def test_stop_and_reload_say_what_was_done(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sent = []

    def send(directory: Path, verb: str, timeout_s: float, memory: str = "") -> dict[str, Any]:
        sent.append((directory, verb, timeout_s))
        return {"needs_restart": ["max_series"], "warnings": ["x"]} if verb == "reload" else {}

    monkeypatch.setattr(common, "send_command", send)
    assert run("stop", "--dir", str(tmp_path), "--timeout", "5s")[1].startswith("stopped in 0.0")
    assert run("reload", "--dir", str(tmp_path))[1].splitlines()[1:] == [
        "warning: x", "not taken over until `mstore restart`: max_series",
    ]  # fmt: skip
    assert sent == [(tmp_path, "stop", 5), (tmp_path, "reload", 600)]


def test_stopping_nothing_is_one_line(run: Run, tmp_path: Path) -> None:
    status, out, err = run("stop", "--dir", str(tmp_path))
    assert (status, out) == (1, "")
    assert err.count("\n") == 1
    assert str(tmp_path) in err


def test_checking_a_missing_directory_is_one_line(run: Run, tmp_path: Path) -> None:
    status, out, err = run("check", "--dir", str(tmp_path / "nothing"))
    assert (status, out) == (2, "")
    assert "no such directory" in err


@pytest.mark.parametrize("option", ["--from", "--to", "--since", "--before", "--until"])
def test_a_time_ago_is_a_time_and_no_option(option: str) -> None:
    """argparse alone takes -24h for an option of its own."""
    assert cli._with_times_joined(["free", "fritz", option, "-24h", "-x"]) == [
        "free",
        "fritz",
        f"{option}=-24h",
        "-x",
    ]
