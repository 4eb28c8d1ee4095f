"""Every benchmark runs, at a size that proves nothing about speed: what it reads back is compared all the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks import (
    bench_acks,
    bench_answers,
    bench_follow,
    bench_ingest,
    bench_memory,
    bench_others,
    bench_read,
    bench_recovery,
    bench_restart,
)
from benchmarks.common import Report


def test_the_ingest_benchmark_reads_back_what_it_sent() -> None:
    report = Report()
    bench_ingest.run(
        report, seed=1, sizes=bench_ingest.Sizes(hosts=4, ticks=3, random_ticks=2, column_ticks=9)
    )
    assert len(report.results) >= 8
    assert all(result.value > 0 for result in report.results)
    assert all(result.reference for result in report.results)
    durable = [result for result in report.results if not re.search("memory$|^log|^  best", result.name)]
    assert all("quiet fdatasync p50" in result.reference for result in durable)


def test_the_memory_benchmark_counts_every_segment() -> None:
    report = Report()
    bench_memory.run(report, small=True)
    by_name = {result.name: result for result in report.results}
    assert len(by_name) == 4
    assert all(" x " in one.reference or "bare" in one.reference for one in report.results)
    # Small stores pay for the rings and tables of large ones: more than the payload, less than everything.
    assert 4 < by_name["memory, full chunks of f32, everything"].value < 200


def test_the_read_benchmark_compares_every_answer() -> None:
    report = Report()
    bench_read.single_series(report, rounds=20)
    bench_read.job_view(report, n_nodes=2, n_samples=100, rounds=2)
    assert len(report.results) == 6


def test_the_benchmark_of_answers_compares_each_of_them_on_both_ways_alone_and_under_load() -> None:
    report = Report()
    bench_answers.run(report, n_nodes=5, rounds=0.02)
    assert [result.name.split()[0] for result in report.results[::2]] == [f"R{i}" for i in range(1, 11)]
    assert len(report.results) == 20
    assert all(result.value > 0 for result in report.results)


def test_the_benchmark_of_acknowledgements_sees_a_snapshot_and_a_pass_that_frees_a_chunk_of_every_series() -> (
    None
):
    report = Report()
    bench_acks.run(report, small=True)
    p50, p99, quiet, snapshot, retention = report.results
    assert all(result.value > 0 for result in report.results)
    assert (p50.budget, p50.at_least, p99.budget) == (2, False, None)
    assert p50.value <= p99.value
    assert snapshot.budget == retention.budget == max(3 * quiet.value, 10)
    assert [result.at_least for result in (snapshot, retention)] == [False, False]


def test_the_benchmark_of_followers_accounts_for_every_sample_of_each() -> None:
    report = Report()
    bench_follow.run(report, seed=1, sizes=bench_follow.Sizes(hosts=8, ticks=3, rounds=2, latency_ticks=4))
    assert len(report.results) == 7
    assert all(result.value > 0 for result in report.results)
    assert [result.budget for result in report.results[4:]] == [100.0] * 3


@pytest.mark.parametrize("cold", [False, True])
def test_the_restart_benchmark_compares_every_series_after_each_way_of_being_away(cold: bool) -> None:
    report = Report()
    bench_restart.run(report, small=True, cold=cold)
    assert [result.budget for result in report.results] == [1.0, 1.0, 1.0, None]
    assert all(result.value > 0 for result in report.results)
    assert all("times and bits of 2,000 series equal" in result.reference for result in report.results)
    assert all("quiet fdatasync p50" in result.reference for result in report.results)
    assert ("files not in the page cache" in report.results[3].reference) == cold


def test_the_recovery_benchmark_reads_back_all_that_was_written() -> None:
    report = Report()
    bench_recovery.run(report, small=True)
    by_name = {result.name: result for result in report.results}
    assert len(by_name) == 6
    assert by_name["log replay, in random order"].budget == 15e6
    assert by_name["log replay, in runs"].budget == 50e6
    assert all(result.value > 0 for result in report.results)


def test_the_comparison_measures_mstore_and_says_how_to_get_what_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report()
    sizes = bench_others.Sizes(hosts=2, ticks=3, rounds=2, sampled=10, questions=5)
    bench_others.run(report, 1, tmp_path / "no-program", tmp_path / "none-either", sizes)
    assert [result.name.split(":")[0] for result in report.results] == ["mstore"] * 4
    assert all(result.value > 0 for result in report.results)
    assert "103,750 samples were read back, 0 of them not as they were written" in report.results[3].reference
    told = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert [line.split()[0] for line in told] == ["VictoriaMetrics", "InfluxDB"]
