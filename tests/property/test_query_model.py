"""Reader against a dict of dicts, and against a writer process that frees and reuses memory all the time."""

from __future__ import annotations

import math
import mmap
import multiprocessing
import os
import random
import time

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mstore.errors import Unavailable
from tests.query_rig import T0, Store, one, plain

STEP = 60
HOSTS = ("f1", "f2")


@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), starts=st.lists(st.integers(-200_000, 200_000), min_size=1, max_size=4))
def test_answers_equal_those_of_a_dict_of_samples(seed: int, starts: list[int]) -> None:
    rng = random.Random(seed)
    store = Store(f"mstore-test-model-{os.getpid()}")
    try:
        model: dict[int, dict[int, float]] = {}
        anchors: list[int] = []
        for core in range(3):
            first = T0 + rng.randrange(-STEP, STEP)
            ref = store.open("load", "f1", "core", str(core), t=first)
            anchors.append(first - STEP // 2)
            model[core] = {}
            for _ in range(rng.randrange(1, 6)):
                slot = rng.choice([0, 0, rng.randrange(-3000, 3000)])
                values = [float(rng.randrange(1000)) for _ in range(rng.randrange(1, 700))]
                jitter = rng.randrange(-STEP // 2, STEP // 2)
                store.put(ref, first + slot * STEP + jitter, values)
                model[core] |= {slot + i: value for i, value in enumerate(values)}
        for offset in starts:
            start, end = T0 + offset, T0 + offset + rng.randrange(0, 100_000)
            for core, anchor in enumerate(anchors):
                series = one(
                    store.reader.query("fritz", "f1", "load", start, end, type="core", type_ids=core)
                )
                slots = [(t - anchor) // STEP for t in series.times.tolist()]
                assert all(start <= t < end for t in series.times.tolist())
                assert plain(series.values) == [model[core].get(slot) for slot in slots]
                assert bool(series.why) == (not any(slot in model[core] for slot in slots))
            whole = one(store.reader.query("fritz", "f1", "load", start, end))
            for i, t in enumerate(whole.times.tolist()):
                found = [model[core].get((t - anchors[core]) // STEP) for core in range(3)]
                present = [value for value in found if value is not None]
                assert whole.coverage is not None
                assert whole.coverage[i] == len(present)
                mean = sum(present) / len(present) if present else math.nan
                assert whole.values[i] == mean or (not present and math.isnan(whole.values[i]))
    finally:
        store.close()


N_SERIES, WINDOW = 24, 1500


def write_for_ever(store: Store, refs: list[int], stop: mmap.mmap) -> None:
    """Every series has a window of slots that moves on; what leaves it is freed and used for others."""
    rng = random.Random(1)
    ahead = dict.fromkeys(range(N_SERIES), 0)
    while not stop[0]:
        core = rng.randrange(N_SERIES)
        slot = ahead[core]
        n = rng.randrange(1, 400)
        values = [float(core << 16 | (slot + i) % 65536) for i in range(n)]
        store.put(refs[core], T0 + slot * STEP, values)
        ahead[core] += n
        store.samples.free_before(refs[core] & 0xFFFF_FFFF, T0 + (slot - WINDOW) * STEP)
        stop[8:16] = (max(ahead.values())).to_bytes(8, "little")


def test_no_reader_ever_sees_a_value_of_another_series_or_slot_while_memory_is_reused() -> None:
    store = Store(f"mstore-test-reuse-{os.getpid()}")
    stop = mmap.mmap(-1, 4096)
    refs = [store.open("load", "f1", "core", str(core)) for core in range(N_SERIES)]
    writer = multiprocessing.get_context("fork").Process(target=write_for_ever, args=(store, refs, stop))
    writer.start()
    try:
        seen, rounds = 0, 0
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline:
            newest = int.from_bytes(stop[8:16], "little")
            start = T0 + max(newest - 2 * WINDOW, 0) * STEP
            core = rounds % N_SERIES
            rounds += 1
            try:
                series = one(
                    store.reader.query(
                        "fritz", "f1", "load", start, start + 4000 * STEP, type="core", type_ids=str(core)
                    )
                )
            except Unavailable:
                continue
            slots = (series.times - T0) // STEP
            want = (core << 16 | slots % 65536).astype(np.float32)
            wrong = series.valid & (series.values != want)
            assert not wrong.any(), f"core {core}: {series.values[wrong][:5]} at slots {slots[wrong][:5]}"
            seen += int(series.valid.sum())
        assert writer.is_alive()
    finally:
        stop[0] = 1
        writer.join(20)
        store.close()
    assert seen > 1000
