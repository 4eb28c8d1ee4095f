"""`mstore check --repair`: what is done about faults, planned first, then done as planned.

    1. copies of all that will go: DIR/quarantine/repair-TIME/{wal,snapshots}/NAME, hard links where that is possible
    2. one of
         aside    what is damaged is not needed (an older snapshot and the log hold it, or a newer one does): it goes
         anew     something is lost: a start's result is made in private memory and written as one new snapshot, and
                  everything older goes. A start then finds exactly what it would have found, and no damage
         rewrite  a segment whose blocks are all sound (torn end, header page, length): the same blocks, a new file
    3. half-written files, and segments in /dev/shm that no start can adopt, are removed

Nothing goes before its copy is durable, nothing old before what replaces it is. A death between two steps leaves
files that a start reads with the same result, and a second repair ends the work.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, groupby
from pathlib import Path

from mstore import clock
from mstore.errors import MstoreError, StorageError
from mstore.limits import MIB
from mstore.persistence.blocks import SEGMENT_HEADER_BYTES, Block, encode_header, encode_segment_header
from mstore.persistence.files import (
    TMP_SUFFIX,
    WAL_SUFFIX,
    Files,
    ReadOnly,
    generation_of,
    number_of,
    quarantine_dir,
    snapshot_dir,
    snapshot_name,
    wal_dir,
)
from mstore.persistence.replay import LogReader
from mstore.persistence.snapshot import list_snapshots, write_snapshot
from mstore.persistence.snapshot_rebuilt import misplaced
from mstore.persistence.survey import Survey
from mstore.plurals import count
from mstore.shm import segment
from mstore.shm.directory import DirectoryReader
from mstore.workers.read_back import read_back

_SLICE_BYTES = 4 * MIB
_TOLD_SINGLY_MAX = 3


class CannotRepair(MstoreError):
    """Nothing was changed; the message says why."""

    code = "cannot_repair"


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to do. `verb` and `path` say it to programs, `text` to people."""

    verb: str
    """copy, remove, snapshot or rewrite."""
    path: str
    """Of what comes into being or goes; below DIR, or a name in /dev/shm."""
    text: str
    several: str
    """The same of many files, "{}" being their number."""
    do: Callable[[], None]


@dataclass(slots=True)
class Plan:
    """All steps, in their order."""

    steps: list[Step] = field(default_factory=list)

    def add(self, verb: str, path: Path | str, text: str, do: Callable[[], None], several: str = "") -> None:
        self.steps.append(Step(verb, str(path), text, several or text, do))

    def lines(self) -> list[str]:
        """For people: what is done alike to many files is one line."""
        told = []
        for several, group in groupby(self.steps, key=lambda step: step.several):
            steps = list(group)
            alike = len(steps) > _TOLD_SINGLY_MAX
            told += [several.format(count(len(steps), "file"))] if alike else [step.text for step in steps]
        return told


def carry_out(plan: Plan) -> None:
    """Do every step; each is durable when the next begins. raises StorageError, StoreFull"""
    for step in plan.steps:
        step.do()


def make_plan(found: Survey, kept: list[str], adoptable: bool) -> Plan:
    """What a repair would do about what was found; nothing is done yet.

    kept, adoptable  segments of a dead run in /dev/shm, and whether the next start may adopt them
    raises           CannotRepair
    """
    planner = _Planner(found)
    if found.faults or found.report is None:
        if found.report is None:
            raise CannotRepair(
                f"no start gets through these files and none of them is safe to leave out: {found.faults[-1]}"
            )
        if adoptable:
            raise CannotRepair(
                "the memory of the last run is still there, and the next start can use it without loss:"
                " start the store, run `mstore snapshot`, and check again"
            )
        planner.faults()
    elif found.report.log.torn is not None and found.report.log.torn.n_bytes and not adoptable:
        planner.segments()
    for path in found.leftovers:
        planner.remove(path, "half-written")
    if kept and not adoptable:
        for name in kept:
            why = "memory of a dead run that no start can use"
            planner.plan.add(
                "remove", f"/dev/shm/{name}", f"remove /dev/shm/{name}: {why}", partial(segment.unlink, name),
                f"remove {{}} of /dev/shm: {why}",
            )  # fmt: skip
    return planner.plan


