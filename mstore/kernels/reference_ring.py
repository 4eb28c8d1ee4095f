"""The naive twin of _ring.pyx: the same ring over a bytearray, without atomics. For tests only."""

from __future__ import annotations

import struct

from mstore.errors import InvariantBroken
from mstore.limits import RUN_VALUES_MAX, STAMPED_COLUMNS_MAX

# Written out and not taken from shm/layout.py: kernels stand below it, and a twin knows the format by itself.
PAD, ROW, COLUMN, STAMPED, SCATTER, FIRST_NOT_A_RUN = 0, 1, 2, 3, 4, 16
RUN_BYTES = 24
VALUE_BYTES = {1: 4, 2: 8, 3: 8}


def record_length(record: bytes) -> int:
    """Bytes of the record that `record` begins with, 0 when it is malformed or not all there."""
    if len(record) < 8:
        return 0
    kind, vtype, _, length = struct.unpack_from("<HBBI", record)
    if kind == PAD or kind >= FIRST_NOT_A_RUN:
        well_formed = length >= 8 and length % 8 == 0
        return length if well_formed and length <= len(record) else 0
    count = length  # the same place in a run's header
    if len(record) < RUN_BYTES or not 1 <= count <= RUN_VALUES_MAX:
        return 0
    if kind == STAMPED:
        if not 1 <= vtype <= STAMPED_COLUMNS_MAX:
            return 0
        payload = count * (8 + 8 * vtype)
    elif kind in (ROW, COLUMN, SCATTER) and vtype in VALUE_BYTES:
        before = {ROW: 0, COLUMN: 8, SCATTER: 8 * count}[kind]
        payload = before + -(-count * VALUE_BYTES[vtype] // 8) * 8
    else:
        return 0
    length = RUN_BYTES + payload
    return length if length <= len(record) else 0


class Ring:
    """Writer and reader in one; positions are counts of bytes, as in the real ring."""

    def __init__(self, size: int, position: int = 0) -> None:
        self.size = size
        self.data = bytearray(size)
        self.head = self.drained = self.durable = self.position = position

    def room(self) -> int:
        return self.size - (self.position - self.durable)

    def put(self, record: bytes) -> bool:
        to_end = self.size - self.position % self.size
        padding = to_end if len(record) > to_end else 0
        if padding + len(record) > self.room():
            return False
        if padding:
            self._store(struct.pack("<HBBI", PAD, 0, 0, padding), padding)
        self._store(record, len(record))
        return True

    def _store(self, text: bytes, advance: int) -> None:
        at = self.position % self.size
        self.data[at : at + len(text)] = text
        self.position += advance

    def publish(self) -> int:
        self.head = self.position
        return self.head

    def abandon(self) -> None:
        """What a new writer starts from after its predecessor was killed."""
        self.position = self.head

    def view(self, start: int, limit: int) -> bytes:
        """Whole records from `start`, at most `limit` bytes, never across the ring's end or past the head."""
        if not self.durable <= start <= self.head:
            raise InvariantBroken(f"start {start} is not in {self.durable}..{self.head}")
        at = start % self.size
        text = bytes(self.data[at : at + min(self.head - start, self.size - at)])
        taken = 0
        while taken < len(text):
            length = record_length(text[taken:])
            if length == 0:
                raise InvariantBroken(f"malformed record at ring position {start + taken}")
            if taken + length > limit:
                break
            taken += length
        if taken == 0 and text:
            raise ValueError(f"limit {limit} is shorter than the record at ring position {start}")
        return text[:taken]
