"""The commit thread as obviously right Python: what kernels/_wal.Committer must do, step by step.

Syncs are calls given by the test and happen in step(): the test decides when they do and which of them fail.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RING_DURABLE = 4096 + 2 * 128
STORE_WRITTEN = 4096 + 2 * 128
STORE_DURABLE = 4096 + 3 * 128


@dataclass(slots=True)
class Group:
    """All blocks of one file noted before its sync begins."""

    fd: int
    new_name: bool
    seq: int
    positions: list[int]


class ReferenceCommitter:
    """Same calls as the kernel's; nothing happens before step().

    control, rings   the segments' bytes, writable
    sync_file, sync_directory   raise OSError (or a subclass) to fail
    """

    def __init__(
        self,
        control: bytearray,
        rings: Sequence[bytearray],
        eventfds: Sequence[int],
        notify_fd: int,
        durable: int,
        dir_fd: int,
        sync_file: Callable[[int], None],
        sync_directory: Callable[[int], None],
    ) -> None:
        self._control = _words(control)
        self._rings = [_words(ring) for ring in rings]
        self._eventfds = list(eventfds)
        self._notify_fd = notify_fd
        self._dir_fd = dir_fd
        self._sync_file = sync_file
        self._sync_directory = sync_directory
        self._groups: list[Group] = []
        self._noted = [int(ring[RING_DURABLE // 8]) for ring in self._rings]
        self._error = 0
        self._first_error = 0
        self._n_syncs = 0
        self._control[STORE_WRITTEN // 8] = durable
        self._control[STORE_DURABLE // 8] = durable

    def wrote(self, seq: int) -> None:
        self._control[STORE_WRITTEN // 8] = max(int(self._control[STORE_WRITTEN // 8]), seq)

    def note_written(self, fd: int, seq: int, ring: int, stop: int, new_name: bool) -> bool:
        self.wrote(seq)
        if ring >= 0:
            self._noted[ring] = stop
        if self._error:
            return False
        if self._groups and self._groups[-1].fd == fd:
            group = self._groups[-1]
            group.seq, group.positions, group.new_name = seq, list(self._noted), group.new_name or new_name
        else:
            self._groups.append(Group(fd, new_name, seq, list(self._noted)))
        return True

    def step(self) -> bool:
        """Commit the oldest group; False when there was nothing to do."""
        if self._error or not self._groups:
            return False
        group = self._groups.pop(0)
        self._n_syncs += 1
        try:
            if group.new_name:
                self._sync_directory(self._dir_fd)
            self._sync_file(group.fd)
        except OSError as failure:
            self._error = failure.errno or 5
            self._first_error = self._first_error or self._error
            self._groups.clear()
            _wake(self._notify_fd)
            return True
        for words, position, eventfd in zip(self._rings, group.positions, self._eventfds, strict=True):
            if int(words[RING_DURABLE // 8]) != position:
                words[RING_DURABLE // 8] = position
                _wake(eventfd)
        self._control[STORE_DURABLE // 8] = group.seq
        return True

    def run(self) -> None:
        while self.step():
            pass

    def wait(self, seq: int, timeout_s: float) -> bool:
        self.run()
        return self.durable() >= seq

    def durable(self) -> int:
        return int(self._control[STORE_DURABLE // 8])

    def failed(self) -> int:
        return self._error

    def abandon(self, error: int) -> None:
        self._error = error
        self._groups.clear()

    def restart(self, dir_fd: int) -> None:
        self._error = 0
        self._dir_fd = dir_fd
        self._groups.clear()
        self._noted = [int(ring[RING_DURABLE // 8]) for ring in self._rings]

    def stop(self) -> None:
        self.run()

    def status(self) -> tuple[int, int, int, int]:
        return self._first_error, self.durable(), self._n_syncs, 0


def _words(segment: bytearray) -> NDArray[np.uint64]:
    return np.frombuffer(segment, dtype=np.uint64)


def _wake(eventfd: int) -> None:
    if eventfd >= 0:
        os.eventfd_write(eventfd, 1)
