"""`scripts/torture threads`: the real kernels under ThreadSanitizer, two threads on one mapping.

    ring     a writer and a reader of records, both without Python's lock (sanitized_ring.cython)
    chunks   the hammer of tests/property/test_samples_hammer.py: one thread appends, overwrites, frees and removes in a
             segment so small that every chunk is used again; the other gathers. Both hold Python's lock between calls
             only, so their kernels meet inside of long runs and long answers

The kernels concerned are built once more, instrumented, in a directory of their own; all others are used as they are. A
run with a planted race must be reported, the real one not. ThreadSanitizer knows no fences, so it says whether every
access that meets another is an atomic one, and nothing about what the fences of links and rows are for: these have
their models (tests/models).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "sanitized_ring.cython"
REPORTED = 66

RUN_RING = """
import mmap, sys, threading
from mstore.kernels import _sanitized_ring as driver
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.shm import layout
racy, records = sys.argv[1] == "racy", int(sys.argv[2])
segment = Segment(mmap.mmap(-1, layout.RING_DATA + (1 << 16)), True)
create_ring_words(segment, 1 << 16)
wrong = []
ends = [
    threading.Thread(target=driver.produce, args=(RingWriter(segment), records)),
    threading.Thread(target=lambda: wrong.append(driver.consume(RingReader(segment), records, racy))),
]
for end in ends:
    end.start()
for end in ends:
    end.join()
assert wrong == [-1], wrong
"""

RUN_CHUNKS = """
import mmap, sys, threading, time
import numpy as np
from tests.property import test_samples_hammer as hammer
from tests.samples_rig import Rig
racy, seconds = sys.argv[1] == "racy", float(sys.argv[2])
shared = mmap.mmap(-1, 8 * (2 * hammer.N_GRID + 3))
watch = np.frombuffer(shared, "<u8")
wrong = []

def read(rig):
    try:
        hammer.reader(rig, shared, 1)
    except BaseException as fault:
        wrong.append(repr(fault))

def copy_plainly(rig):  # a memcpy is what the sanitizer must report
    while not watch[hammer.STOP]:
        bytes(memoryview(rig.maps[1]))

with Rig(64, extents=8) as rig:
    writer = hammer.Writer(rig, watch, 1)
    thread = threading.Thread(target=copy_plainly if racy else read, args=(rig,))
    thread.start()
    stop = time.monotonic() + seconds
    n_steps = 0
    while time.monotonic() < stop and thread.is_alive():
        writer.step()
        n_steps += 1
    watch[hammer.STOP] = 1
    thread.join()
    print(n_steps, "writes,", int(watch[hammer.READS]), "reads of", int(watch[hammer.CHECKED]), "values")
assert not wrong, wrong
assert racy or watch[hammer.CHECKED] > 10_000
"""


@dataclass(frozen=True)
class Pair:
    """Two threads on one mapping."""

    name: str
    kernels: tuple[str, ...]
    """Instrumented."""
    run: str
    amount: str


PAIRS = (
    Pair("ring", ("_ring", "_segment", "_layout", "_sanitized_ring"), RUN_RING, "300000"),
    Pair("chunks", ("_chunks", "_room", "_grid", "_samples", "_gather_runs", "_gather"), RUN_CHUNKS, "20"),
)


def build(folder: Path) -> None:
    """A copy of the project with the kernels of all pairs instrumented."""
    kernels = [name for pair in PAIRS for name in pair.kernels]
    for name in ("mstore", "tests"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(DRIVER, folder / "mstore" / "kernels" / "_sanitized_ring.pyx")
    for name in kernels:
        for made in (folder / "mstore" / "kernels").glob(f"{name}.*so"):
            made.unlink()
    environment = {
        **os.environ,
        "MSTORE_CFLAGS": "-fsanitize=thread -g -O1 -Wno-tsan",
        "MSTORE_LDFLAGS": "-fsanitize=thread",
        "MSTORE_KERNELS_ONLY": ",".join(kernels),
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def run(folder: Path, pair: Pair, how: str) -> subprocess.CompletedProcess[str]:
    """`setarch -R`: the sanitizer wants its own places in the address space."""
    library = subprocess.check_output(["gcc", "-print-file-name=libtsan.so"], text=True).strip()
    environment = {**os.environ, "LD_PRELOAD": library, "TSAN_OPTIONS": f"exitcode={REPORTED}"}
    command = ["setarch", "-R", sys.executable, "-c", pair.run, how, pair.amount]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def threads() -> int:
    """The exit status: 0 when every planted race is reported and no real pair has one."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        return max(judge(folder, pair) for pair in PAIRS)


def judge(folder: Path, pair: Pair) -> int:
    planted, real = run(folder, pair, "racy"), run(folder, pair, "real")
    if planted.returncode != REPORTED or "ThreadSanitizer: data race" not in planted.stderr:
        print(
            f"{pair.name}: the planted race was not reported: status {planted.returncode}\n{planted.stderr[-4000:]}"
        )
        return 1
    print(real.stderr)
    print(
        f"{pair.name}, {pair.amount}: {'no race' if real.returncode == 0 else 'see above'} {real.stdout.strip()}"
    )
    return real.returncode
