"""`mstore check`: everything a store's files and memory must fulfil, what is wrong, and what it would cost.

stopped   DIR/lock is taken; every byte of snapshots and log, and a rehearsal of a start (persistence/survey.py)
running   control, directory, samples and rings as they are now; beside the writer every snapshot and the log up to the
          block that is durable at that moment
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mstore.attach import Attached, attach
from mstore.client.sync import connect
from mstore.errors import CorruptRecord, InvariantBroken, MstoreError, StorageError, StoreLocked, Unavailable
from mstore.kernels._ring import RingReader
from mstore.paths import run_dir
from mstore.persistence import store_lock
from mstore.persistence.files import WAL_SUFFIX, ReadOnly, number_of, snapshot_dir, snapshot_name, wal_dir
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import check_snapshot, list_snapshots
from mstore.persistence.survey import Fault, Survey, survey
from mstore.plurals import count
from mstore.shm import chunks, layout, segment
from mstore.shm.control import Control
from mstore.shm.note import read_note
from mstore.workers.look import kept_memory, lock_quietly
from mstore.workers.repair import Plan, carry_out, make_plan

SOUND, DAMAGED, UNKNOWN = 0, 1, 2
"""Exit statuses; UNKNOWN: it could not be checked."""

_ANSWER_S_MAX = 5.0
_LOOKS = 5
"""A change under way, or a file that is retired meanwhile, can look like a fault: a real one stays."""


class CannotCheck(MstoreError):
    """Nothing is known about the store; the message says why."""

    code = "cannot_check"


@dataclass(slots=True)
class Result:
    """What was verified and what is wrong."""

    running: bool
    survey: Survey
    kept: list[str] = field(default_factory=list)
    """Segments of a dead run in /dev/shm."""
    adoptable: bool = False

    @property
    def status(self) -> int:
        return DAMAGED if self.survey.faults else SOUND

    def lines(self) -> list[str]:
        """For people."""
        found = self.survey
        last = count(len(found.faults), "fault") if found.faults else "everything is sound"
        return [
            *found.sound,
            *found.notes,
            *(f"WRONG: {fault.kind}: {fault}" for fault in found.faults),
            f"check: {last}",
        ]

    def to_plain(self) -> dict[str, Any]:
        """For --json."""
        return {"running": self.running, "status": self.status, **self.survey.to_plain()}


def check(store_dir: Path) -> Result:
    """Check a store, running or not. Changes nothing.

    raises  CannotCheck
    """
    with _checking():
        _refuse_what_is_no_store(store_dir)
        try:
            lock_fd = lock_quietly(store_dir)
        except StoreLocked:
            return Result(True, _running(store_dir))
        try:
            return _stopped(store_dir)
        finally:
            if lock_fd >= 0:
                os.close(lock_fd)


def repair(store_dir: Path, agree: Callable[[Result, Plan], bool]) -> tuple[Result, Plan, bool]:
    """Check a stopped store, plan what to do, and do it if `agree(result, plan)` says so.

    returns  (the result before, the plan, whether it was carried out)
    raises   CannotCheck, CannotRepair, StorageError; StoreLocked when it runs
    """
    with _checking():
        _refuse_what_is_no_store(store_dir)
    lock_fd = store_lock.lock(store_dir)
    try:
        with _checking():
            found = _stopped(store_dir)
        plan = make_plan(found.survey, found.kept, found.adoptable)
        if not plan.steps or not agree(found, plan):
            return found, plan, False
        carry_out(plan)
        return found, plan, True
    finally:
        os.close(lock_fd)


@contextlib.contextmanager
def _checking() -> Iterator[None]:
    """What keeps us from looking says nothing about the store."""
    try:
        yield
    except CannotCheck:
        raise
    except MstoreError as error:
        raise CannotCheck(f"the store cannot be checked: {error.message}") from error
    except OSError as error:
        raise CannotCheck(f"the store cannot be checked: {error}") from error


def _refuse_what_is_no_store(store_dir: Path) -> None:
    if not store_dir.is_dir():
        raise CannotCheck(f"there is no store in {store_dir}: no such directory")
    if not any(path.exists() for path in (wal_dir(store_dir), snapshot_dir(store_dir))):
        raise CannotCheck(f"{store_dir} holds neither a log nor snapshots: there is no store in it")


def _stopped(store_dir: Path) -> Result:
    found = survey(store_dir)
    kept, adoptable = kept_memory(store_dir)
    if adoptable:
        found.notes.append("the memory of the last run is in /dev/shm, and the next start may use it")
    elif kept:
        found.notes.append(
            f"{count(len(kept), 'segment')} of a killed run in /dev/shm, which the next start removes"
        )
    return Result(False, found, kept, adoptable)


# --- a running store


def _running(store_dir: Path) -> Survey:
    found = Survey(store_dir)
    faults: list[str] = []
    for _ in range(_LOOKS):
        try:
            with attach(store_dir) as reader:
                faults = list(_memory_faults(reader, found))
        except Unavailable as error:
            if removed := _removed_segments(store_dir):
                found.faults += removed
                return found
            raise CannotCheck(
                f"{store_dir} is locked, but no store answers there: it is starting or stopping, or hangs"
            ) from error
        if not faults:
            break
    found.faults += [Fault("memory", str(run_dir(store_dir)), 0, 0, text, _OF_MEMORY) for text in faults]
    for _ in range(_LOOKS):
        promised = _promised(store_dir)
        sound, wrong = _files_beside(store_dir, promised)
        if not wrong:
            break
    if promised.unprotected_seq:
        found.notes.append(
            "files of this store were removed or changed while it ran: it takes a snapshot of what is in memory,"
            f" of block {promised.unprotected_seq:,} or later, and is degraded until that is complete"
        )
    found.sound += sound
    found.faults += wrong
    return found


_OF_MEMORY = "nothing yet: the files are what counts; `mstore restart --cold` fills the memory from them"
_OF_NAMES = "nothing yet: the store goes on; programs cannot attach, this look ends here, and a restart reads the files"
_OF_FILES = (
    "nothing while the store runs: its memory holds everything, and `mstore snapshot` writes it down anew"
)


def _removed_segments(store_dir: Path) -> list[Fault]:
    """Of a store that serves: what somebody took from /dev/shm. Nothing more can be looked at from here then."""
    try:
        with connect(store_dir, timeout=_ANSWER_S_MAX) as client:
            roles = client.info()["memory"]["removed_segments"]
        _, names = read_note(run_dir(store_dir) / "instance.json")
    except MstoreError:
        return []
    what = "it was removed while the store runs"
    return [Fault("memory", str(segment.SHM_DIR / names[role]), 0, 0, what, _OF_NAMES) for role in roles]


def _memory_faults(reader: Attached, found: Survey) -> Iterator[str]:
    """Broken rules of control, directory, samples and rings."""
    counts = reader.directory.counts()
    try:
        with _control(reader.store_dir) as control:
            control.validate()
    except InvariantBroken as error:
        yield error.message
    try:
        reader.directory.validate()
        samples = reader.samples_mapping
        seen = np.frombuffer(samples.buffer, np.uint8)
        chunks.validate(reader.directory.series_table(), seen, samples.committed_bytes)
        del seen
    except InvariantBroken as error:
        yield error.message
    n_rings = 0
    for name, ring in _rings(reader.store_dir):
        n_rings += 1
        durable, drained, head = ring.durable(), ring.drained(), ring.head()
        if not durable <= head or not drained <= head or head - durable > ring.ring_bytes():
            yield f"{name}: durable {durable}, drained {drained}, head {head} of {ring.ring_bytes()} bytes"
            continue
        try:
            ring.validate(drained, head)
        except (InvariantBroken, ValueError) as error:
            yield f"{name}: {error}"
    found.sound[:] = [
        f"running at {run_dir(reader.store_dir)}",
        f"memory: {counts['live_series']:,} series, {counts['n_levels']:,} levels, "
        f"{count(n_rings, 'ring')}, every rule holds",
    ]


def _rings(store_dir: Path) -> Iterator[tuple[str, RingReader]]:
    instance, names = read_note(run_dir(store_dir) / "instance.json")
    for role, name in names.items():
        if role.startswith("ring-"):
            with segment.attach(name, layout.SEG_RING, instance) as mapping:
                yield role, RingReader(mapping.segment)


class _Promised(NamedTuple):
    """What a running store says there must be."""

    durable_seq: int
    log_first_seq: int
    """The log reaches back to it; 0: the store does not say."""
    snapshots: tuple[int, ...]
    """Sequences of the generations that it counts on."""
    unprotected_seq: int


@contextlib.contextmanager
def _control(store_dir: Path) -> Iterator[Control]:
    instance, names = read_note(run_dir(store_dir) / "instance.json")
    with segment.attach(names["control"], layout.SEG_CONTROL, instance) as mapping:
        yield Control(mapping)


def _promised(store_dir: Path) -> _Promised:
    with _control(store_dir) as control:
        totals = control.totals()
        snapshots = tuple(filter(None, (totals["newest_snapshot_seq"], totals["older_snapshot_seq"])))
        return _Promised(control.durable, totals["log_first_seq"], snapshots, totals["unprotected_seq"])


def _files_beside(store_dir: Path, promised: _Promised) -> tuple[list[str], list[Fault]]:
    """Snapshots, and the log up to what is durable; what is retired meanwhile is no fault."""
    disk = ReadOnly()
    sound: list[str] = []
    wrong: list[Fault] = []
    there = list_snapshots(disk, snapshot_dir(store_dir))
    for log_seq in set(promised.snapshots) - {seq for seq, _ in there}:
        path = snapshot_dir(store_dir) / snapshot_name(log_seq)
        wrong.append(
            Fault("snapshot", str(path), 0, 0, "there is no such file", _OF_FILES, generation=log_seq)
        )
    for log_seq, path in there:
        try:
            info = check_snapshot(disk, path, log_seq)
            sound.append(
                f"snapshot of block {log_seq:,}: {info.n_series:,} series, {count(info.n_chunks, 'chunk')}"
            )
        except (CorruptRecord, StorageError) as error:
            if path.exists():
                where, offset = error.details.get("path", str(path)), error.details.get("offset", 0)
                wrong.append(
                    Fault("snapshot", where, offset, 0, error.message, _OF_FILES, generation=log_seq)
                )
    folder, durable = wal_dir(store_dir), promised.durable_seq
    firsts = [n for name in disk.list(folder) if (n := number_of(name, WAL_SUFFIX)) is not None]
    first_seq = promised.log_first_seq or min(firsts, default=durable + 1)
    reader = LogReader(disk, store_dir, first_seq - 1, durable_floor=durable)
    try:
        if reader.report.last_seq < durable:
            for block in reader.blocks():
                if block.seq >= durable:
                    break
    except StorageError as error:
        wrong.append(Fault("log", str(folder), 0, 0, error.message, _OF_FILES))
    report = reader.report
    for damage in (*report.damage, *report.hurt):
        wrong.append(Fault("log", damage.path, damage.offset, damage.n_bytes, damage.reason, _OF_FILES))
    sound.append(
        f"log up to block {report.last_seq:,}: {count(report.n_blocks, 'block')}, {report.n_bytes:,} bytes"
    )
    return sound, wrong
