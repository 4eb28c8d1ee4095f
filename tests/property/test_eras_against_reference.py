"""What a worker takes for series of any eras is what the naive twin says, and applying it stores all of it."""

from __future__ import annotations

import random

import numpy as np

from mstore.kernels._columns import ColumnEncoder
from mstore.kernels._eras import fit
from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.kernels._segment import Segment
from mstore.kernels.reference_columns import missing
from mstore.kernels.reference_eras import Era, era_at, latest_change
from mstore.kernels.reference_eras import fit as twin_of_fit
from mstore.kernels.reference_samples import recast
from mstore.limits import SERIES_SLOTS_MAX
from mstore.shm import chunks, layout
from tests.samples_rig import Rig

NEWEST_S = 1_700_000_000
TYPES = tuple(layout.TYPE_NAMES)
VALUES = {
    layout.TYPE_F32: [0.0, -0.0, 0.5, -1, 3, 2.0**31, 3.4e38, 1e-45, np.nan, np.inf],
    layout.TYPE_F64: [0.1, -0.5, 7, 2.0**53, 3.4028235e38, 3.4028236e38, 1e300, -1e-320, 2.0**64, np.nan],
    layout.TYPE_U64: [0, 1, 2**24 + 1, 2**53 + 1, 2**63 + 1, 2**64 - 2, 2**64 - 1],
}


def random_chain(rng: random.Random, newest_type: int) -> list[Era]:
    """Eras that begin one after the other, or at the same time when one never had a sample."""
    start = NEWEST_S - rng.choice((-500, 0, 100, 10**6, SERIES_SLOTS_MAX + 1000))
    chain = [Era(newest_type, rng.choice((1, 7, 60)), start)]
    for _ in range(rng.choice((0, 1, 1, 2, 5))):
        start -= rng.choice((0, 1, 1000, 10**6))
        chain.append(Era(rng.choice(TYPES), rng.choice((1, 7, 60, 3600)), start, rng.random() < 0.1))
    oldest = chain[-1]
    return [*chain[:-1], Era(oldest.type, oldest.step_s, going=oldest.going)]


def write_chain(rig: Rig, chain: list[Era]) -> int:
    """Slot of its newest era; the older ones lie behind it."""
    slots = [
        rig.add(era.step_s, type=era.type, anchor_s=max(era.start_s, 0), generation=3 + k)
        for k, era in enumerate(chain)
    ]
    for k, (slot, era) in enumerate(zip(slots, chain, strict=True)):
        row = rig.series[slot]
        row["era_start"] = era.start_s
        row["flags"] |= layout.SERIES_REMOVING * era.going
        if k + 1 < len(chain):
            row["prev_slot"], row["prev_generation"] = slots[k + 1] + 1, 3 + k + 1
        if k:
            row["flags"] |= layout.SERIES_ENDED
            row["next_slot"], row["next_generation"] = slots[k - 1] + 1, 3 + k - 1
    return slots[0]


def random_time(rng: random.Random, chains: list[list[Era]]) -> int:
    """Near a border: of an era, of what its links reach, of what is accepted."""
    era = rng.choice(rng.choice(chains))
    border = era.start_s if era.start_s > 0 else NEWEST_S
    reach = rng.choice((0, 0, 0, 1, 1, 7, 60)) * SERIES_SLOTS_MAX
    return min(NEWEST_S, max(0, border - reach + rng.choice((-1000, -1, 0, 1, 30, 1000))))


def applied(rig: Rig, refs: np.ndarray, times: list[int], values: bytes, vtype: int) -> int:
    """Encode and apply a frame; the samples that were stale."""
    ring = Segment(bytearray(layout.RING_DATA + (1 << 20)), True)
    create_ring_words(ring, 1 << 20)
    writer, reader = RingWriter(ring), RingReader(ring)
    encoder = ColumnEncoder(refs, np.array(times, np.int64), values, vtype)
    assert encoder.encode(writer)
    stop = writer.publish()
    result = rig.kernel.apply(bytes(reader.view(0, stop)) if stop else b"")
    assert result.n_samples + result.n_stale == encoder.n_written
    return result.n_stale


def assert_stored(rig: Rig, slot: int, t: int, value: bytes, vtype: int) -> None:
    row = rig.series[slot]
    found = chunks.read_grid(row, rig.samples)[(t - int(row["anchor_s"])) // int(row["step_s"])]
    assert found.tobytes() == recast(value, vtype, int(row["type"]))


def test_kernel_and_twin_take_the_same_samples_and_all_of_them_are_stored(seed: int) -> None:
    rng = random.Random(seed)
    outcomes = np.zeros(3, int)
    for _ in range(60):
        vtype = rng.choice(TYPES)
        width = layout.TYPE_DTYPES[vtype].itemsize
        chains = [random_chain(rng, vtype) for _ in range(rng.randint(1, 4))]
        with Rig(64, extents=96) as rig:
            slots = [write_chain(rig, chain) for chain in chains]
            rig.words["grids_changed_s"] = changed_s = latest_change(chains)
            refs = np.array([3 << 32 | slot for slot in slots], np.uint64)
            directory = Segment(rig.maps[0])
            for _ in range(8):
                times = [random_time(rng, chains) for _ in range(rng.choice((1, 2, 20)))]
                cells = [rng.choice(VALUES[vtype]) for _ in range(len(times) * len(chains))]
                values = np.array(cells, layout.TYPE_DTYPES[vtype]).tobytes()
                found = fit(directory, refs, np.array(times), values, vtype, NEWEST_S)
                assert found == twin_of_fit(chains, times, values, vtype, NEWEST_S, changed_s)
                assert applied(rig, refs, times, found[0], vtype) == 0
                outcomes += (len(cells), *found[1:])
            for k, chain in enumerate(chains):  # the last time's samples: nothing overwrote them
                value = found[0][((len(times) - 1) * len(chains) + k) * width :][:width]
                era, _ = era_at(chain, times[-1], NEWEST_S)
                if era is not None and not missing(value, vtype):
                    slot = slots[k] + next(i for i, one in enumerate(chain) if one is era)
                    assert_stored(rig, slot, times[-1], value, vtype)
            del directory
    assert outcomes[1] > 50
    assert outcomes[2] > 50
    assert outcomes[0] > 2 * (outcomes[1] + outcomes[2]), "most samples are taken"
