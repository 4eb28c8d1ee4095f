"""In a mount namespace with a /dev/shm of given options: commit memory of a samples segment, and tell what came of it.

python -m tests.shm_probe WANTED_BYTES RESERVED_BYTES prints {"secured", "committed", "allocated", "huge"}, all bytes.
"""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from typing import Any

from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.shm import layout
from mstore.shm.segment import SHM_DIR
from tests.samples_rig import Rig


def huge_bytes() -> int:
    """What this process has mapped by pages of 2 MiB; nothing else of it is shared memory of that size."""
    with open("/proc/self/smaps", encoding="ascii") as lines:
        return sum(1024 * int(line.split()[1]) for line in lines if line.startswith("ShmemPmdMapped:"))


def main() -> None:
    wanted, reserved = map(int, sys.argv[1:])
    rig = Rig()
    fd = os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR, 0o600)
    os.ftruncate(fd, layout.SAMPLES_DATA + reserved)
    mapped = mmap.mmap(fd, layout.SAMPLES_DATA + reserved)
    segment = Segment(mapped, writable=True)
    samples = Samples(Segment(rig.maps[0], writable=True), segment, fd, 0, True)
    secured = samples.secure(wanted)
    header = memoryview(mapped)[: layout.PAGE_BYTES]
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    at = fields["committed_bytes"][1]
    told = {
        "secured": secured,
        "committed": int.from_bytes(header[at : at + 8], sys.byteorder),
        "allocated": os.fstat(fd).st_blocks * 512,
        "huge": huge_bytes(),
    }
    print(json.dumps(told))


def probe(options: str, wanted: int, reserved: int) -> dict[str, Any] | None:
    """main() under a /dev/shm mounted with these options; None where that cannot be had, with the reason printed."""
    mount = f'mount -t tmpfs -o {options} tmpfs /dev/shm && exec "$0" "$@"'
    rights = ["-m"] if os.geteuid() == 0 else ["-r", "-m"]
    command = [
        "unshare",
        *rights,
        "sh",
        "-c",
        mount,
        sys.executable,
        "-m",
        "tests.shm_probe",
        str(wanted),
        str(reserved),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    if done.returncode and ("mount:" in done.stderr or "unshare" in done.stderr):
        print(f"no such /dev/shm here: {done.stderr.strip()}")
        return None
    assert done.returncode == 0, done.stderr
    told: dict[str, Any] = json.loads(done.stdout)
    return told


if __name__ == "__main__":
    main()
