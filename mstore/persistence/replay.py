"""Reading the log back: which blocks are live, where it was torn, where it is damaged.

    0001.wal  [1][2][3][4]                     name 1, then a new segment from 5 on
    0005.wal  [5][6][x][8]                     7 is invalid: is it torn or damaged?
    0009.wal  [9][10]

Let D be the highest durable sequence that any valid block names. An invalid block above D is the torn end:
nothing in the log says that it was ever durable; it and everything after it is cut. An invalid block at or
below D was durable once: that is damage. Its bytes are copied to DIR/quarantine, its reach is reported, and
reading goes on at the next live block.

A later segment's name ends the one before it: blocks of 0001.wal with sequences of 5 and more are what a
failed sync or an earlier cut left, and are dead. So a cut removes the segments that begin after it, and the
new log begins with a segment named by the cut.

A segment has its whole length, durably, before it gets its name. So a shorter file is no torn end either: somebody cut
it, and what stood behind the cut was perhaps durable, whatever D says. How much that was, only the name of a later
segment can tell.

Blocks above D that were read may be in the page cache only, and a sync that failed in the life before leaves
them there marked clean: syncing the old file again would succeed and mean nothing. So finish_replay() writes
them once more, to a new file, before anything is promised.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from mstore.clock import now_ns
from mstore.errors import CorruptRecord, StorageError
from mstore.persistence.blocks import (
    CATALOG,
    SEGMENT_HEADER_BYTES,
    Block,
    encode_header,
    encode_segment_header,
    find_segment_id,
    parse,
    parse_segment_header,
    resembles,
    search,
    skip,
    used_bytes,
)
from mstore.persistence.files import (
    WAL_SUFFIX,
    Files,
    is_no_space,
    number_of,
    quarantine_dir,
    wal_dir,
    wal_name,
)

Apply = Callable[[memoryview], object]


@dataclass(frozen=True, slots=True)
class Damage:
    """Bytes that should hold something and do not."""

    path: str
    offset: int
    n_bytes: int
    first_seq: int
    """Sequences lost: first_seq .. last_seq; empty (last_seq < first_seq) when only a spare copy was hurt."""
    last_seq: int
    reason: str
    places: tuple[tuple[str, int, int], ...] = ()
    """(path, offset, length) of all its bytes: what is lost may have stood in more than one segment."""
    and_more: bool = False
    """The newest segment was cut: nobody knows whether first_seq was ever written, nor what followed it."""

    def __str__(self) -> str:
        return f"{self.path} at {self.offset}, {self.n_bytes} bytes: {self.reason}; {self.reach()} lost"

    def reach(self) -> str:
        """What is lost."""
        if self.and_more:
            return f"block {self.first_seq} and what may have followed it"
        if self.last_seq <= self.first_seq:
            return f"block {self.first_seq}" if self.last_seq == self.first_seq else "no block"
        return f"blocks {self.first_seq} to {self.last_seq}"


@dataclass(slots=True)
class LogReport:
    """What reading the log found."""

    n_blocks: int = 0
    """Live blocks handed on, those without payload included."""
    n_bytes: int = 0
    """Of their payloads."""
    last_seq: int = 0
    """The last live sequence, or what was asked to be skipped when there is none."""
    torn: Damage | None = None
    """The torn end; its sequences were never acknowledged as durable."""
    n_blocks_cut: int = 0
    """Valid blocks behind the torn one: written, never acknowledged, dropped with it."""
    damage: list[Damage] = field(default_factory=list)
    """Blocks that were durable once and are not readable: acknowledged data is lost."""
    hurt: list[Damage] = field(default_factory=list)
    """Damage without loss: header pages, short files."""
    positions: dict[int, int] = field(default_factory=dict)
    """Ring index -> position after its last live block."""
    durable: int = 0
    """D: the highest sequence known to be durable in the files as they are."""
    tail: list[Block] = field(default_factory=list)
    """Live blocks above D; finish_replay() writes them again."""


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    first_seq: int
    stop_seq: int
    """First sequence of the next segment; blocks from there on are dead here."""


@dataclass(frozen=True, slots=True)
class _Gap:
    """A place where a block was looked for and none is valid; most are the unused end of a segment."""

    file: _File
    offset: int
    stop: int
    """Offset of the next valid block, or the end of what is not zero."""
    reason: str
    torn: bool
    """Somebody began to write the block that belongs here."""
    text: memoryview
    cut: str = ""
    """Why this is the end of a file that was longer once; "" elsewhere."""


_NEVER = 1 << 64


class LogReader:
    """One pass over the live blocks with sequences above `after_seq`.

    durable_floor  a sequence known durable from elsewhere (a snapshot is published only behind it)
    strict         raise CorruptRecord at the first damage, before anything behind it is handed on
    lossy          something that blocks may build on is missing already: a refusal is no reason to stop
    """

    def __init__(
        self, files: Files, directory: Path, after_seq: int,
        *, durable_floor: int = 0, strict: bool = False, lossy: bool = False,
    ) -> None:  # fmt: skip
        self._after = after_seq
        self._floor = durable_floor
        self._files = files
        self._directory = directory
        self._strict = strict
        self._lossy = lossy
        self.report = LogReport(last_seq=after_seq, durable=after_seq)
        folder = wal_dir(directory)
        named = [
            (number, folder / name)
            for name in files.list(folder)
            if (number := number_of(name, WAL_SUFFIX)) is not None
        ]
        self._log = []
        for place, (number, path) in enumerate(named, start=1):
            stop = named[place][0] if place < len(named) else _NEVER
            if stop > after_seq + 1:
                self._log.append(_File(path, number, stop))

    def replay(self, apply: Apply, applied_seq: int = 0) -> LogReport:
        """Hand the payload of every live block above `applied_seq` to `apply`, in order of sequence.

        What apply raises passes through: a block whose checksum is right but whose records are refused comes
        from a newer version or a bug, and must not be skipped. Behind damage it is different: the definitions
        that a block builds on may be what was lost. It counts as damaged then, too, and reading goes on.
        """
        report = self.report
        for block in self.blocks():
            if block.ring != CATALOG:
                report.positions[block.ring] = block.stop
            self._keep(block)
            if len(block.payload) and block.seq > applied_seq:
                self._apply(apply, block)
        self._keep(None)
        return report

    def blocks(self) -> Iterator[Block]:
        """The live blocks in order of sequence, counted; for who stops early (a copy up to one sequence) or looks on."""
        report = self.report
        for block in self._live():
            report.n_blocks += 1
            report.n_bytes += len(block.payload)
            report.last_seq = block.seq
            yield block

    def _apply(self, apply: Apply, block: Block) -> None:
        try:
            apply(block.payload)
        except CorruptRecord as refusal:
            if self._strict or not (self._lossy or self.report.damage):
                raise
            reason = f"refused because of what was lost before: {refusal.message}"
            lost = Damage("the log", 0, len(block.payload), block.seq, block.seq, reason)
            self.report.damage.append(lost)
            quarantine(self._files, self._directory, Path(wal_name(block.seq)), 0, block.payload)

    def _keep(self, block: Block | None) -> None:
        """Remember the blocks that no other block, so far, names as durable."""
        report = self.report
        known = max(self._floor, block.durable if block else 0)
        if known > report.durable:
            report.durable = known
            report.tail = [kept for kept in report.tail if kept.seq > known]
        if block and block.seq > report.durable:
            report.tail.append(block)

    def _live(self) -> Iterator[Block]:
        expected = self.report.last_seq + 1
        gaps: list[_Gap] = []
        durable: int | None = None  # the highest anywhere; looked up at the first hole
        named = (
            self._floor
        )  # the highest so far, by dead blocks as well: a segment may stand under a wrong name
        for file, item in self._scan():
            if isinstance(item, _Gap):
                gaps.append(item)
                continue
            named = max(named, item.durable)
            if item.seq == expected:
                yield item
                expected += 1
                gaps.clear()
            elif item.seq > expected and item.seq < file.stop_seq:
                if durable is None:
                    durable = self._highest_durable()
                if durable < expected and not _cut_by_somebody(gaps, expected):
                    self._cut(expected, gaps, file)
                    return
                self._damaged(expected, item.seq - 1, gaps, file)
                self._floor = max(self._floor, item.seq - 1)
                yield item
                expected = item.seq + 1
                gaps.clear()
        if expected <= named:
            self._damaged(expected, named, gaps, None)
            self.report.last_seq = self._floor = named
        elif gap := _cut_by_somebody(gaps, expected):
            if gap.file.stop_seq == _NEVER:
                self._damaged(expected, expected, gaps, None, and_more=True)
            else:
                self._damaged(expected, gap.file.stop_seq - 1, gaps, None)
                self.report.last_seq = self._floor = gap.file.stop_seq - 1
        elif any(gap.torn and expected < gap.file.stop_seq for gap in gaps):  # else it is cut already
            self._cut(expected, gaps, gaps[-1].file)

    def _scan(self, *, quiet: bool = False) -> Iterator[tuple[_File, Block | _Gap]]:
        """All valid blocks of all segments, dead ones too, in order of place; a gap where one is missing."""
        for file in self._log:
            text = memoryview(self._files.read(file.path))
            segment_id, cut = self._identify(file, text, quiet)
            offset, seq = skip(text, SEGMENT_HEADER_BYTES, segment_id, file.first_seq, self._after)
            while not isinstance(found := parse(text, offset, segment_id), str) and found.seq == seq:
                yield file, found
                offset, seq = found.end, seq + 1
            reason = found if isinstance(found, str) else f"block {found.seq} stands where {seq} belongs"
            torn = resembles(text, offset, segment_id, seq)
            for block in search(text, offset, segment_id):
                yield file, _Gap(file, offset, block.offset, reason, torn, text)
                yield file, block
                offset, reason, torn = block.end, "no valid block", True
            offset = min(offset, len(text))  # of a file without a whole header page
            stop = used_bytes(
                text, offset
            )  # nothing behind the last block of a file with damage before it is no torn end
            yield file, _Gap(file, offset, stop, reason, torn and stop > offset, text, cut)

    def _identify(self, file: _File, text: memoryview, quiet: bool) -> tuple[int, str]:
        """(the segment's id, from its header page or, when that is hurt, from any of its blocks, 0 = none; whether the
        file was longer once: its fault, else "")"""
        header = parse_segment_header(text)
        if isinstance(header, str):
            cut = len(text) < SEGMENT_HEADER_BYTES
            problem = f"the file was cut to {len(text)} bytes" if cut else header
            segment_id = find_segment_id(text, file.first_seq, file.stop_seq)
        else:
            segment_id = header.segment_id
            if len(text) == header.segment_bytes:
                return segment_id, ""
            cut = len(text) < header.segment_bytes
            how = "was cut to" if cut else "has grown to"
            problem = f"the file {how} {len(text)} bytes, it had {header.segment_bytes}"
        if not quiet:
            n_bytes = min(len(text), SEGMENT_HEADER_BYTES)
            seq = file.first_seq
            self.report.hurt.append(Damage(str(file.path), 0, n_bytes, seq, seq - 1, problem))
        return segment_id, problem if cut else ""

    def _highest_durable(self) -> int:
        named = (item.durable for _, item in self._scan(quiet=True) if isinstance(item, Block))
        return max(self._floor, max(named, default=0))

    def _cut(self, seq: int, gaps: list[_Gap], file: _File) -> None:
        """Blocks from `seq` on were never acknowledged as durable: leave them out and say so."""
        beyond = [item for _, item in self._scan(quiet=True) if isinstance(item, Block) and item.seq > seq]
        self.report.n_blocks_cut = len({block.seq for block in beyond})
        last = max((block.seq for block in beyond), default=seq)
        self.report.torn = _damage(seq, last, gaps, file)

    def _damaged(
        self, first_seq: int, last_seq: int, gaps: list[_Gap], file: _File | None, *, and_more: bool = False
    ) -> None:
        damage = replace(_damage(first_seq, last_seq, gaps, file), and_more=and_more)
        cut = {str(gap.file.path) for gap in gaps if gap.cut}
        self.report.hurt = [one for one in self.report.hurt if one.path not in cut]  # it is this damage
        if self._strict:
            raise CorruptRecord(f"the log is damaged: {damage}", path=damage.path, offset=damage.offset)
        self.report.damage.append(damage)
        for gap in gaps:
            if gap.stop > gap.offset:
                content = gap.text[gap.offset : gap.stop]
                quarantine(self._files, self._directory, gap.file.path, gap.offset, content)


def _cut_by_somebody(gaps: list[_Gap], seq: int) -> _Gap | None:
    """The end of a file that was cut, if block `seq` can have stood behind it."""
    return next((gap for gap in gaps if gap.cut and seq < gap.file.stop_seq), None)


def _damage(first_seq: int, last_seq: int, gaps: list[_Gap], file: _File | None) -> Damage:
    if not gaps:
        path = str(file.path) if file else "the log"
        lost = Damage(path, 0, 0, first_seq, last_seq, "")
        return replace(lost, reason=f"the segment that held {lost.reach()} is missing")
    gap = max(gaps, key=lambda gap: (bool(gap.cut), gap.torn, gap.stop - gap.offset))
    n_bytes = sum(gap.stop - gap.offset for gap in gaps)
    places = tuple(
        (str(gap.file.path), gap.offset, gap.stop - gap.offset) for gap in gaps if gap.stop > gap.offset
    )
    return Damage(str(gap.file.path), gap.offset, n_bytes, first_seq, last_seq, gap.cut or gap.reason, places)


def quarantine(files: Files, directory: Path, path: Path, offset: int, content: memoryview) -> Path:
    """Keep damaged bytes as DIR/quarantine/NAME-OFFSET; the original goes when the log is retired."""
    folder = quarantine_dir(directory)
    copy = folder / f"{path.name}-{offset}"
    try:
        files.mkdir(folder)
        files.replace(copy, bytes(content))
    except StorageError as failure:
        if not is_no_space(failure):  # the original is still there, and a full disk is no reason not to start
            raise
    return copy


def finish_replay(files: Files, directory: Path, report: LogReport) -> int:
    """Make all that was read durable and end the old log there; returns the next sequence.

    The tail is written again as one segment of its own. Only when its name is durable the segments go that
    begin behind D, which it replaces, and those behind a cut: they would end it, or the new log's first one.
    raises  StorageError; nothing may be promised then, and the next start finds what this one found
    """
    folder = wal_dir(directory)
    files.mkdir(folder)
    kept = None
    if report.tail:
        kept = wal_name(report.tail[0].seq)
        files.replace(folder / kept, _encode_tail(report))
    for name in files.list(folder):
        number = number_of(name, WAL_SUFFIX)
        if number is not None and number > report.durable and name != kept:
            files.unlink(folder / name)
    files.sync_path(folder)
    return report.last_seq + 1


def _encode_tail(report: LogReport) -> bytes:
    segment_id = secrets.randbits(63) | 1
    parts: list[bytes | memoryview] = []
    for block in report.tail:
        durable = min(report.durable, block.seq - 1)
        header = encode_header(
            segment_id, block.seq, block.ring, block.start, block.stop, durable, block.payload
        )
        parts += [header, block.payload]
    n_bytes = SEGMENT_HEADER_BYTES + sum(map(len, parts))
    return b"".join([encode_segment_header(segment_id, n_bytes, now_ns()), *parts])