class _Planner:
    """Puts the steps together."""

    def __init__(self, found: Survey) -> None:
        self._found = found
        self._dir = found.directory
        self._files = Files()
        stamp = f"repair-{clock.now_s()}-{secrets.token_hex(2)}"
        self._aside = quarantine_dir(self._dir) / stamp
        self.plan = Plan()

    # --- which way

    def faults(self) -> None:
        sound = self._sound_generation()
        if sound is not None and all(fault.harmless for fault in self._found.faults):
            with contextlib.suppress(_NeedsAnew):
                self._go_back_to(sound)
                self.segments()
                return
        self._anew()

    def _sound_generation(self) -> int | None:
        """The newest generation without a fault from which the log leads on without one; 0 = the log alone does."""
        damaged = {fault.generation for fault in self._found.faults if fault.kind == "snapshot"}
        log_starts = min(self._segments(), default=0)
        holes = [damage.last_seq for damage in self._found.log.damage]
        for seq, _ in list_snapshots(self._files, snapshot_dir(self._dir)):
            if seq not in damaged:
                reaches = not log_starts or log_starts <= seq + 1
                return seq if reaches and max(holes, default=0) <= seq else None
        return 0 if log_starts == 1 and not holes else None

    def _segments(self) -> dict[int, str]:
        names = self._files.list(wal_dir(self._dir))
        return {number: name for name in names if (number := number_of(name, WAL_SUFFIX)) is not None}

    # --- aside

    def _go_back_to(self, sound: int) -> None:
        """Damaged generations and the damaged part of the log before `sound` go."""
        going = sorted({fault.generation for fault in self._found.faults if fault.kind == "snapshot"})
        paths = [path for seq in going for path in self._files_of(seq)]
        holes = [damage.last_seq for damage in self._found.log.damage]
        if holes:
            paths += self._segments_before(max(holes), sound)
        # A file that is kept may lie under the name of one that goes.
        if not set(misplaced(self._files, snapshot_dir(self._dir)).values()).isdisjoint(paths):
            raise _NeedsAnew
        self._copy(paths)
        for path in paths:
            self.remove(path, "damaged, and not needed")

    def _files_of(self, seq: int) -> list[Path]:
        folder = snapshot_dir(self._dir)
        names = self._files.list(folder)
        parts = [name for name in names if (found := generation_of(name)) is not None and found[0] == seq]
        manifest = [name for name in names if name == snapshot_name(seq)]
        return [folder / name for name in (*manifest, *parts)]

    def _segments_before(self, last_hole: int, sound: int) -> list[Path]:
        """Segments up to the one with the last hole. It must hold nothing behind the snapshot."""
        firsts = sorted(self._segments().items())
        going = []
        for place, (number, name) in enumerate(firsts):
            if number > last_hole:
                break
            stop = firsts[place + 1][0] if place + 1 < len(firsts) else None
            if stop is None or stop > sound + 1:
                raise _NeedsAnew
            going.append(wal_dir(self._dir) / name)
        return going

    # --- anew

    def _anew(self) -> None:
        report = self._found.report
        assert report is not None
        self.plan.steps.clear()
        old_log = [wal_dir(self._dir) / name for name in self._segments().values()]
        folder = snapshot_dir(self._dir)
        names = self._files.list(folder)
        old_snapshots = [
            folder / name
            for name in names
            if number_of(name, ".snapshot") is not None or generation_of(name) is not None
        ]
        self._copy([*old_log, *old_snapshots])
        # One beyond the last: no generation has that name, and its sequence is never used again.
        seq = report.next_seq
        text = f"write a new snapshot of block {seq}: all that a start would find in the files as they are"
        self.plan.add("snapshot", folder / snapshot_name(seq), text, partial(self._write_anew, seq))
        for path in old_log:
            self.remove(path, "in the new snapshot, as far as it can be read")
        for path in sorted(old_snapshots, key=lambda path: generation_of(path.name) is not None):
            self.remove(path, "replaced by the new snapshot")

    def _write_anew(self, seq: int) -> None:
        """Recover into private memory, by the code and with the result of a start, and write that down."""
        found = read_back(self._dir, self._found.log.n_bytes)
        if found.report.next_seq != seq:
            raise StorageError(
                f"the files have changed: block {found.report.next_seq} would be next, planned was {seq}"
            )
        definitions = chain(
            DirectoryReader(found.directory).dump_definitions(), found.store.protection.records()
        )
        write_snapshot(
            self._files, self._dir, seq, definitions, found.directory, found.samples,
            written=lambda: seq, durable=lambda: seq, pause_s=0.0, verify=True,
        )  # fmt: skip

    # --- rewrite

    def segments(self) -> None:
        """Torn ends cut, header pages and lengths made right; every block that is live stays."""
        report = self._found.log
        hurt = {damage.path for damage in report.hurt}
        torn = report.torn
        if torn is not None:
            hurt |= {path for path, _, _ in torn.places} | {torn.path}
        last = report.last_seq
        behind = [wal_dir(self._dir) / name for number, name in self._segments().items() if number > last]
        gone = {step.path for step in self.plan.steps if step.verb == "remove"}
        rewritten = sorted(Path(path) for path in hurt if path not in gone and Path(path) not in behind)
        behind = [path for path in behind if str(path) not in gone]
        self._copy([*rewritten, *behind])
        for path in rewritten:
            text = f"rewrite {path}: its sound blocks, a new header page, nothing else"
            self.plan.add("rewrite", path, text, partial(self._rewrite, path))
        for path in behind:
            self.remove(path, "behind the torn end")

    def _rewrite(self, path: Path) -> None:
        number = number_of(path.name, WAL_SUFFIX)
        assert number is not None
        following = [first for first in self._segments() if first > number]
        reader = LogReader(ReadOnly(), self._dir, number - 1)
        blocks: list[Block] = []
        for block in reader.blocks():
            if following and block.seq >= min(following):
                break
            blocks.append(block)
        self._files.replace(path, _segment_of(blocks))

    # --- copies

    def _copy(self, paths: list[Path]) -> None:
        for path in paths:
            target = self._aside / path.parent.name / path.name
            text, several = f"keep {path} as {target}", f"keep {{}} in {self._aside}"
            self.plan.add("copy", target, text, partial(self._keep, path, target), several)

    def _keep(self, path: Path, target: Path) -> None:
        """A second name where the file system has hard links, else the same bytes; durable."""
        self._files.mkdir(target.parent)
        try:
            self._files.link(path, target)
        except StorageError:
            self._copy_bytes(path, target)
        self._files.sync_path(target.parent)

    def _copy_bytes(self, path: Path, target: Path) -> None:
        tmp = target.with_name(target.name + TMP_SUFFIX)
        source_fd = self._files.open(path)
        try:
            fd = self._files.create(tmp)
            try:
                offset = 0
                while piece := self._files.pread(source_fd, _SLICE_BYTES, offset):
                    self._files.pwritev(fd, [piece], offset)
                    offset += len(piece)
                self._files.fdatasync(fd)
            finally:
                self._files.close(fd)
        finally:
            self._files.close(source_fd)
        self._files.rename(tmp, target)

    def remove(self, path: Path, why: str) -> None:
        several = f"remove {{}} of {path.parent}: {why}"
        self.plan.add("remove", path, f"remove {path}: {why}", partial(self._remove, path), several)

    def _remove(self, path: Path) -> None:
        self._files.unlink(path)
        self._files.sync_path(path.parent)


class _NeedsAnew(Exception):
    """What is damaged and what is needed are in one file."""


def _segment_of(blocks: list[Block]) -> bytes:
    """A whole segment of these blocks, under a new id."""
    segment_id = secrets.randbits(63) | 1
    parts: list[bytes | memoryview] = []
    for block in blocks:
        parts += [
            encode_header(
                segment_id, block.seq, block.ring, block.start, block.stop, block.durable, block.payload
            ),
            block.payload,
        ]
    n_bytes = SEGMENT_HEADER_BYTES + sum(map(len, parts))
    return b"".join([encode_segment_header(segment_id, n_bytes, clock.now_ns()), *parts])
