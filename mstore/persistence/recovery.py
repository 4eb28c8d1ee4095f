"""Back from disk: the newest sound snapshot, then the log behind it.

    1. remove half-written files
    2. load the newest snapshot whose every byte checks; a damaged one is reported, the one before is tried
    3. replay the log's live blocks from the next sequence on (replay.py tells torn from damaged)
    4. make what was read durable, remove segments behind a cut

The log is retired only up to the older of the two kept snapshots, so one damaged snapshot costs time, not
data. A snapshot gets its name only when the log is durable up to it: a name alone proves that sequences up to
it were durable, even when the file is damaged.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from mstore.clock import monotonic_s
from mstore.errors import CorruptRecord
from mstore.persistence.files import Files, remove_leftovers, snapshot_dir
from mstore.persistence.replay import Apply, Damage, LogReader, LogReport, finish_replay
from mstore.persistence.snapshot import (
    ApplyDefinition,
    LoadChunk,
    Loaded,
    SnapshotInfo,
    list_snapshots,
    load_snapshot,
)


@dataclass(slots=True)
class Report:
    """What a start found. `next_seq` is the first sequence of the new log."""

    snapshot: SnapshotInfo | None = None
    loaded: Loaded = field(default_factory=Loaded)
    snapshots_refused: list[Damage] = field(default_factory=list)
    log: LogReport = field(default_factory=LogReport)
    removed: list[str] = field(default_factory=list)
    """Half-written files of the run before."""
    next_seq: int = 1
    seconds: float = 0.0

    @property
    def snapshot_seq(self) -> int:
        """Log sequence of the snapshot that was loaded; 0 = none."""
        return self.snapshot.log_seq if self.snapshot else 0

    @property
    def positions(self) -> dict[int, int]:
        """Ring index -> position after its last block in the log; rings with blocks behind the snapshot."""
        return self.log.positions

    @property
    def damaged(self) -> bool:
        """Acknowledged data is lost, or only one copy of it was left: the store starts degraded."""
        return bool(self.log.damage or self.snapshots_refused)

    def summary(self) -> str:
        """One line for people."""
        parts = []
        if self.snapshot:
            parts.append(f"snapshot of block {self.snapshot_seq} with {self.loaded.n_chunks} chunks")
        parts.append(f"{self.log.n_blocks} log blocks, {self.log.n_bytes} bytes")
        if self.loaded.n_no_room:
            parts.append(f"{self.loaded.n_no_room} chunks did not fit the memory")
        if self.log.torn:
            parts.append(f"torn end cut: {self.log.torn}; {self.log.n_blocks_cut} blocks behind it")
        parts += [f"damaged: {found}" for found in (*self.snapshots_refused, *self.log.damage)]
        parts += [f"hurt: {found}" for found in self.log.hurt]
        return "; ".join(parts)


def recover(
    files: Files,
    directory: Path,
    *,
    apply: Apply,
    apply_definition: ApplyDefinition,
    load_chunk: LoadChunk,
    strict: bool = False,
) -> Report:
    """Cold start: fill an empty store from DIR. Call with DIR/lock held.

    apply             the payload of one log block, in order of sequence; what it raises passes through
    apply_definition, load_chunk   see snapshot.load_snapshot
    strict            raise CorruptRecord at any damage instead of going on without the damaged part
    """
    began = monotonic_s()
    report = Report(removed=remove_leftovers(files, directory))
    durable_floor = 0
    for log_seq, path in list_snapshots(files, snapshot_dir(directory)):
        durable_floor = max(durable_floor, log_seq)
        try:
            report.snapshot, report.loaded = load_snapshot(files, path, log_seq, apply_definition, load_chunk)
            break
        except CorruptRecord as failure:
            if strict or "path" not in failure.details:
                raise
            offset, reason = failure.details["offset"], failure.details["reason"]
            report.snapshots_refused.append(Damage(str(path), offset, 0, 1, 0, reason))
    reader = LogReader(files, directory, report.snapshot_seq, durable_floor=durable_floor, strict=strict)
    report.log = reader.replay(apply)
    report.next_seq = finish_replay(files, directory, report.log)
    report.seconds = monotonic_s() - began
    return report


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
    report.next_seq = finish_replay(files, directory, report.log)
    report.seconds = monotonic_s() - began
    return report
