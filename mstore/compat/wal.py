"""The log `current.wal`: bytes <-> Points.

    u32 0xCC1DA701                                                     the file's header; older files have none
    u32 0xCC1DA7A1 | u32 length | PAYLOAD | u32 crc32(PAYLOAD)         a record, little-endian
    PAYLOAD:  i64 time | u16 length, metric | u8 n { u8 length, name } x n | f32 value

Cluster and host are the directory's. The reference appends behind the torn record of a crash and then reads nothing
behind it; here what is damaged is stepped over to the next sound record, and told.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.compat.contents import Points
from mstore.errors import CorruptRecord, InvalidRequest
from mstore.kernels.chosen import ccms_wal

FILE_MAGIC = 0xCC1DA701

_U32 = struct.Struct("<I")
HEADER = _U32.pack(FILE_MAGIC)
_RECORD = _U32.pack(ccms_wal.RECORD_MAGIC)
_RECORDS_A_PIECE = 1 << 20
_CANDIDATES_MAX = 1000
"""Places that look like a record but are none, after which the rest of a file is given up."""
_NAME_BYTES_MAX = 0xFF
_METRIC_BYTES_MAX = 0xFFFF
_NAMES_MAX = 0xFF

_WHY = {
    ccms_wal.BAD_MAGIC: "no record begins here",
    ccms_wal.BAD_LENGTH: f"a record of more than {ccms_wal.PAYLOAD_BYTES_MAX} bytes",
    ccms_wal.SHORT: "the file ends within the record",
    ccms_wal.BAD_CRC: "its checksum does not fit",
}


class Damage(NamedTuple):
    """A part of a file that was not read."""

    offset: int
    n_bytes: int
    why: str


class LogReader:
    """Reads a log, piece by piece; what was wrong with it is known when all of it was read."""

    def __init__(self, data: bytes, path: str = "") -> None:
        self._data = data
        self._path = path
        self.n_records = 0
        """Sound ones so far."""
        self.n_unusable = 0
        """Sound ones whose names do not fill them: one was longer than its length byte can say."""
        self.first_unusable = -1
        """Offset of the first of those."""
        self.damage: list[Damage] = []

    def pieces(self) -> Iterator[list[Points]]:
        """At most a million records at a time: the points of each series in the order of the file.

        raises CorruptRecord when there is no record at all in a file that is not empty
        """
        at = self._begin()
        while at < len(self._data):
            stop, status, times, series, bits, places, lengths, n_bad, first_bad = ccms_wal.scan(
                self._data, at, _RECORDS_A_PIECE
            )
            self.n_records += len(times) + n_bad
            self._note_unusable(n_bad, first_bad)
            keys = [
                self._data[place : place + length]
                for place, length in zip(places.tolist(), lengths.tolist(), strict=True)
            ]
            yield list(self._points(keys, times, series, bits.view(np.float32)))
            at = self._step_over(stop, _WHY[status]) if status in _WHY else stop
        if self.damage and not self.n_records:
            first = self.damage[0]
            self._refuse(first.offset, f"there is no sound record: {first.why}")

    def _begin(self) -> int:
        if len(self._data) > limits.CHECKPOINT_BYTES_MAX:
            self._refuse(0, f"{len(self._data)} bytes: at most {limits.CHECKPOINT_BYTES_MAX} are read")
        head = self._data[: len(HEADER)]
        if not head or head == HEADER:
            return len(head)
        if head == _RECORD:
            return 0
        return self._step_over(0, f"it begins with {head.hex(' ')}, a log with {HEADER.hex(' ')}")

    def _step_over(self, at: int, why: str) -> int:
        """Where the next sound record begins, or the end; what lies between is damage."""
        place = at
        for _ in range(_CANDIDATES_MAX):
            place = self._data.find(_RECORD, place + 1)
            if place < 0:
                break
            stop, *_ = ccms_wal.scan(self._data, place, 1)
            if stop > place:
                self.damage.append(Damage(at, place - at, why))
                return place
        self.damage.append(Damage(at, len(self._data) - at, why))
        return len(self._data)

    def _note_unusable(self, n: int, first: int) -> None:
        self.n_unusable += n
        if n and self.first_unusable < 0:
            self.first_unusable = first

    def _points(
        self,
        keys: Sequence[bytes],
        times: NDArray[np.int64],
        series: NDArray[np.uint32],
        values: NDArray[np.float32],
    ) -> Iterator[Points]:
        order = np.argsort(series, kind="stable")
        edges = np.searchsorted(series[order], np.arange(len(keys) + 1))
        for i, key in enumerate(keys):
            mine = order[edges[i] : edges[i + 1]]
            try:
                metric, levels = _names(key)
            except UnicodeDecodeError:
                self._note_unusable(len(mine), -1)
                continue
            yield Points(levels, metric, times[mine], values[mine])

    def _refuse(self, offset: int, why: str) -> None:
        raise CorruptRecord(
            f"{self._path or 'log'}: damaged at {offset}: {why}", path=self._path, offset=offset
        )


def _names(key: bytes) -> tuple[str, tuple[str, ...]]:
    """The metric and the level names of a well-formed record's key."""
    at = 2 + int.from_bytes(key[:2], "little")
    metric = key[2:at].decode()
    levels = []
    for _ in range(key[at]):
        length = key[at + 1]
        levels.append(key[at + 2 : at + 2 + length].decode())
        at += 1 + length
    return metric, tuple(levels)


