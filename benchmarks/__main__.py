"""Run the benchmarks: python -m benchmarks [ingest|memory|read] [--json FILE] [--seed N]; on a quiet machine."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmarks import bench_ingest, bench_memory, bench_read
from benchmarks.common import Report, machine, memcpy_bytes_per_s

PARTS = {
    "ingest": lambda report, seed: bench_ingest.run(report, seed),
    "memory": lambda report, seed: bench_memory.run(report),
    "read": lambda report, seed: bench_read.run(report),
}


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/bench", description="Measure mstore against its budgets.")
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="what to measure; default: everything")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    report = Report()
    print(f"{machine()}; memcpy {memcpy_bytes_per_s() / 1e9:.1f} GB/s; seed {options.seed}\n")
    for name in options.parts or PARTS:
        PARTS[name](report, options.seed)
    if options.json:
        options.json.write_text(report.to_json())
    missed = report.missed()
    print(f"\n{len(report.results)} figures, {len(missed)} budgets missed")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
