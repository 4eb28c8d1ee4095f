"""The end of a log that another process is writing, block by block: what happens, in the order in which it happens.

    DIR/wal/  [... block 710][block 711]    the newest segment; blocks up to STORE_APPLIED are in memory, too
                              ^ next_seq
              [block 712 ...                when the file ends, the segment whose name is the next sequence

Blocks are read with pread and checked like at a start (docs/format/wal.md), so a file that is cut, recycled or
removed meanwhile shows as a missing block and never as a wrong one. After a failed sync a block may stand in two
segments; they say the same.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from mstore.errors import StorageError
from mstore.persistence import blocks, files


class Lost(Exception):
    """The log does not have this block any more: it was retired before it was read, or its file is damaged."""


class LogTail:
    """Reads blocks `next_seq`, `next_seq` + 1, ... of the log in a directory; nothing is written or held.

    directory  DIR/wal
    raises     StorageError when the system refuses to read it
    """

    def __init__(self, directory: Path, next_seq: int) -> None:
        self._directory = directory
        self.next_seq = next_seq
        self._fd = -1
        self._segment_id = 0
        self._offset = 0

    def read(self, upto_seq: int) -> Iterator[blocks.Block]:
        """Blocks from next_seq to upto_seq, which must be written. raises Lost at one that is not there"""
        while self.next_seq <= upto_seq:
            block = self._block_here()
            if block is None:
                self._seek()
                block = self._block_here()
            if block is None:
                raise Lost(f"block {self.next_seq} is not in {self._directory} any more")
            self._offset = block.end
            self.next_seq += 1
            yield block

    def skip(self, next_seq: int) -> None:
        """Go on at another block."""
        self.close()
        self.next_seq = next_seq

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _block_here(self) -> blocks.Block | None:
        if self._fd < 0:
            return None
        head = self._pread(blocks.BLOCK_HEADER_BYTES, self._offset)
        n_bytes = blocks.payload_bytes(head, self._segment_id, self.next_seq)
        if n_bytes is None:
            return None
        text = memoryview(head + self._pread(n_bytes, self._offset + len(head)))
        found = blocks.parse(text, 0, self._segment_id)
        return None if isinstance(found, str) else replace(found, offset=self._offset)

    def _seek(self) -> None:
        """Open the segment that holds next_seq and stand before that block; nothing is open when there is none."""
        self.close()
        first_seq = max((n for n in self._segments() if n <= self.next_seq), default=None)
        if first_seq is None:
            return
        path = self._directory / files.wal_name(first_seq)
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return  # retired between the look at the names and now
        except OSError as error:
            raise StorageError(f"cannot read {path}: {error.strerror}", path=str(path)) from error
        header = blocks.parse_segment_header(memoryview(self._pread(blocks.SEGMENT_HEADER_BYTES, 0)))
        if isinstance(header, str):
            self.close()
            return
        self._segment_id = header.segment_id
        self._offset = blocks.SEGMENT_HEADER_BYTES
        for seq in range(first_seq, self.next_seq):
            head = self._pread(blocks.BLOCK_HEADER_BYTES, self._offset)
            n_bytes = blocks.payload_bytes(head, self._segment_id, seq)
            if n_bytes is None:
                self.close()
                return
            self._offset += len(head) + n_bytes

    def _segments(self) -> list[int]:
        with contextlib.suppress(OSError):
            names = os.listdir(self._directory)
            found = (files.number_of(name, files.WAL_SUFFIX) for name in names)
            return [number for number in found if number is not None]
        return []

    def _pread(self, n_bytes: int, offset: int) -> bytes:
        try:
            return os.pread(self._fd, n_bytes, offset)
        except OSError as error:
            raise StorageError(f"cannot read the log in {self._directory}: {error.strerror}") from error
