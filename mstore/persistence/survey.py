"""What is wrong with the files of a store, and what a start would lose by it. Nothing is changed.

    rehearsal   recovery.recover() itself, over files that take no change, into a directory of its own: what a start
                would use, refuse, cut and lose
    reading     every file of every generation, every segment of the log: also what a start would never look at,
                because something newer is sound

Each fault says what it would cost: nothing, when a newer snapshot holds it or an older one and the log do.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mstore.errors import CorruptRecord, MstoreError
from mstore.persistence.blocks import BLOCK_HEADER_BYTES
from mstore.persistence.files import (
    TMP_SUFFIX,
    WAL_SUFFIX,
    Files,
    ReadOnly,
    generation_of,
    number_of,
    quarantine_dir,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.recovery import Report, recover
from mstore.persistence.rehearsal import Rehearsal
from mstore.persistence.replay import Damage, LogReader, LogReport
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.snapshot_files import read_blocks
from mstore.persistence.snapshot_manifest import Manifest, read_manifest
from mstore.persistence.tally import Tally

_SERIES_RECORD_BYTES = 40
_LENGTH = slice(8, 12)


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that is wrong, and what it costs."""

    kind: str
    """snapshot, log or start."""
    path: str
    offset: int
    n_bytes: int
    """0: not known, or to the end of the file."""
    reason: str
    lost: str
    """A sentence; "nothing" and why when that is so."""
    lost_blocks: tuple[int, int] | None = None
    """First and last sequence that no start brings back."""
    lost_chunks: int = 0
    """At most; -1: nobody knows."""
    generation: int = 0
    """Of a snapshot's file: its log sequence."""

    @property
    def harmless(self) -> bool:
        return self.lost_blocks is None and self.lost_chunks == 0 and self.kind != "start"

    def __str__(self) -> str:
        reach = f", {self.n_bytes} bytes" if self.n_bytes else ""
        return f"{self.path} at {self.offset}{reach}: {self.reason}; lost: {self.lost}"


@dataclass(slots=True)
class Survey:
    """All that was found."""

    directory: Path
    faults: list[Fault] = field(default_factory=list)
    sound: list[str] = field(default_factory=list)
    """What was verified, a line each."""
    notes: list[str] = field(default_factory=list)
    """Not faults: a torn end, left-over files, what is in quarantine."""
    leftovers: list[Path] = field(default_factory=list)
    """Half-written files."""
    report: Report | None = None
    """What a start would find; None when it would fail."""
    log: LogReport = field(default_factory=LogReport)
    """Of all segments, those that only an older snapshot needs included."""
    orphans: Tally = field(default_factory=Tally)
    """Samples in sound blocks whose series was defined in a lost one."""
    refused_at: dict[int, int] = field(default_factory=dict)
    """Sequence of a sound block that is refused for what was lost before it -> bytes of it that are applied."""

    @property
    def lost_blocks(self) -> list[tuple[int, int]]:
        return sorted({fault.lost_blocks for fault in self.faults if fault.lost_blocks})

    @property
    def lost_chunks(self) -> int | None:
        """Of snapshots, at most: what the log holds of them is not taken off. None: nobody knows."""
        counts = [fault.lost_chunks for fault in self.faults]
        return None if any(count < 0 for count in counts) else sum(counts)

    def to_plain(self) -> dict[str, Any]:
        """For --json."""
        return {
            "dir": str(self.directory),
            "faults": [{**asdict(fault), "harmless": fault.harmless} for fault in self.faults],
            "sound": self.sound,
            "notes": self.notes,
            "lost": {
                "blocks": self.lost_blocks,
                "refused_blocks": sorted(self.refused_at),
                "chunks_at_most": self.lost_chunks,
                "orphaned_samples": self.orphans.n_samples,
                "orphaned_series": len(self.orphans.series),
            },
            "cut_from": self.report.log.torn.first_seq if self.report and self.report.log.torn else None,
            "replay_from": self.report.snapshot_seq + 1 if self.report else None,
            "last_block": self.report.next_seq - 1 if self.report else None,
        }


