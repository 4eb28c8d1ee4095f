"""What is wrong with the files of a store, and what a start would lose by it. Nothing is changed.

    rehearsal   recovery.recover() itself, over files that take no change, into a directory of its own: what a start
                would use, refuse, cut and lose
    reading     every file of every generation, every segment of the log: also what a start would never look at,
                because something newer is sound

Each fault says what it would cost: nothing, when a newer snapshot holds it or an older one and the log do.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mstore.errors import CorruptRecord
from mstore.persistence.files import (
    TMP_SUFFIX,
    WAL_SUFFIX,
    Files,
    ReadOnly,
    number_of,
    quarantine_dir,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.lost_blocks import still_read
from mstore.persistence.recovery import Report, recover
from mstore.persistence.rehearsal import Rehearsal
from mstore.persistence.replay import Damage, LogReader, LogReport
from mstore.persistence.snapshot import list_snapshots
from mstore.persistence.snapshot_files import read_blocks
from mstore.persistence.snapshot_manifest import Manifest, read_manifest
from mstore.persistence.snapshot_rebuilt import manifests_of_parts, misplaced, series_bound, without_manifest
from mstore.persistence.tally import Tally
from mstore.plurals import count
from mstore.times import utc_reach


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
        reach = f", {count(self.n_bytes, 'byte')}" if self.n_bytes else ""
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
    unnamed = _generations(files, found)
    rehearsal = Rehearsal(series_bound(files, store_dir))
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
    _unused(found, unnamed)
    _log(files, found, rehearsal)
    _orphans(found, rehearsal)
    _around(files, found)
    return found


# --- snapshots


def _generations(files: Files, found: Survey) -> list[Manifest]:
    """Verify every byte of every generation, also of those whose manifest is damaged or gone; the latter."""
    folder = snapshot_dir(found.directory)
    lying = misplaced(files, folder)
    known: list[Manifest] = []
    for log_seq, path in list_snapshots(files, folder):
        n_faults = len(found.faults)
        try:
            manifests = [read_manifest(files, path, log_seq)]
        except CorruptRecord as failure:
            found.faults.append(_snapshot_fault(failure, log_seq))
            manifests = manifests_of_parts(files, path, log_seq, lying)
        known += manifests
        for manifest in manifests:
            _parts(files, found, manifest)
        if len(found.faults) == n_faults:
            n_bytes = manifests[0].n_bytes + sum(part.n_bytes for part in manifests[0].parts)
            found.sound.append(f"{_held(manifests[0])}, {n_bytes:,} bytes")
    unnamed = without_manifest(files, folder, known, lying)
    for manifest in unnamed:
        _parts(files, found, manifest)
    return unnamed


def _unused(found: Survey, unnamed: list[Manifest]) -> None:
    """Note the generations without a manifest; where a start uses one, it has told that as a fault."""
    assert found.report is not None
    told = {refused.path for refused in found.report.snapshots_refused}
    found.notes += [
        f"{_held(manifest)}, without its manifest: it was removed, or a snapshot was ended half way; a start does not"
        " use these files, and they go when two newer snapshots are there"
        for manifest in unnamed
        if str(manifest.path) not in told
    ]


def _held(manifest: Manifest) -> str:
    n_series = sum(part.totals.n_series for part in manifest.parts)
    n_chunks = sum(part.totals.n_chunks for part in manifest.parts)
    return f"snapshot of block {manifest.log_seq:,}: {n_series:,} series, {count(n_chunks, 'chunk')}"


def _parts(files: Files, found: Survey, manifest: Manifest) -> None:
    for part in manifest.parts:
        try:
            for _ in read_blocks(files, manifest.name_of(part), manifest.expect(part)):
                pass
        except CorruptRecord as failure:
            found.faults.append(_snapshot_fault(failure, manifest.log_seq))


def _snapshot_fault(failure: CorruptRecord, log_seq: int) -> Fault:
    path, offset = failure.details["path"], failure.details["offset"]
    lost = "nothing: a start uses other files"
    return Fault("snapshot", path, offset, 0, failure.details["reason"], lost, generation=log_seq)


def _refused_files(found: Survey) -> None:
    """What the rehearsal could not use: says what that costs, beside the log's own faults."""
    assert found.report is not None
    places = {fault.path: at for at, fault in enumerate(found.faults) if fault.kind == "snapshot"}
    for refused in found.report.snapshots_refused:
        costs = refused.costs() or "all that no other file holds"
        fault = Fault(
            "snapshot", refused.path, refused.offset, 0, refused.reason, f"{costs}; {refused.instead}",
            lost_chunks=refused.n_lost, generation=refused.log_seq,
        )  # fmt: skip
        if refused.path in places:  # the reason and the place are those of the look at the file itself
            seen = found.faults[places[refused.path]]
            lost_chunks = (
                max(seen.lost_chunks, refused.n_lost) if min(seen.lost_chunks, refused.n_lost) >= 0 else -1
            )
            found.faults[places[refused.path]] = replace(
                fault, offset=seen.offset, reason=seen.reason, lost_chunks=lost_chunks
            )
        else:
            places[refused.path] = len(found.faults)
            found.faults.append(fault)


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
            held = replace(damage, last_seq=min(damage.last_seq, after), and_more=False)
            lost = f"nothing: a snapshot holds {held.reach()}"
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
    found.sound.append(
        f"log up to block {log.last_seq:,}: {count(log.n_blocks, 'block')}, {log.n_bytes:,} bytes"
    )


def _log_fault(files: Files, damage: Damage, rehearsal: Rehearsal) -> Fault:
    tally = still_read(files, damage)
    text = damage.reach()
    told = []
    if tally.n_samples:
        told.append(f"{count(tally.n_samples, 'sample')} of {rehearsal.described(tally.series)}")
        if tally.t_first <= tally.t_last:
            told[-1] += f" {utc_reach(tally.t_first, tally.t_last)}"
    if tally.n_definitions:
        told.append(count(tally.n_definitions, "definition"))
    if told:
        text += f", as the damaged bytes still read: {' and '.join(told)}"
    lost = damage.first_seq, damage.last_seq
    return Fault("log", damage.path, damage.offset, damage.n_bytes, damage.reason, text, lost)


def _orphans(found: Survey, rehearsal: Rehearsal) -> None:
    tally = rehearsal.orphans
    if tally.n_samples:
        found.notes.append(
            f"{count(tally.n_samples, 'sample')} in sound blocks of the log, of {len(tally.series):,} series,"
            f" {utc_reach(tally.t_first, tally.t_last)}, cannot be used: the definitions of these series are lost"
        )


# --- the rest


def _around(files: Files, found: Survey) -> None:
    """Half-written files, and the quarantine."""
    folders = (found.directory, wal_dir(found.directory), snapshot_dir(found.directory))
    for folder in (*folders, quarantine_dir(found.directory)):
        found.leftovers += [folder / name for name in files.list(folder) if name.endswith(TMP_SUFFIX)]
    if found.leftovers:
        names = ", ".join(path.name for path in found.leftovers)
        found.notes.append(f"half-written files, which the next start removes: {names}")
    kept = files.list(quarantine_dir(found.directory))
    if kept:
        found.notes.append(
            f"{quarantine_dir(found.directory)} holds {count(len(kept), 'copy')} of damage found earlier; safe to delete"
        )
