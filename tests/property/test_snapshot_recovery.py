"""Stores of several clusters, snapshots while they change, damage to any of their files: what comes back is what was
there, or the report names what is not.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st

from mstore.kernels import reference_snapshot
from mstore.persistence import snapshot
from mstore.persistence.files import quarantine_dir, snapshot_dir
from tests.targets import Key, each_entry
from tests.unit.test_recovery_store import MAX_SERIES, START_S, STEP_S, Machine, scatter

CLUSTERS = ("a", "b", "c")
N_STEPS = 120
SEGMENT_BYTES = 64 * 1024


def bodies(machine: Machine) -> dict[Key, bytes]:
    text = reference_snapshot.copy_chunks(machine.directory_words, machine.samples_words)
    return {key: body for key, _, body in each_entry(text)}


def cluster_of_slot(machine: Machine) -> dict[int, int]:
    slots, _, clusters = reference_snapshot.series_by_cluster(machine.directory_words)
    return dict(zip(slots, clusters, strict=True))


class History:
    """A store that series and samples come to and go from."""

    def __init__(self, machine: Machine, rng: np.random.Generator) -> None:
        self.machine, self.rng = machine, rng
        self.refs: list[int] = []
        self.n_names = 0

    def step(self, k: int) -> None:
        t_s = START_S + k * 40 * STEP_S
        if self.rng.random() < 0.2 and len(self.refs) < 60:
            cluster = CLUSTERS[self.rng.integers(len(CLUSTERS))]
            self.refs += self.machine.intern([f"m{self.n_names + i}" for i in range(4)], t_s, cluster)
            self.n_names += 4
        chosen = [ref for ref in self.refs if self.rng.random() < 0.7]
        if not chosen:
            return
        late_s = int(self.rng.integers(0, 3)) * 300 * STEP_S
        self.machine.log(scatter(chosen, self.rng.normal(size=len(chosen)), t_s - late_s))
        if self.rng.random() < 0.05:
            self.machine.log(self.machine.store.plan_free(0, MAX_SERIES, t_s - 1500 * STEP_S)[0])
        if self.rng.random() < 0.05:
            self.machine.store.look_again()
            self.machine.log(self.machine.store.plan_evict(4096, now_s=t_s)[0])
        if self.rng.random() < 0.05:
            ref = self.refs.pop(int(self.rng.integers(len(self.refs))))
            self.machine.remove(ref & 0xFFFF_FFFF)


def harm(rng: np.random.Generator, path: Path, *, may_unlink: bool = True) -> None:
    text = bytearray(path.read_bytes())
    what = rng.integers(4)
    if what == 0 and may_unlink:
        path.unlink()
    elif what == 1:
        path.write_bytes(text[: rng.integers(len(text))])
    else:
        for _ in range(max(1, what - 1)):
            text[rng.integers(len(text))] ^= 1 << int(rng.integers(8))
        path.write_bytes(text)


def check(machine: Machine, again: Machine) -> None:
    """Exactly what was there; where the report counts a loss, no value that was not."""
    report, expected, found = again.report, bodies(machine), bodies(again)
    assert not report.log.damage, report.summary()
    lost = {one.cluster for one in report.snapshots_refused if one.n_lost}
    assert 0 not in lost, report.summary()
    clusters = cluster_of_slot(machine)
    sound = {key: body for key, body in expected.items() if clusters[key[0]] not in lost}
    assert {key: body for key, body in found.items() if clusters[key[0]] not in lost} == sound, (
        report.summary()
    )
    for key, body in found.items():
        if clusters[key[0]] in lost:
            ours, theirs = np.frombuffer(body, "<f4"), np.frombuffer(expected[key], "<f4")
            there = ~np.isnan(ours)
            assert np.array_equal(ours[there], theirs[: len(ours)][there]), report.summary()
    again.store.validate()


@settings(max_examples=20)
@given(
    seed=st.integers(0, 2**32),
    n_snapshots=st.integers(1, 4),
    n_harmed=st.integers(0, 3),
    newest=st.booleans(),
)
def test_what_comes_back_is_what_was_there_or_the_report_says_what_is_not(
    seed: int, n_snapshots: int, n_harmed: int, newest: bool
) -> None:
    """`newest`: only files of the newest generation are harmed, so that nothing may be lost at all."""
    rng = np.random.default_rng(seed)
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        machine = Machine(directory, segment_bytes=SEGMENT_BYTES)
        history = History(machine, rng)
        at = sorted(rng.choice(np.arange(20, N_STEPS), n_snapshots, replace=False).tolist())
        last = 0
        for k in range(N_STEPS):
            history.step(k)
            if k in at:
                machine.wal.flush(10)
                last = machine.wal.written
                # The store goes on between any two blocks of the snapshot.
                info = machine.snapshot(last, progress=lambda _share, _n, k=k: history.step(k))
                machine.wal.retire(info.oldest_kept_seq)
        assert machine.wal.close()
        files = sorted(snapshot_dir(directory).iterdir())
        if newest and n_snapshots > 1:
            files = [path for path in files if path.name.startswith(f"{last:016x}")]
        else:  # manifests and definitions of every generation at once: then all of it is lost, which is another test
            files = [
                path for path in files if path.suffix == ".chunks" or path.name.startswith(f"{last:016x}")
            ]
            files = files if n_snapshots > 1 else [path for path in files if path.suffix == ".chunks"]
        for path in rng.permutation(np.array(files, object))[:n_harmed]:
            harm(rng, path)
        again = Machine(directory, segment_bytes=SEGMENT_BYTES)
        try:
            check(machine, again)
            if newest and n_snapshots > 1:
                assert not any(one.n_lost > 0 for one in again.report.snapshots_refused)
            assert len(again.report.snapshots_refused) <= n_harmed
        finally:
            assert again.wal.close()
        again = Machine(
            directory, segment_bytes=SEGMENT_BYTES
        )  # a second start finds the same, and harms nothing
        try:
            check(machine, again)
            copies = quarantine_dir(directory)
            assert not again.report.snapshots_refused or copies.is_dir()
        finally:
            assert again.wal.close()


@settings(max_examples=15)
@given(seed=st.integers(0, 2**32), n_snapshots=st.integers(2, 3), n_harmed=st.integers(1, 10))
def test_damage_to_files_of_any_generation_costs_what_the_report_says_and_brings_in_nothing_wrong(
    seed: int, n_snapshots: int, n_harmed: int
) -> None:
    """Files of several small blocks; a manifest is damaged, never missing: without one there was no generation."""
    rng = np.random.default_rng(seed)
    with (
        tempfile.TemporaryDirectory() as name,
        mock.patch.object(snapshot, "SLICE_BYTES", 8192),
    ):
        directory = Path(name)
        machine = Machine(directory, segment_bytes=SEGMENT_BYTES)
        history = History(machine, rng)
        for k in range(N_STEPS):
            history.step(k)
            if k % (N_STEPS // n_snapshots) == N_STEPS // n_snapshots - 1:
                machine.wal.flush(10)
                info = machine.snapshot(
                    machine.wal.written, progress=lambda _share, _n, k=k: history.step(k), block_bytes=18_000
                )
                machine.wal.retire(info.oldest_kept_seq)
        assert machine.wal.close()
        files = sorted(snapshot_dir(directory).iterdir())
        for path in rng.permutation(np.array(files, object))[:n_harmed]:
            harm(rng, path, may_unlink=path.suffix != ".snapshot")
        again = Machine(directory, segment_bytes=SEGMENT_BYTES)
        try:
            check_loss(machine, again)
        finally:
            assert again.wal.close()


def check_loss(machine: Machine, again: Machine) -> None:
    """No value that was not there; what is missing is of a cluster, or of definitions, that the report names."""
    report, expected, found = again.report, bodies(machine), bodies(again)
    refused = report.snapshots_refused
    event(
        f"refused {len(refused)}, lost {sum(one.n_lost for one in refused)}, pieces {report.loaded.in_pieces}"
    )
    named = {one.cluster: one for one in refused if one.n_lost}
    clusters = cluster_of_slot(machine)
    for key in expected.keys() | found.keys():
        ours, theirs = (np.frombuffer(all_of.get(key, b""), "<f4") for all_of in (found, expected))
        size = max(len(ours), len(theirs))
        ours, theirs = (np.pad(one, (0, size - len(one)), constant_values=np.nan) for one in (ours, theirs))
        there = ~np.isnan(ours)
        assert np.array_equal(ours[there], theirs[there]), (key, report.summary())
        if np.array_equal(ours, theirs, equal_nan=True) or 0 in named or report.log.damage:
            continue
        one = named[clusters[key[0]]]
        assert one.lost is None or one.lost.first_slot <= key[0] <= one.lost.last_slot, report.summary()
    again.store.validate()


def evict(machine: Machine, refs: list[int]) -> None:
    machine.store.look_again()
    records, n_chunks = machine.store.plan_evict(3000, now_s=START_S + 10**6)
    assert n_chunks
    machine.log(records)


def free(machine: Machine, refs: list[int]) -> None:
    records, n_chunks = machine.store.plan_free(0, MAX_SERIES, START_S + 600 * STEP_S)
    assert n_chunks
    machine.log(records)


def remove(machine: Machine, refs: list[int]) -> None:
    machine.remove(refs[0] & 0xFFFF_FFFF)


def remove_and_reuse(machine: Machine, refs: list[int]) -> None:
    """The slot goes to a series of another cluster at once."""
    remove(machine, refs)
    (new,) = machine.intern(["another"], START_S + 900 * STEP_S, "z")
    assert new & 0xFFFF_FFFF == refs[0] & 0xFFFF_FFFF
    machine.log(scatter([new], np.array([7.0]), START_S + 900 * STEP_S))


@pytest.mark.parametrize("then", [evict, free, remove, remove_and_reuse])
@pytest.mark.parametrize("moment", ["before definitions", "before chunks", "behind it"])
def test_what_goes_while_a_snapshot_is_written_stays_gone(
    tmp_path: Path, then: Callable[[Machine, list[int]], None], moment: str
) -> None:
    machine = Machine(tmp_path)
    refs = machine.intern([f"m{i}" for i in range(5)], START_S, "a")
    refs += machine.intern([f"m{i}" for i in range(5)], START_S, "b")
    for k in range(700, -1, -1):
        machine.log(scatter(refs, np.full(len(refs), float(k)), START_S + k * STEP_S))
    machine.wal.flush(10)
    done: list[str] = []

    def at(share: float, _n_bytes: int) -> None:
        if not done and (moment == "before chunks" or share > 0):
            done.append(moment)
            if moment != "behind it":
                then(machine, refs)

    seq = machine.wal.written
    if moment == "before definitions":
        then(machine, refs)
        machine.snapshot(seq)
    else:
        machine.snapshot(seq, progress=at)
        if moment == "behind it":
            then(machine, refs)
    assert machine.wal.close()
    again = Machine(tmp_path)
    try:
        assert again.report.snapshot_seq == seq
        assert bodies(again) == bodies(machine)
        again.store.validate()
    finally:
        assert again.wal.close()


def test_chunks_beyond_retention_are_not_loaded(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    refs = machine.intern(["m"], START_S, "a")
    machine.log(scatter(refs, np.array([1.0]), START_S))
    machine.snapshot(machine.wal.written)
    assert machine.wal.close()
    again = Machine(tmp_path, retention_s=48 * 3600)
    try:
        assert bodies(again) == {}
        assert again.report.loaded.n_expired == 1
        assert "beyond retention" in again.report.summary()
    finally:
        assert again.wal.close()
