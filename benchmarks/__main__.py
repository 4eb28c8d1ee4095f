"""Run the benchmarks: python -m benchmarks [PART ...] [--json FILE] [--seed N] [options of a part]; on a quiet machine.

ingest    lines and columns in, log bytes, `memory` against `durable`
memory    bytes a sample and a series, idle CPU, import
read      series and job views, attached and over the socket
answers   ten kinds of questions over a store of fritz's size, alone and under load
acks      acknowledgements during a snapshot and a retention pass
follow    what followers cost ingest, how long a sample takes to them, what they miss
restart   away for how long over kept memory, and without it
recovery  cold start from snapshots, replay of the log

others    VictoriaMetrics and InfluxDB beside it; only when it is named, since it wants their programs
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

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
from benchmarks.references import machine, memcpy_bytes_per_s

PARTS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "ingest": lambda report, options: bench_ingest.run(report, options.seed),
    "memory": lambda report, _: bench_memory.run(report),
    "read": lambda report, _: bench_read.run(report),
    "answers": lambda report, _: bench_answers.run(report),
    "acks": lambda report, _: bench_acks.run(report),
    "follow": lambda report, options: bench_follow.run(report, options.seed),
    "restart": lambda report, options: bench_restart.run(
        report, largest_gb=options.largest, cold=options.cold
    ),
    "recovery": lambda report, options: bench_recovery.run(report, cold=options.cold),
    "others": lambda report, options: bench_others.run(
        report, options.seed, options.victoria_metrics, options.influxd
    ),
}
BY_NAME_ONLY = ("others",)


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure mstore against its budgets.")
    parser.add_argument(
        "parts",
        nargs="*",
        choices=[*PARTS, []],
        help=f"what to measure; default: everything but {', '.join(BY_NAME_ONLY)}",
    )
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--largest", type=float, default=0.0, metavar="GB", help="restart: also a store of this size"
    )
    parser.add_argument(
        "--cold",
        action="store_true",
        help="restart, recovery: files are out of the page cache when they are read",
    )
    for program in bench_others.PROGRAMS:
        parser.add_argument(
            program.option, type=Path, metavar="FILE", help=f"others: {program.command}, unless it is in PATH"
        )
    options = parser.parse_args()
    report = Report()
    print(f"{machine()}; memcpy {memcpy_bytes_per_s() / 1e9:.1f} GB/s; seed {options.seed}\n")
    for name in options.parts or [name for name in PARTS if name not in BY_NAME_ONLY]:
        PARTS[name](report, options)
    if options.json:
        options.json.write_text(report.to_json())
    missed = report.missed()
    print(f"\n{len(report.results)} figures, {len(missed)} budgets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
