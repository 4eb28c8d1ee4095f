"""Back from disk: the newest sound snapshots, then the log behind them.

    1. remove half-written files
    2. load the newest sound file of each cluster (restore.py); a damaged one is reported, the one before is tried; when
       none is sound, what is sound in each
    3. replay the log's live blocks behind the oldest generation used (replay.py tells torn from damaged)
    4. make what was read durable, remove segments behind a cut

The log is retired only up to the older of the two kept generations, so one damaged file costs time, not data. A
manifest gets its name only when the log is durable up to it: a name alone proves that sequences up to it were durable,
even when the file is damaged. Nothing is written before step 4, so a death on the way changes nothing.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mstore import faults
from mstore.clock import monotonic_s, now_s
from mstore.errors import CorruptRecord, LayoutMismatch, StorageError
from mstore.persistence.blocks import (
    BLOCK_HEADER_BYTES,
    SEGMENT_HEADER_BYTES,
    parse_segment_header,
    payload_bytes,
)
from mstore.persistence.files import (
    SNAPSHOT_SUFFIX,
    WAL_SUFFIX,
    Files,
    generation_of,
    is_no_space,
    number_of,
    quarantine_dir,
    recovery_note_path,
    refused_memory_path,
    remove_leftovers,
    snapshot_dir,
    stop_note_path,
    wal_dir,
)
from mstore.persistence.loaded import ANY_TIME_S, Loaded, Refused
from mstore.persistence.replay import Apply, LogReader, LogReport, finish_replay
from mstore.persistence.restore import load_snapshots
from mstore.persistence.snapshot import SnapshotInfo, list_snapshots
from mstore.persistence.snapshot_manifest import read_manifest
from mstore.persistence.target import Progress, Target
from mstore.plurals import count

_FOLLOWED_MAX = 2_000
"""Blocks of a segment that are counted before it is read."""


@dataclass(frozen=True, slots=True)
class Newest:
    """The newest generation there is, for whoever decides when the next one is due."""

    log_seq: int = 0
    created_ns: int = 0
    """0: there is none."""
    log_bytes: int = 0
    """Of the log behind it."""
    unsound: tuple[int, ...] = ()
    """Sequences of generations of which a file was found damaged."""


@dataclass(slots=True)
class Report:
    """What a start found. `next_seq` is the first sequence of the new log."""

    loaded: Loaded = field(default_factory=Loaded)
    log: LogReport = field(default_factory=LogReport)
    n_samples_replayed: int = 0
    removed: list[str] = field(default_factory=list)
    """Half-written files of the run before."""
    next_seq: int = 1
    seconds: float = 0.0
    finish: Callable[[], int] | None = None
    """Step 4, when the disk had no room for it: to be done before anything is promised (wal.Wal's `prepare`)."""
    notes: list[str] = field(default_factory=list)
    """What else an operator should know, a sentence each."""
    unread: Newest | None = None
    """Of a start over kept memory: no snapshot was read."""
    memory_lost: str = ""
    """What a memory held that could not be used, and no file holds; "" = nothing."""

    @property
    def newest(self) -> Newest:
        """What the next snapshot is due by: age, log and soundness of the one before outlive any start."""
        if self.unread is not None:
            return self.unread
        created_ns = self.snapshot.created_ns if self.snapshot else 0
        unsound = sorted({one.log_seq for one in self.snapshots_refused})
        return Newest(self.snapshot_seq, created_ns, self.log.n_bytes, tuple(unsound))

    @property
    def snapshot(self) -> SnapshotInfo | None:
        """The generation that gave the definitions."""
        return self.loaded.snapshot

    @property
    def snapshot_seq(self) -> int:
        """The log was replayed behind this sequence: of the oldest generation that was used; 0 = none was."""
        return self.loaded.before_log_seq

    @property
    def snapshots_refused(self) -> list[Refused]:
        """Files of snapshots that could not be used."""
        return self.loaded.refused

    @property
    def positions(self) -> dict[int, int]:
        """Ring index -> position after its last block in the log; rings with blocks behind the snapshot."""
        return self.log.positions

    @property
    def damaged(self) -> bool:
        """Acknowledged data is lost, or only one copy of it was left: the store starts degraded."""
        return bool(self.log.damage or self.snapshots_refused or self.memory_lost)

    def summary(self) -> str:
        """One line for people: what was read. What is wrong is said by faults()."""
        found = self.loaded
        parts = []
        if self.snapshot:
            held = f"{count(found.n_samples, 'sample')} in {count(found.n_chunks, 'chunk')}"
            parts.append(f"snapshot of block {self.snapshot_seq:,} with {held}")
        parts.append(f"{self.log.n_blocks:,} log blocks, {self.log.n_bytes:,} bytes")
        if found.n_expired:
            parts.append(f"{found.n_expired:,} chunks beyond retention left out")
        if found.n_older or found.n_no_room:
            parts.append(f"{found.n_older + found.n_no_room:,} chunks, the oldest, did not fit the memory")
        if self.log.torn:
            behind = count(self.log.n_blocks_cut, "block")
            parts.append(f"torn end cut: {self.log.torn}; {behind} behind it")
        return "; ".join([*parts, *self.notes])

    def faults(self) -> list[str]:
        """A line for each thing that was damaged, and what it costs."""
        damaged = [f"damaged: {one}" for one in self._damage()]
        return damaged + [f"hurt: {one}" for one in self.log.hurt]

    def _damage(self) -> list[str]:
        lost = [self.memory_lost] if self.memory_lost else []
        return [*map(str, self.snapshots_refused), *map(str, self.log.damage), *lost]

    def in_full(self) -> str:
        """Both in one line, for who can say it only once."""
        return "; ".join([self.summary(), *self.faults()])

    def details(self) -> dict[str, Any]:
        """For `info`: numbers, and a line for each thing that was damaged or cut. Plain JSON."""
        found, torn = self.loaded, self.log.torn
        return {
            "at_s": now_s(),
            "seconds": round(self.seconds, 3),
            "adopted": self.unread is not None,
            "snapshot_seq": self.snapshot_seq,
            "last_seq": self.next_seq - 1,
            "samples": found.n_samples + self.n_samples_replayed,
            "samples_from_snapshots": found.n_samples,
            "samples_from_log": self.n_samples_replayed,
            "chunks": found.n_chunks,
            "chunks_beyond_retention": found.n_expired,
            "chunks_without_room": found.n_older + found.n_no_room,
            "left_out_before_s": None if found.from_s == ANY_TIME_S else found.from_s,
            "log_blocks": self.log.n_blocks,
            "log_bytes": self.log.n_bytes,
            "cut_bytes": torn.n_bytes if torn else 0,
            "cut_blocks": [torn.first_seq, torn.last_seq] if torn else [],
            "cut": [str(torn)] if torn else [],
            "damaged": self._damage(),
            "hurt": [str(one) for one in self.log.hurt],
            "lost_blocks": [[one.first_seq, one.last_seq] for one in self.log.damage],
            "lost_chunks": sum(max(0, one.n_lost) for one in self.snapshots_refused),
            "lost_reach": [one.reach() for one in self.snapshots_refused if one.n_lost],
            "removed": list(self.removed),
            "notes": list(self.notes),
            "summary": self.summary(),
        }


def recover(
    files: Files,
    directory: Path,
    target: Target,
    *,
    retention_s: int = 0,
    strict: bool = False,
    progress: Progress | None = None,
) -> Report:
    """Cold start: fill an empty store from DIR. Call with DIR/lock held.

    target       what is filled; what target.apply raises for a block of the log passes through
    retention_s  chunks of snapshots that ended longer ago are not loaded; 0 = all are
    strict       raise CorruptRecord at any damage instead of going on without the damaged part
    progress     called between blocks with what is read, bytes done and bytes in all
    """
    began = monotonic_s()
    report = Report(removed=remove_leftovers(files, directory))
    expired_s = now_s() - retention_s if retention_s else ANY_TIME_S
    report.loaded = load_snapshots(
        files, directory, target, expired_s=expired_s, strict=strict, progress=progress
    )
    floor = report.loaded.durable_floor
    reader = LogReader(
        files, directory, report.snapshot_seq,
        durable_floor=floor, strict=strict, lossy=report.loaded.in_pieces,
    )  # fmt: skip
    bytes_all = written_bytes_behind(files, directory, report.snapshot_seq) if progress is not None else 0
    report.log = reader.replay(_counting(report, target.apply, bytes_all, progress))
    _finish(files, directory, report)
    report.seconds = monotonic_s() - began
    return report


def _finish(files: Files, directory: Path, report: Report) -> None:
    """Step 4. A disk that is full does not keep what was read from being served."""
    faults.hit("recovery.read")
    finish = partial(finish_replay, files, directory, report.log)
    try:
        report.next_seq = finish()
    except StorageError as failure:
        if not is_no_space(failure):
            raise
        report.finish = finish
        report.next_seq = report.log.last_seq + 1
        report.notes.append(f"nothing is written until there is room: {failure.message}")


def _counting(report: Report, apply: Apply, bytes_all: int, progress: Progress | None) -> Apply:
    """`apply`, with samples counted and progress told."""
    done = 0

    def counted(records: memoryview) -> object:
        nonlocal done
        result = apply(records)
        report.n_samples_replayed += getattr(result, "n_samples", 0)
        done += BLOCK_HEADER_BYTES + len(records)
        if progress is not None:
            progress("log", min(done, bytes_all), bytes_all)
        return result

    return counted


def log_bytes_behind(files: Files, directory: Path, behind_seq: int) -> list[int]:
    """Sizes of the segments that hold something behind a sequence, in order; the newest is mostly not full."""
    folder = wal_dir(directory)
    named = [
        (number, name) for name in files.list(folder) if (number := number_of(name, WAL_SUFFIX)) is not None
    ]
    sizes = []
    for place, (_, name) in enumerate(named):
        if place + 1 == len(named) or named[place + 1][0] > behind_seq + 1:
            fd = files.open(folder / name)
            sizes.append(files.size(fd))
            files.close(fd)
    return sizes


def written_bytes_behind(files: Files, directory: Path, behind_seq: int) -> int:
    """About the bytes of blocks that a replay will read: most of a segment may be room that is not used yet.

    The headers of each segment's blocks are followed, the first ones only, which takes some hundredths of a second;
    a segment with more counts as full.
    """
    folder = wal_dir(directory)
    named = [(seq, one) for one in files.list(folder) if (seq := number_of(one, WAL_SUFFIX)) is not None]
    n_bytes = 0
    for place, (seq, name) in enumerate(named):
        if place + 1 == len(named) or named[place + 1][0] > behind_seq + 1:
            fd = files.open(folder / name)
            try:
                n_bytes += _written_bytes(files, fd, seq, behind_seq)
            finally:
                files.close(fd)
    return n_bytes


def _written_bytes(files: Files, fd: int, seq: int, behind_seq: int) -> int:
    """Of the blocks of a segment that begins with seq."""
    header = parse_segment_header(memoryview(files.pread(fd, SEGMENT_HEADER_BYTES, 0)))
    if isinstance(header, str):
        return 0
    before, offset = SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES
    for _ in range(_FOLLOWED_MAX):
        head = files.pread(fd, BLOCK_HEADER_BYTES, offset)
        if (length := payload_bytes(head, header.segment_id, seq)) is None:
            return offset - before
        offset += BLOCK_HEADER_BYTES + length
        before = offset if seq <= behind_seq else before
        seq += 1
    return files.size(fd) - before


def _newest_unread(files: Files, directory: Path) -> Newest:
    """By names and manifests alone. A file of a snapshot that was found damaged has a second name in DIR/quarantine."""
    folder = snapshot_dir(directory)
    damaged = set(files.list(folder)) & set(files.list(quarantine_dir(directory)))
    unsound = {found[0] for name in damaged if (found := generation_of(name))}
    unsound |= {seq for name in damaged if (seq := number_of(name, SNAPSHOT_SUFFIX)) is not None}
    for log_seq, path in list_snapshots(files, folder):
        with contextlib.suppress(CorruptRecord, LayoutMismatch, StorageError):
            created_ns = read_manifest(files, path, log_seq).created_ns
            behind = sum(log_bytes_behind(files, directory, log_seq)[:-1])
            return Newest(log_seq, created_ns, behind, tuple(sorted(unsound)))
    return Newest(0, 0, sum(log_bytes_behind(files, directory, 0)[:-1]), tuple(sorted(unsound)))


def take_notes(files: Files, directory: Path) -> list[str]:
    """What the last stop left to say; it is said once."""
    path = stop_note_path(directory)
    try:
        found = str(json.loads(path.read_text())["note"])
        files.unlink(path)
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [found]


def refuse_memory(files: Files, directory: Path, held_seq: int, why: str) -> None:
    """Note for the start from the files that follows: kept memory with all blocks up to held_seq is not used."""
    content = json.dumps({"held_seq": held_seq, "why": why}).encode()
    with contextlib.suppress(StorageError):  # a full disk: the log says it as well
        files.replace(refused_memory_path(directory), content)


def look_at_refused_memory(files: Files, directory: Path, report: Report) -> None:
    """Let the report say what is lost with the memory that the start before this one could not use."""
    path = refused_memory_path(directory)
    try:
        found = json.loads(path.read_text())
        held_seq, why = int(found["held_seq"]), str(found["why"])
        files.unlink(path)
    except (OSError, ValueError, KeyError, TypeError):
        return
    if held_seq >= report.next_seq:
        report.memory_lost = (
            f"memory that was kept held blocks up to {held_seq:,} and was not used: {why}; the files end with block"
            f" {report.next_seq - 1:,}, anything stored after it is lost"
        )


def keep_details(files: Files, directory: Path, details: dict[str, Any]) -> None:
    """Leave a report's details in DIR/run for `info`. raises StorageError"""
    files.replace(recovery_note_path(directory), json.dumps(details).encode())


def newest_log_id(files: Files, directory: Path) -> int:
    """Id of the newest segment of the log; 0 when there is none, or its header is damaged."""
    folder = wal_dir(directory)
    named = [name for name in files.list(folder) if number_of(name, WAL_SUFFIX) is not None]
    if not named:
        return 0
    fd = files.open(folder / named[-1])
    try:
        header = parse_segment_header(memoryview(files.pread(fd, SEGMENT_HEADER_BYTES, 0)))
    finally:
        files.close(fd)
    return 0 if isinstance(header, str) else header.segment_id


def has_log(files: Files, directory: Path) -> bool:
    """Whether there is any segment, sound or not."""
    return any(number_of(name, WAL_SUFFIX) is not None for name in files.list(wal_dir(directory)))


def resume_without_log(files: Files, directory: Path, applied_seq: int) -> Report:
    """Warm start where somebody removed the log: memory holds all blocks up to applied_seq, which was the last."""
    return Report(
        removed=remove_leftovers(files, directory),
        next_seq=applied_seq + 1,
        unread=_newest_unread(files, directory),
        notes=[
            "the log was removed by somebody: only the memory held everything, until a snapshot was complete"
        ],
    )


def resume(
    files: Files, directory: Path, applied_seq: int, durable_seq: int, *, apply: Apply, strict: bool = False
) -> Report:
    """Warm start: memory was kept and holds everything up to block `applied_seq`; replay what follows.

    durable_seq  the durable word of the control segment, which was kept too: blocks above are written again
    Blocks may have been applied already: applying again is idempotent.
    """
    began = monotonic_s()
    report = Report(removed=remove_leftovers(files, directory))
    after = min(applied_seq, durable_seq)
    reader = LogReader(files, directory, after, durable_floor=durable_seq, strict=strict)
    report.log = reader.replay(apply, applied_seq)
    report.unread = _newest_unread(files, directory)
    _finish(files, directory, report)
    report.seconds = monotonic_s() - began
    return report