def write_wal(points: Iterable[Points]) -> bytes:
    """A log with its header, as records() orders them."""
    return HEADER + records(points)


def records(points: Iterable[Points]) -> bytes:
    """Records by time, those of one time by levels and metric. Values become float32.

    raises InvalidRequest for names that the format cannot hold
    """
    ordered = sorted(points, key=lambda one: (one.levels, one.metric))
    made: list[bytes] = []
    for one in ordered:
        made += _records(one)
    times = np.concatenate([one.times for one in ordered]) if ordered else np.empty(0, np.int64)
    order = np.argsort(times, kind="stable").tolist()
    return b"".join(made[i] for i in order)


def _records(points: Points) -> Iterator[bytes]:
    key = _key(points)
    size = 8 + len(key) + 4
    layout = np.dtype(
        [("magic", "<u4"), ("size", "<u4"), ("t", "<i8"), ("key", f"V{len(key)}"), ("value", "<f4")]
    )
    rows = np.zeros(len(points.times), layout)
    rows["magic"], rows["size"], rows["t"] = ccms_wal.RECORD_MAGIC, size, points.times
    rows["key"] = np.void(key)
    with np.errstate(over="ignore"):
        rows["value"] = points.values
    raw = rows.tobytes()
    for at in range(0, len(raw), 8 + size):
        record = raw[at : at + 8 + size]
        yield record + _U32.pack(zlib.crc32(record[8:]))


def fits(levels: Sequence[str], metric: str) -> bool:
    """Whether a log can name this series."""
    longest = max((len(name.encode()) for name in levels), default=0)
    return (
        longest <= _NAME_BYTES_MAX and len(levels) <= _NAMES_MAX and len(metric.encode()) <= _METRIC_BYTES_MAX
    )


def _key(points: Points) -> bytes:
    if not fits(points.levels, points.metric):
        raise InvalidRequest(
            f"{points.metric} at {'/'.join(points.levels)}: a log holds at most {_NAMES_MAX} level names of"
            f" {_NAME_BYTES_MAX} bytes and a metric of {_METRIC_BYTES_MAX}"
        )
    metric = points.metric.encode()
    names = [name.encode() for name in points.levels]
    parts = [len(metric).to_bytes(2, "little"), metric, bytes([len(names)])]
    return b"".join(parts + [bytes([len(name)]) + name for name in names])