def survey(store_dir: Path) -> Survey:
    """Read everything in a stopped store's directory. Call with DIR/lock held, or on a copy.

    raises  StorageError when a file cannot be read, LayoutMismatch for files of a newer version
    """
    files = ReadOnly()
    found = Survey(store_dir)
    manifests = list(_generations(files, store_dir, found))
    rehearsal = Rehearsal(_series_bound(files, store_dir, manifests))
    try:
        found.report = recover(files, store_dir, rehearsal)
    except CorruptRecord as failure:
        path, offset = failure.details.get("path", str(store_dir)), failure.details.get("offset", 0)
        found.faults.append(
            Fault("start", path, offset, 0, failure.message, "everything: no store starts here")
        )
        return found
    found.orphans = rehearsal.orphans
    _refused_blocks(found, rehearsal)
    _refused_files(found)
    _log(files, found, rehearsal)
    _orphans(found, rehearsal)
    _around(files, found)
    return found


def _series_bound(files: Files, store_dir: Path, manifests: list[Manifest]) -> int:
    """No store in these files has more series."""
    log_bytes = 0
    for name in files.list(wal_dir(store_dir)):
        if name.endswith(WAL_SUFFIX):
            log_bytes += (wal_dir(store_dir) / name).stat().st_size
    definitions = max((one.definitions().n_bytes for one in manifests), default=0)
    return (log_bytes + definitions) // _SERIES_RECORD_BYTES


# --- snapshots


def _generations(files: Files, store_dir: Path, found: Survey) -> Iterator[Manifest]:
    """Verify every byte of every generation; the manifests that can be read."""
    for log_seq, path in list_snapshots(files, snapshot_dir(store_dir)):
        try:
            manifest = read_manifest(files, path, log_seq)
        except CorruptRecord as failure:
            found.faults.append(_snapshot_fault(failure, log_seq))
            continue
        yield manifest
        n_faults = len(found.faults)
        for part in manifest.parts:
            try:
                for _ in read_blocks(files, manifest.path_of(part), manifest.expect(part)):
                    pass
            except CorruptRecord as failure:
                found.faults.append(_snapshot_fault(failure, log_seq))
        if len(found.faults) == n_faults:
            n_series = sum(part.totals.n_series for part in manifest.parts)
            n_chunks = sum(part.totals.n_chunks for part in manifest.parts)
            n_bytes = manifest.n_bytes + sum(part.n_bytes for part in manifest.parts)
            found.sound.append(
                f"snapshot of block {log_seq:,}: {n_series:,} series, {n_chunks:,} chunks, {n_bytes:,} bytes"
            )


def _snapshot_fault(failure: CorruptRecord, log_seq: int) -> Fault:
    path, offset = failure.details["path"], failure.details["offset"]
    lost = "nothing: a start uses other files"
    return Fault("snapshot", path, offset, 0, failure.details["reason"], lost, generation=log_seq)


def _refused_files(found: Survey) -> None:
    """What the rehearsal could not use: says what that costs, beside the log's own faults."""
    assert found.report is not None
    for refused in found.report.snapshots_refused:
        for place, fault in enumerate(found.faults):
            if fault.path == refused.path and fault.kind == "snapshot":
                costs = refused.costs() or "all that no other file holds"
                found.faults[place] = Fault(
                    "snapshot", fault.path, fault.offset, 0, fault.reason,
                    f"{costs}; {refused.instead}",
                    lost_chunks=refused.n_lost, generation=fault.generation,
                )  # fmt: skip


# --- log


def _refused_blocks(found: Survey, rehearsal: Rehearsal) -> None:
    """Sound blocks that a start refuses because of what was lost before: replay.py counts each as damage."""
    assert found.report is not None
    refused = [damage for damage in found.report.log.damage if not damage.places and damage.path == "the log"]
    sequences = [damage.first_seq for damage in refused if damage.first_seq == damage.last_seq]
    found.refused_at = dict(zip(sequences, rehearsal.refused_at, strict=False))


