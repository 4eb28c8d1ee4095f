"""Memory is adopted under the eyes of attached readers: no answer leaves out what is there."""

from __future__ import annotations

import os
import signal
import time

import numpy as np

from mstore.shm import layout
from tests.samples_rig import Rig, column

N_SERIES = 8
N_CHUNKS = 20


def test_a_reader_beside_an_adoption_never_misses_a_chunk() -> None:
    """first_n and last_n bound what a reader looks at: while they are derived again they may only be too wide."""
    rig = Rig(N_SERIES, extents=8)
    slot = rig.add(60, count=N_SERIES)
    for k in range(N_SERIES):
        for n in range(N_CHUNKS):
            values = np.arange(layout.CHUNK_SLOTS, dtype=np.float32)
            rig.kernel.apply(column(slot + k, 60 * layout.CHUNK_SLOTS * n, 60, values))
    pid = os.fork()
    if pid == 0:
        try:
            adopting = rig.open(fresh=False)
            while True:
                adopting.rebuild_free_lists()
        finally:
            os._exit(1)
    try:
        narrow = 0
        deadline = time.monotonic() + 1.0
        while time.monotonic() < deadline:
            for row in rig.series[:N_SERIES]:
                narrow += int(row["first_n"]) != 0 or int(row["last_n"]) != N_CHUNKS - 1
        assert narrow == 0
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        rig.close()
