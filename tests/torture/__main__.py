"""`scripts/torture WHAT`: the searches of the test suite, as long as you like.

    images   crash images of the persister      --count images, one process per core
    faults   the n-th call to the disk fails    --count lives, every call of each in every way
    threads  kernels of ring and chunks under ThreadSanitizer; needs gcc with libtsan
    kills    SIGKILL of every kind of process   --kills N, or --seconds S; the last line is JSON

Every unit of work has a seed of its own: first seed, first seed + 1, ... A run that is interrupted, or another
machine, goes on with --seed. A violation prints its seed and ends the run with status 1.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from typing import Any

from mstore.workers.process import die_with_parent
from tests.torture import faults
from tests.torture.images import Counts, Images, Violation

REPORT_EVERY_S = 10.0


def images_of(seed: int) -> tuple[int, Counts, str]:
    """(seed, counts, what was wrong) of one workload; runs in a process of its own."""
    work = Images(seed)
    try:
        return seed, work.run(), ""
    except Violation as violation:
        return seed, work.counts, str(violation)
    except Exception as error:
        return seed, work.counts, f"seed {seed}: {error!r}"


def in_order(pool: ProcessPoolExecutor, first_seed: int, ahead: int) -> Iterator[tuple[int, Counts, str]]:
    """Results seed by seed, so that everything below the last one printed is done."""
    running: dict[int, Future[tuple[int, Counts, str]]] = {}
    submitted = seed = first_seed
    while True:
        while len(running) < ahead:
            running[submitted] = pool.submit(images_of, submitted)
            submitted += 1
        wait([running[seed]], return_when=FIRST_COMPLETED)
        yield running.pop(seed).result()
        seed += 1


def images(arguments: argparse.Namespace) -> int:
    began = told = time.monotonic()
    counts, failures = Counts(), []
    with ProcessPoolExecutor(arguments.jobs, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
        for seed, found, wrong in in_order(pool, arguments.seed, 4 * arguments.jobs):
            counts.add(found)
            now = time.monotonic()
            if wrong:
                failures.append(wrong)
                print(f"VIOLATION {wrong}", flush=True)
            over = counts.images >= arguments.count or len(failures) >= arguments.failures
            if over or now - told > REPORT_EVERY_S:
                told = now
                _tell(counts, seed, now - began, len(failures))
            if over:
                pool.shutdown(cancel_futures=True)
                return 1 if failures else 0
    return 0


def _tell(counts: Counts, seed: int, seconds: float, n_failures: int) -> None:
    print(
        f"{counts.images} images ({counts.nested} of them of a crash during recovery, {counts.same} more were the"
        f" same), {counts.workloads} workloads, {counts.operations} operations, {counts.rebuilt} stores compared,"
        f" {n_failures} violations; {counts.images / max(seconds, 1e-9):.0f} images/s; go on with --seed {seed + 1}",
        flush=True,
    )


def faults_of(seed: int) -> tuple[int, int, str]:
    """(seed, faults tried, what was wrong) of one life."""
    n = 0
    try:
        for fault in faults.faults(seed):
            faults.live(seed, fault)
            n += 1
    except Exception as error:
        return seed, n, f"seed {seed}: {error!r}"
    return seed, n, ""


def every_call(arguments: argparse.Namespace) -> int:
    began, n_faults = time.monotonic(), 0
    seeds = range(arguments.seed, arguments.seed + arguments.count)
    with ProcessPoolExecutor(arguments.jobs, initializer=die_with_parent, initargs=(os.getpid(),)) as pool:
        for seed, n, wrong in pool.map(faults_of, seeds):
            n_faults += n
            if wrong:
                print(f"VIOLATION {wrong}", flush=True)
                pool.shutdown(cancel_futures=True)
                return 1
            speed = n_faults / (time.monotonic() - began)
            print(
                f"{n_faults} faults, 0 violations; {speed:.0f} faults/s; go on with --seed {seed + 1}",
                flush=True,
            )
    return 0


def kills(arguments: argparse.Namespace) -> int:
    from tests.torture.kills import torture

    return torture(arguments.seed, arguments.kills or arguments.count, arguments.seconds)


def sanitize(_arguments: argparse.Namespace) -> int:
    from tests.torture.thread_sanitizer import threads

    return threads()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="scripts/torture", description=__doc__.split("\n")[0])
    commands: Any = parser.add_subparsers(dest="what", required=True)
    for name, work, count in (
        ("images", images, 1_000_000),
        ("faults", every_call, 100),
        ("kills", kills, 10_000),
    ):
        command = commands.add_parser(name)
        command.set_defaults(work=work)
        command.add_argument("--seed", type=int, default=0, help="of the first unit of work (default 0)")
        command.add_argument("--count", type=int, default=count, help=f"default {count}")
        command.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (images only)")
        command.add_argument("--failures", type=int, default=1, help="stop after so many violations")
        if work is kills:
            command.add_argument("--kills", type=int, default=0, help="the same as --count")
            command.add_argument(
                "--seconds", type=float, default=float("inf"), help="no further kill after so long"
            )
    commands.add_parser("threads").set_defaults(work=sanitize)
    arguments = parser.parse_args(argv)
    result: int = arguments.work(arguments)
    return result


if __name__ == "__main__":
    sys.exit(main())