def _log(files: Files, found: Survey, rehearsal: Rehearsal) -> None:
    assert found.report is not None
    after = found.report.snapshot_seq
    for damage in found.report.log.damage:
        found.faults.append(_log_fault(files, damage, rehearsal))
    firsts = [
        n for name in files.list(wal_dir(found.directory)) if (n := number_of(name, WAL_SUFFIX)) is not None
    ]
    whole = LogReader(
        files, found.directory, min(firsts, default=after + 1) - 1, durable_floor=found.report.log.durable
    )
    found.log = whole.replay(lambda _payload: None)
    for damage in found.log.damage:
        if damage.first_seq <= after:
            lost = f"nothing: a snapshot holds blocks {damage.first_seq} to {min(damage.last_seq, after)}"
            found.faults.append(Fault("log", damage.path, damage.offset, damage.n_bytes, damage.reason, lost))
    for damage in found.log.hurt:
        lost = "nothing that another block names: the sound blocks in it are told by themselves"
        found.faults.append(Fault("log", damage.path, damage.offset, damage.n_bytes, damage.reason, lost))
    torn = found.report.log.torn
    if torn is not None and torn.n_bytes:
        found.notes.append(
            f"a torn end, which the next start cuts: it was never acknowledged as durable: {torn.path} at"
            f" {torn.offset}, {torn.n_bytes} bytes, from block {torn.first_seq} on"
        )
    log = found.log
    found.sound.append(f"log up to block {log.last_seq:,}: {log.n_blocks:,} blocks, {log.n_bytes:,} bytes")


def _log_fault(files: Files, damage: Damage, rehearsal: Rehearsal) -> Fault:
    tally = Tally()
    for path, offset, n_bytes in damage.places:
        _look_at_rest(memoryview(files.read(Path(path)))[offset : offset + n_bytes], tally)
    text = damage.reach()
    told = []
    if tally.n_samples:
        clusters = ", ".join(rehearsal.clusters(tally.series))
        told.append(f"{tally.n_samples:,} samples of {len(tally.series):,} series")
        told[-1] += f" of {clusters}" if clusters else ""
        if tally.t_first <= tally.t_last:
            told[-1] += f" between {tally.t_first} and {tally.t_last} s"
    if tally.n_definitions:
        told.append(f"{tally.n_definitions:,} definitions")
    if told:
        text += f", as the damaged bytes still read: {' and '.join(told)}"
    lost = damage.first_seq, damage.last_seq
    return Fault("log", damage.path, damage.offset, damage.n_bytes, damage.reason, text, lost)


def _look_at_rest(text: memoryview, tally: Tally) -> None:
    """Count what damaged blocks look like, as long as their lengths lead from one to the next."""
    at = 0
    while at + BLOCK_HEADER_BYTES < len(text):
        head = text[at : at + BLOCK_HEADER_BYTES]
        length = int.from_bytes(head[_LENGTH], "little")
        if not length or length % 8 or at + BLOCK_HEADER_BYTES + length > len(text):
            return
        tally.add(text[at + BLOCK_HEADER_BYTES : at + BLOCK_HEADER_BYTES + length])
        at += BLOCK_HEADER_BYTES + length


def _orphans(found: Survey, rehearsal: Rehearsal) -> None:
    tally = rehearsal.orphans
    if tally.n_samples:
        found.notes.append(
            f"{tally.n_samples:,} samples in sound blocks of the log, of {len(tally.series):,} series, between"
            f" {tally.t_first} and {tally.t_last} s, cannot be used: their definitions are lost"
        )


# --- the rest


def _around(files: Files, found: Survey) -> None:
    """Half-written files, snapshot files that no manifest names, and the quarantine."""
    folders = (found.directory, wal_dir(found.directory), snapshot_dir(found.directory))
    for folder in (*folders, quarantine_dir(found.directory)):
        found.leftovers += [folder / name for name in files.list(folder) if name.endswith(TMP_SUFFIX)]
    if found.leftovers:
        names = ", ".join(path.name for path in found.leftovers)
        found.notes.append(f"half-written files, which the next start removes: {names}")
    named: set[str] = set()
    for log_seq, path in list_snapshots(files, snapshot_dir(found.directory)):
        try:
            manifest = read_manifest(files, path, log_seq)
        except MstoreError:
            continue
        named |= {manifest.path_of(part).name for part in manifest.parts}
    loose = [
        name
        for name in files.list(snapshot_dir(found.directory))
        if generation_of(name) and name not in named
    ]
    if loose:
        found.notes.append(
            f"{len(loose)} files of snapshots that no sound manifest names: {', '.join(loose[:8])}"
        )
    kept = files.list(quarantine_dir(found.directory))
    if kept:
        found.notes.append(
            f"{quarantine_dir(found.directory)} holds {len(kept)} copies of damage found earlier; safe to delete"
        )
