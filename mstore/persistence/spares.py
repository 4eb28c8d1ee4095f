"""Segment files made before they are needed: rotation costs one rename, and no commit pays for allocation.

    make       create ID.spare -> header page -> real zeros, paced, fdatasynced      (helper thread)
    recycle    0..9.wal -> rename ID.spare -> new header page, fdatasynced           (helper thread)
    take       the log renames ID.spare to its first sequence; the commit thread fsyncs the directory

A file is offered only when its length and its new header page are durable: whatever a crash leaves, a file with a log
name has its whole length (a shorter one was cut), and never shows an older header above newer blocks. The thread sleeps
on a queue and works without the GIL.
"""

from __future__ import annotations

import queue
import secrets
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mstore.clock import now_ns
from mstore.errors import StorageError
from mstore.persistence.blocks import SEGMENT_HEADER_BYTES, encode_segment_header
from mstore.persistence.files import SPARE_SUFFIX, Files, number_of, spare_name

_PIECE_BYTES = 4 << 20
"""Of a new file: a log that closes waits for the present one, not for all of them."""


@dataclass(frozen=True, slots=True)
class Spare:
    """A file ready to become a log segment; its descriptor is the taker's to close."""

    path: Path
    fd: int
    segment_id: int


class Spares:
    """Spare segments of one log directory.

    keep        files to have ready; retired segments beyond that are removed
    background  False: no thread, work is done in the caller (simulated disks, small tools)
    """

    def __init__(
        self,
        files: Files,
        directory: Path,
        segment_bytes: int,
        *,
        keep: int = 2,
        background: bool = True,
        new_id: Callable[[], int] | None = None,
    ) -> None:
        self._files = files
        self._directory = directory
        self._segment_bytes = segment_bytes
        self._keep = keep
        self._new_id = new_id or (lambda: secrets.randbits(63) | 1)
        self._ready: deque[Spare] = deque()
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._waiting = 0  # jobs that will end in a ready file, unless they fail
        self._count = threading.Lock()
        self.failures: list[str] = []
        """What went wrong in the helper thread since start, newest last; a log without spares still works."""
        self.closing = False
        """No file is finished any more."""
        self._thread: threading.Thread | None = None
        if background:
            self._thread = threading.Thread(target=self._work, name="mstore-spares", daemon=True)
            self._thread.start()
        for name in files.list(directory):
            if number_of(name, SPARE_SUFFIX) is not None:
                self.recycle(directory / name)
        self._refill()

    def take(self) -> Spare | None:
        """A prepared file, or None when none is ready; the next one is made meanwhile.

        One that somebody removed, cut or replaced meanwhile is none: what is written to it would not be found.
        """
        spare: Spare | None = None
        while spare is None and self._ready:
            spare = self._ready.popleft()
            if not self._is_whole(spare):
                self.failures.append(f"{spare.path.name} was removed or changed by somebody")
                self._files.close(spare.fd)
                spare = None
        self._refill()
        return spare

    def _is_whole(self, spare: Spare) -> bool:
        own = self._files.status_of(spare.fd)
        return own.n_bytes == self._segment_bytes and self._files.status(spare.path) == own

    def get(self) -> Spare:
        """A file, prepared or made now.

        raises  StorageError when there is neither one nor space for one
        """
        if spare := self.take():
            return spare
        try:
            return self.make_now()
        except StorageError:
            self.settle()  # the helper thread may have had the last space, or be taking over what was retired
            if not self._ready:
                raise
            return self._ready.popleft()

    def sacrifice(self) -> bool:
        """Remove a prepared file, so that the disk has room for something smaller; False when there is none."""
        self.settle()
        if not self._ready:
            return False
        spare = self._ready.popleft()
        self._files.close(spare.fd)
        self._files.unlink(spare.path)
        return True

    def make_now(self) -> Spare:
        """A file made in the caller: space allocated but not pre-written, so its first commits cost more.

        raises  StorageError when there is no space; nothing is left behind
        """
        return self._create(prewrite=False)

    def recycle(self, path: Path) -> None:
        """Take over a segment that the log no longer needs, or remove it when enough are ready."""
        if len(self._ready) + self._waiting >= self._keep:
            self._submit(lambda: self._files.unlink(path))
        else:
            self._expect(1)
            self._submit(lambda: self._offer(lambda: self._reuse(path)))

    def n_ready(self) -> int:
        return len(self._ready)

    def settle(self) -> None:
        """Wait until the helper thread has done all that was asked of it."""
        if self._thread is not None:
            done = threading.Event()
            self._jobs.put(done.set)
            done.wait()

    def close(self) -> None:
        """Stop the helper thread; files that are ready stay for the next start, one that is being made does not."""
        self.closing = True
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        while self._ready:
            self._files.close(self._ready.pop().fd)

    def _refill(self) -> None:
        while len(self._ready) + self._waiting < self._keep:
            self._expect(1)
            self._submit(lambda: self._offer(lambda: self._create(prewrite=True)))
            if self._thread is None and self.failures:
                return

    def _submit(self, job: Callable[[], None]) -> None:
        if self._thread is None:
            self._guard(job)
        else:
            self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            self._guard(job)

    def _guard(self, job: Callable[[], None]) -> None:
        try:
            job()
        except StorageError as failure:
            self.failures.append(failure.message)
            del self.failures[:-16]

    def _offer(self, make: Callable[[], Spare]) -> None:
        try:
            self._ready.append(make())
        finally:
            self._expect(-1)

    def _expect(self, change: int) -> None:
        with self._count:
            self._waiting += change

    def _create(self, *, prewrite: bool) -> Spare:
        segment_id = self._new_id()
        path = self._directory / spare_name(segment_id)
        fd = self._files.create(path, self._segment_bytes)
        try:
            self._write_header(fd, segment_id)
            if prewrite:
                self._prewrite(fd)
            self._files.fdatasync(fd)
        except StorageError:
            self._files.close(fd)
            self._files.unlink(path)
            raise
        return Spare(path, fd, segment_id)

    def _prewrite(self, fd: int) -> None:
        for start in range(SEGMENT_HEADER_BYTES, self._segment_bytes, _PIECE_BYTES):
            if self.closing:
                raise StorageError("a spare segment is not finished: the log closes")
            self._files.prewrite(fd, start, min(start + _PIECE_BYTES, self._segment_bytes))

    def _reuse(self, old: Path) -> Spare:
        segment_id = self._new_id()
        path = self._directory / spare_name(segment_id)
        self._files.rename(old, path)
        fd = self._files.open(path, writable=True)
        try:
            if self._files.size(fd) != self._segment_bytes:
                raise StorageError(f"{old.name} does not have {self._segment_bytes} bytes", path=str(path))
            self._write_header(fd, segment_id)
            self._files.fdatasync(fd)
        except StorageError:
            self._files.close(fd)
            self._files.unlink(path)
            raise
        return Spare(path, fd, segment_id)

    def _write_header(self, fd: int, segment_id: int) -> None:
        self._files.pwritev(fd, [encode_segment_header(segment_id, self._segment_bytes, now_ns())], 0)
