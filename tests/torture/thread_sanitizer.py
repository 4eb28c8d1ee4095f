"""`scripts/torture threads`: the ring's real kernels under ThreadSanitizer, two threads on one mapping.

The kernels are built once more, instrumented, in a directory of their own, with a driver that runs both ends of a ring
without Python's lock (sanitized_ring.cython). A run with a planted race must be reported, the real one not.

Not covered: link words and chunks. Readers copy values with plain loads and then look whether the link is the same,
with fences between; ThreadSanitizer knows no fences, and such a copy is a race by its rules. Those protocols have their
models (tests/models) and hammers (tests/property/test_samples_hammer.py).
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).parent / "sanitized_ring.cython"
RECORDS = 300_000
REPORTED = 66

RUN = """
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


def build(folder: Path) -> None:
    shutil.copytree(
        ROOT / "mstore", folder / "mstore", ignore=shutil.ignore_patterns("*.so", "*.c", "__pycache__")
    )
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    shutil.copy(DRIVER, folder / "mstore" / "kernels" / "_sanitized_ring.pyx")
    environment = {
        **os.environ,
        "MSTORE_CFLAGS": "-fsanitize=thread -g -O1 -Wno-tsan",
        "MSTORE_LDFLAGS": "-fsanitize=thread",
        "MSTORE_KERNELS_ONLY": "_ring,_segment,_layout,_sanitized_ring",
    }
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=folder, env=environment, check=True)


def run(folder: Path, how: str) -> subprocess.CompletedProcess[str]:
    """`setarch -R`: the sanitizer wants its own places in the address space."""
    library = subprocess.check_output(["gcc", "-print-file-name=libtsan.so"], text=True).strip()
    environment = {**os.environ, "LD_PRELOAD": library, "TSAN_OPTIONS": f"exitcode={REPORTED}"}
    command = ["setarch", "-R", sys.executable, "-c", RUN, how, str(RECORDS)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def threads() -> int:
    """The exit status: 0 when the planted race is reported and the real ring has none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        build(folder)
        planted, real = run(folder, "racy"), run(folder, "real")
    if planted.returncode != REPORTED or "ThreadSanitizer: data race" not in planted.stderr:
        print(f"the planted race was not reported: status {planted.returncode}\n{planted.stderr[-4000:]}")
        return 1
    print(real.stderr)
    print(f"{RECORDS} records through a ring: {'no race' if real.returncode == 0 else 'see above'}")
    return real.returncode
