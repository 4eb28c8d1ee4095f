"""The write-ahead log: blocks in sequence, in segments, made durable by the commit thread.

    write()  ->  pwrite to the newest segment                note()  ->  commit thread: fdatasync, publish
                       |                                       ^
                       +-> pending: every block not durable    +-- before it, the caller applies the block

append() is both. A position is published only after note(), so a caller that applies in between never has a
sample acknowledged before it is visible.

Rules kept here:
  - Blocks are numbered 1, 2, 3 ... without holes; a segment is named by the first sequence in it.
  - Nothing is half done: when an append raises, the log is as before and the same append may be tried again.
    A file that could not be written (EIO, not a full disk) is left for another one first.
  - Segment k is noted before segment k+1, so durable means everything before is durable too.
  - After a failed sync no descriptor of that time is synced again: all pending blocks are written to new
    files, the old ones keep only what was durable. Until that worked, append raises Degraded.

Payloads of pending blocks are kept by reference. That costs no copy, because a ring's bytes are reused only
after their position is durable; other callers must not change a payload before durable() has passed it.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from mstore.clock import monotonic_s
from mstore.errors import Degraded, StorageError
from mstore.limits import WAL_BLOCK_BYTES_MAX, WAL_SEGMENT_BYTES
from mstore.persistence.blocks import (
    BLOCK_HEADER_BYTES,
    CATALOG,
    SEGMENT_HEADER_BYTES,
    Payload,
    encode_header,
)
from mstore.persistence.files import CommitterLike, Files, is_no_space
from mstore.persistence.spares import Spares
from mstore.persistence.wal_segments import SegmentFile, Segments

RETRY_FIRST_S = 0.05
RETRY_LAST_S = 5.0


class _Pending(NamedTuple):
    """A block that is not durable yet."""

    seq: int
    ring: int
    start: int
    stop: int
    payload: Payload
    published: bool
    """Whether its position counts: False when note() was never called for it."""


class Wal:
    """The log of one store. One thread calls everything here; the commit thread runs beside it.

    files, directory  DIR/wal; must exist. Segments of earlier runs in it are retired with ours
    first_seq         of the first block to append: what recovery reported as next_seq. Everything before it
                      is durable (recovery saw to that), and is published so at once
    committer         from files.committer(control, rings, eventfds, notify_fd, first_seq - 1, dir_fd); its
                      run() is started here. It stores the durable words of store and rings, writes
                      eventfds[i] when ring i's moved, and notify_fd when a sync fails: then poll()
    dir_fd            the directory, open, as the committer has it; this object closes it
    segment_bytes     of each file; a smaller one also bounds the payload of a block
    spares            segments to keep ready
    on_segment        given the id of every segment that becomes the newest, when its name is on the disk's way
    prepare           what is left to do before anything may be written: recovery's end, when the disk was full
    background        False: neither commit thread nor helper thread is started (simulated disks)
    raises            StorageError when the first segment cannot be made, but not for want of space: then the log
                      refuses every append until begin() finds room
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        first_seq: int,
        committer: CommitterLike,
        *,
        dir_fd: int,
        segment_bytes: int = WAL_SEGMENT_BYTES,
        spares: int = 2,
        on_segment: Callable[[int], None] | None = None,
        prepare: Callable[[], object] | None = None,
        background: bool = True,
    ) -> None:
        assert first_seq >= 1
        assert segment_bytes > SEGMENT_HEADER_BYTES + BLOCK_HEADER_BYTES
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        room = segment_bytes - SEGMENT_HEADER_BYTES - BLOCK_HEADER_BYTES
        self.payload_bytes_max = min(WAL_BLOCK_BYTES_MAX, room // 8 * 8)
        self._next = first_seq
        self._named_durable = 0  # the highest durable sequence that a written block names
        self._offset = 0
        self._new_name = True
        self._pending: deque[_Pending] = deque()
        self._unnoted = 0  # the last block, while note() has not been called for it
        self._begun = False
        self._prepare = prepare
        self._retry_at = 0.0
        self._retry_wait = 0.0
        self.failure = ""
        """Why the log does not acknowledge at the moment; empty while it does."""
        self.n_moves = 0
        """How often pending blocks were moved to a new segment after a failed sync."""
        self.bytes_written = 0
        """Of blocks with their headers, since this object was made."""
        self._dir_fd = dir_fd
        self._committer = committer
        self._spares = Spares(files, directory, segment_bytes, keep=spares, background=background)
        self._segments = Segments(files, directory, self._spares, on_segment)
        try:
            self.begin()
        except StorageError as failure:
            if not is_no_space(failure):
                self._spares.close()
                raise
        run = committer.run
        self._thread = threading.Thread(target=run, name="mstore-commit", daemon=True) if background else None
        if self._thread is not None:
            self._thread.start()

    def begin(self) -> None:
        """Make the first segment. Done at the start, unless the disk was full: then by whoever finds room again.

        raises  StorageError while there is none; nothing has changed then
        """
        if self._begun:
            return
        try:
            self._make_ready()
        except StorageError as failure:
            self.failure = failure.message
            raise
        self._begun = True
        self.failure = ""

    def _make_ready(self) -> None:
        if self._prepare is not None:
            try:
                self._prepare()
            except StorageError as failure:
                if not is_no_space(failure) or not self._spares.sacrifice():
                    raise
                self._prepare()
            self._prepare = None
        self._segments.begin(self._next)
        self._open_segment(self._next)

    @property
    def next_seq(self) -> int:
        """Sequence of the next block."""
        return self._next

    @property
    def written(self) -> int:
        """Sequence of the last block appended; first_seq - 1 before the first one."""
        return self._next - 1

    def durable(self) -> int:
        """Sequence of the last block that survives a power cut, with all before it."""
        return self._committer.durable()

    def log_bytes(self) -> int:
        """Disk space of all segments not retired, spares not counted."""
        return len(self._segments) * self._segment_bytes

    def segment_files(self) -> list[SegmentFile]:
        """The files that hold the log, oldest first; none while there is no room for the first."""
        return self._segments.files(self._next, self._segment_bytes)

    def state(self) -> dict[str, object]:
        """Numbers for people."""
        return {
            "written": self.written,
            "durable": self.durable(),
            "pending_blocks": len(self._pending),
            "segments": len(self._segments),
            "segment": self._segments[-1].path.name if self._segments else "",
            "offset": self._offset,
            "spares_ready": self._spares.n_ready(),
            "spare_failures": list(self._spares.failures),
            "holds": self._segments.n_holds,
            "moves": self.n_moves,
            "failure": self.failure,
        }

    def append(self, ring: int, start: int, stop: int, payload: Payload) -> int:
        """write() and note() at once; returns the sequence."""
        seq = self.write(ring, start, stop, payload)
        self.note(seq, ring, stop)
        return seq

    def write(self, ring: int, start: int, stop: int, payload: Payload) -> int:
        """Write one block; returns its sequence. It is in the operating system's hands when this returns.

        It becomes durable whatever follows; its position is published only if note() is called for it.

        ring         index of the ring the payload was taken from, or CATALOG
        start, stop  positions in that ring before and after it (0, 0 for the catalog)
        payload      whole records, a multiple of 8 bytes, at most WAL_BLOCK_BYTES_MAX; kept until durable
        raises       Degraded while a failed sync could not be made good, StorageError when the disk refuses
                     the write or a new segment (no space): nothing has changed then, try again later
        """
        n_bytes = len(payload)
        if n_bytes % 8 or n_bytes > self.payload_bytes_max:
            raise ValueError(
                f"{n_bytes} bytes: a multiple of 8, at most {self.payload_bytes_max}, is a payload"
            )
        if type(payload) is memoryview and payload.itemsize != 1:
            raise ValueError("a payload is a view of bytes")
        self.begin()
        if self._committer.failed() and not self.poll():
            raise Degraded(f"the log cannot be written: {self.failure}", reason=self.failure)
        if self._unnoted:
            self._settle_unnoted()
        if self._offset + BLOCK_HEADER_BYTES + n_bytes > self._segment_bytes:
            self._open_segment(self._next)
        seq = self._next
        try:
            self._write(seq, ring, start, stop, payload)
        except StorageError as failure:
            if failure.details.get("errno") == errno.EIO:
                self._leave_segment()
            raise
        self._next = seq + 1
        self._pending.append(_Pending(seq, ring, start, stop, payload, True))
        self._committer.wrote(seq)
        self._unnoted = seq
        return seq

    def note(self, seq: int, ring: int, stop: int) -> None:
        """The block just written may be called durable, and its position published, when it is.

        Catalog blocks may have been written since: what had to be evicted to apply it. It is published with them.
        """
        if seq != self._unnoted:
            self._note_late(seq, ring, stop)
            return
        self._unnoted = 0
        # When the commit thread has just failed, the block stays pending and poll() writes it again.
        fd = self._segments[-1].fd
        self._committer.note_written(fd, seq, -1 if ring == CATALOG else ring, stop, self._new_name)
        self._new_name = False

    def _note_late(self, seq: int, ring: int, stop: int) -> None:
        assert 0 < seq < self._next, "note() follows write()"
        assert not self._unnoted, "note() follows write()"
        for place, block in enumerate(self._pending):
            if block.seq == seq:
                self._pending[place] = block._replace(published=True)
        fd = self._segments[-1].fd
        self._committer.note_written(fd, self.written, -1 if ring == CATALOG else ring, stop, self._new_name)
        self._new_name = False

    def mark(self) -> bool:
        """Let the log itself name what is durable, with an empty block; False when it does already.

        Called when a store becomes idle and at a clean stop: recovery can then tell damage to the last
        acknowledged blocks from a torn end.
        """
        if self.durable() <= self._named_durable:
            return False
        self.append(CATALOG, 0, 0, b"")
        return True

    def poll(self) -> bool:
        """Look after durable blocks and failures; call it every now and then. True while all is well."""
        if not self._committer.failed():
            self._prune()
            if not self._pending:
                self._retry_wait = 0.0
            return True
        if not self.failure:
            code = self._committer.failed()
            self.failure = f"fdatasync failed: {os.strerror(code)}"
        now = monotonic_s()
        if now < self._retry_at:
            return False
        self._retry_wait = min(max(2 * self._retry_wait, RETRY_FIRST_S), RETRY_LAST_S)
        self._retry_at = now + self._retry_wait
        try:
            self._move_pending()
        except StorageError as failure:
            self.failure = failure.message
            return False
        self.failure = ""
        return True

    def abandon(self, paths: Collection[Path], why: str) -> bool:
        """Some files of the log are not what they were: none of them is used again, and when one of them is open,
        everything that is not durable is written to a new file, as after a failed sync. False while that cannot be.

        Once this is called, nothing that is acknowledged rests on these files; what they held before does.
        """
        hurt = [segment for segment in self._segments if segment.path in paths]
        for segment in hurt:
            segment.tainted = True
        if not any(segment.fd >= 0 for segment in hurt):
            return True
        self._committer.abandon(errno.EIO)
        self.failure = why
        self._retry_at = 0.0
        return self.poll()

    def flush(self, timeout_s: float) -> bool:
        """Wait until everything noted is durable, through failures if need be; False after timeout_s."""
        deadline = monotonic_s() + timeout_s
        seq = self._unnoted - 1 if self._unnoted else self.written
        while True:
            self.poll()
            left = deadline - monotonic_s()
            if self._committer.wait(seq, max(0.0, min(left, RETRY_FIRST_S))):
                self._prune()
                return True
            if left <= 0:
                return False
            if self._committer.failed():
                time.sleep(RETRY_FIRST_S / 8)

    def retire(self, upto_seq: int) -> int:
        """Give up segments that hold only blocks up to `upto_seq`; returns how many.

        Call it only when a snapshot that holds everything up to there is durable: file, name and directory.
        While somebody holds the log, none is given up: that is made good by release().
        """
        self._prune()
        return self._segments.retire(upto_seq, self.durable())

    def hold(self) -> int:
        """Give up no segment until release() of the number returned: somebody is copying the log."""
        return self._segments.hold()

    def release(self, hold: int) -> int:
        """End a hold; how many segments were given up because of it. One that has ended already is no error."""
        self._segments.release(hold)
        return self.retire(0)

    def close(self, timeout_s: float = 10.0) -> bool:
        """Make everything durable, say so in the log, stop both threads. False if that failed."""
        if self._unnoted:
            self._settle_unnoted()
        clean = self.flush(timeout_s)
        if clean:
            try:
                self.mark()
                clean = self.flush(timeout_s)
            except (StorageError, Degraded):
                clean = False
        self._committer.stop()
        if self._thread is not None:
            self._thread.join(timeout_s)
            clean = clean and not self._thread.is_alive()
        self._spares.close()
        if self._thread is None or not self._thread.is_alive():
            self._segments.close()
            self._files.close(self._dir_fd)
        return clean

    def _write(self, seq: int, ring: int, start: int, stop: int, payload: Payload) -> None:
        segment = self._segments[-1]
        durable = self._committer.durable()
        header = encode_header(segment.segment_id, seq, ring, start, stop, durable, payload)
        self._files.pwritev(segment.fd, (header, payload), self._offset)
        n_bytes = BLOCK_HEADER_BYTES + len(payload)
        self._offset += n_bytes
        self.bytes_written += n_bytes
        self._named_durable = durable
        pending = self._pending
        while pending and pending[0].seq <= durable:
            pending.popleft()

    def _settle_unnoted(self) -> None:
        """Note a block whose position is never published: it still has to be durable before later ones."""
        seq = self._unnoted
        if self._pending and self._pending[-1].seq == seq:
            self._pending[-1] = self._pending[-1]._replace(published=False)
        self.note(seq, CATALOG, 0)

    def _open_segment(self, first_seq: int) -> None:
        self._segments.open(first_seq)
        self._offset = SEGMENT_HEADER_BYTES
        self._new_name = True
        self._prune()

    def _leave_segment(self) -> None:
        """Part of the file cannot be written: the next try goes to another one, as after a failed sync."""
        self._offset = self._segment_bytes
        self._segments.leave(self._next)

    def _prune(self) -> None:
        """Forget payloads that are durable, and close files that hold nothing else."""
        durable = self._committer.durable()
        while self._pending and self._pending[0].seq <= durable:
            self._pending.popleft()
        self._segments.settle(durable)

    def _move_pending(self) -> None:
        """After a failed sync: write every block that is not durable to new files, in order.

        Files that hold no durable block lose their names; one directory sync, done by the commit thread
        before the first moved block is durable, does both. If this raises, the next call starts over.
        """
        durable = self._committer.durable()
        self._prune()
        self._segments.forsake(durable)
        self._files.mkdir(self._directory)  # somebody may have removed all of it
        failed_dir_fd = self._dir_fd
        self._dir_fd = self._files.open_dir(self._directory)
        self._files.close(failed_dir_fd)
        self._open_segment(durable + 1)
        placed = []
        for block in list(self._pending):
            if self._offset + BLOCK_HEADER_BYTES + len(block.payload) > self._segment_bytes:
                self._open_segment(block.seq)
            self._write(block.seq, block.ring, block.start, block.stop, block.payload)
            if block.seq != self._unnoted:
                ring = block.ring if block.published and block.ring != CATALOG else -1
                placed.append((self._segments[-1].fd, block.seq, ring, block.stop, self._new_name))
                self._new_name = False
        self._committer.restart(self._dir_fd)
        self.n_moves += 1
        for note in placed:
            self._committer.note_written(*note)
