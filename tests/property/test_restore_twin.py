"""Loading a snapshot's chunks block by block is loading them one by one; what is old is left out and counted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mstore.kernels._restore import load_chunks, prefault
from mstore.kernels._samples import LOAD_STALE, LOADED
from mstore.kernels._snapshot import ChunkCopier
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader
from tests.property.test_snapshot_recovery import N_STEPS, History, bodies
from tests.targets import each_entry
from tests.unit.test_recovery_store import Machine


@pytest.fixture
def written(tmp_path: Path, seed: int) -> tuple[Machine, bytes, list[bytes]]:
    """(a store with a history, its chunks as a snapshot holds them, its definitions)"""
    machine = Machine(tmp_path / "one")
    history = History(machine, np.random.default_rng(seed))
    for k in range(N_STEPS):
        history.step(k)
    assert machine.wal.close()
    copier = ChunkCopier(machine.store.directory.segment, machine.store.samples.samples)
    out, parts = bytearray(1 << 20), []
    while used := copier.fill(out):
        parts.append(bytes(out[:used]))
    return machine, b"".join(parts), list(DirectoryReader(machine.store.directory.segment).dump_definitions())


def empty(directory: Path, definitions: list[bytes]) -> Machine:
    machine = Machine(directory)
    assert machine.wal.close()
    for records in definitions:
        machine.store.directory.apply_definition(records)
    machine.store.directory.publish()
    return machine


def test_a_block_at_once_is_its_chunks_one_by_one(
    tmp_path: Path, written: tuple[Machine, bytes, list[bytes]]
) -> None:
    machine, text, definitions = written
    one, other = (empty(tmp_path / name, definitions) for name in ("a", "b"))
    for (slot, generation, n), header, body in each_entry(text):
        assert one.store.samples.load_chunk(slot, generation, n, header.tobytes(), body) == LOADED
    done = load_chunks(other.store.samples, text)
    entries = list(each_entry(text))
    n_samples = sum(int((~np.isnan(np.frombuffer(body, "<f4"))).sum()) for _, _, body in entries)
    assert done == (len(text), len(entries), n_samples, 0, 0, 0)
    for slot in range(len(one.store.directory.series_table())):
        assert other.store.directory.series(slot) == one.store.directory.series(slot)
        ours, theirs = ([found[0] for found in m.store.samples.chunks_of(slot)] for m in (other, one))
        assert ours == theirs
    assert bodies(other) == bodies(one) == bodies(machine)
    other.store.validate()
    assert load_chunks(other.store.samples, text).n_loaded == len(entries), "once more is the same"
    assert bodies(other) == bodies(machine)


def test_chunks_of_series_that_are_gone_are_left_out(
    tmp_path: Path, written: tuple[Machine, bytes, list[bytes]]
) -> None:
    _, text, definitions = written
    other = empty(tmp_path / "a", definitions)
    slot = next(each_entry(text))[0][0]
    other.store.directory.remove_begin(slot)
    other.store.remove_finish(slot)
    gone = [key for key, _, _ in each_entry(text) if key[0] == slot]
    done = load_chunks(other.store.samples, text)
    assert done.n_stale == len(gone)
    header = next(each_entry(text))[1]
    assert other.store.samples.load_chunk(*gone[0], header.tobytes(), b"") == LOAD_STALE


def test_chunks_that_end_before_a_second_are_left_out_unless_protected(
    tmp_path: Path, written: tuple[Machine, bytes, list[bytes]]
) -> None:
    machine, text, definitions = written
    ends = {
        key: int(header["anchor_s"]) + (key[2] + 1) * 512 * int(header["step_s"])
        for key, header, _ in each_entry(text)
    }
    middle_s = sorted(ends.values())[len(ends) // 2]
    expected = {key for key, end_s in ends.items() if end_s > middle_s}
    assert 0 < len(expected) < len(ends), "some of each"
    for name, limits in (("expired", {"expired_s": middle_s}), ("older", {"older_s": middle_s})):
        other = empty(tmp_path / name, definitions)
        done = load_chunks(other.store.samples, text, **limits)
        assert bodies(other).keys() == expected
        n_left = len(ends) - len(expected)
        assert (done.n_expired, done.n_older) == ((n_left, 0) if name == "expired" else (0, n_left))
        freed, _ = machine.store.plan_free(0, len(machine.store.directory.series_table()), middle_s)
        other.store.apply_block(freed)
        assert bodies(other).keys() == expected, "retention frees nothing that was loaded"
    protected = np.zeros(max(slot for slot, _, _ in ends) + 1, np.uint8)
    chosen = next(slot for (slot, _, _), end_s in ends.items() if end_s <= middle_s)
    protected[chosen] = 1
    other = empty(tmp_path / "protected", definitions)
    load_chunks(other.store.samples, text, expired_s=middle_s, older_s=middle_s, protected=protected)
    assert bodies(other).keys() == expected | {key for key in ends if key[0] == chosen}


def test_loading_stops_where_there_is_no_room_and_goes_on_from_there(
    tmp_path: Path, written: tuple[Machine, bytes, list[bytes]]
) -> None:
    machine, text, definitions = written
    other = empty(tmp_path / "a", definitions)
    other.store.samples.set_cap(layout.SAMPLES_DATA + 2 * layout.EXTENT_BYTES)
    done = load_chunks(other.store.samples, text)
    assert 0 < done.stopped_at < len(text)
    other.store.samples.set_cap(0)
    rest = load_chunks(other.store.samples, text, done.stopped_at)
    assert rest.stopped_at == len(text)
    assert bodies(other) == bodies(machine)


def test_what_is_no_chunk_is_refused_by_its_offset(
    tmp_path: Path, written: tuple[Machine, bytes, list[bytes]]
) -> None:
    _, text, definitions = written
    other = empty(tmp_path / "a", definitions)
    for broken in (text[:63], text[:-8]):
        with pytest.raises(ValueError, match="no chunk of a snapshot at offset"):
            load_chunks(other.store.samples, broken)
    other.store.validate()


def test_memory_without_a_descriptor_is_not_prepared(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    assert machine.wal.close()
    assert prefault(machine.store.samples, layout.SAMPLES_DATA, 1 << 20) is False
