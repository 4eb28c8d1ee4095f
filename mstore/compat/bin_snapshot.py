"""The binary snapshot `<from>.bin`: bytes <-> Checkpoint.

    u32 0xCC5B0001 | i64 from | i64 to | LEVEL                         little-endian, no padding, no checksum
    LEVEL:  u32 n  { u16 length, name | i64 frequency | i64 start | u32 n, n x f32 } x n
            u32 n  { u16 length, name | LEVEL } x n

An earlier form, which is only read, begins with "CCMS" and u32 1 instead, and its values are f64.

Nothing in it tells damage but its own shape: lengths that leave the file, names that are no UTF-8, steps and times
that cannot be, bytes behind the end. Each length is held against what is left of the file before it is believed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import numpy as np

from mstore import limits
from mstore.compat.contents import LEVELS_MAX, Checkpoint, Level, Stretch, check_times, tree
from mstore.errors import CorruptRecord, InvalidRequest

MAGIC = 0xCC5B0001

_HEAD = struct.Struct("<Iqq")
_EARLIER = b"CCMS" + struct.pack("<I", 1)
_EARLIER_HEAD = struct.Struct("<8sqq")
_COUNT = struct.Struct("<I")
_LENGTH = struct.Struct("<H")
_GRID = struct.Struct("<qqI")
_VALUE = np.dtype("<f4")
_METRIC_BYTES_MIN = _LENGTH.size + _GRID.size
_CHILD_BYTES_MIN = _LENGTH.size + 2 * _COUNT.size
_NAME_BYTES_MAX = 0xFFFF


def read_bin(data: bytes | memoryview, path: str = "") -> Checkpoint:
    """The whole file; values are float32 views of `data`, of the earlier form float64.

    raises CorruptRecord with path and offset
    """
    start, end, _ = _window(data, path)
    return Checkpoint(start, end, list(stretches(data, path)))


def stretches(data: bytes | memoryview, path: str = "") -> Iterator[Stretch]:
    """Each stretch in the order of the file, until it ends or is damaged.

    What came before damage may be wrong, too: a length that was changed shows only behind it.
    raises CorruptRecord with path and offset
    """
    *_, reader = _window(data, path)
    yield from reader.level((), reader.at)
    if reader.at != len(data):
        reader.refuse(reader.at, f"{len(data) - reader.at} bytes behind the end of the tree")


def write_bin(checkpoint: Checkpoint) -> bytes:
    """The file's bytes, names sorted: equal checkpoints give equal bytes.

    Values become float32. raises InvalidRequest for what the format cannot hold
    """
    parts = [_HEAD.pack(MAGIC, checkpoint.start, checkpoint.end)]
    _write_level(tree(checkpoint.stretches), parts)
    return b"".join(parts)


def _window(data: bytes | memoryview, path: str) -> tuple[int, int, _Reader]:
    """Start and end of the window, and a reader at the tree."""
    reader = _Reader(data, path, bytes(data[:8]) == _EARLIER)
    if len(data) > limits.CHECKPOINT_BYTES_MAX:
        reader.refuse(0, f"{len(data)} bytes: at most {limits.CHECKPOINT_BYTES_MAX} are read")
    if len(data) < reader.at:
        reader.refuse(0, f"{len(data)} bytes: a binary snapshot begins with {reader.at}")
    magic, start, end = reader.head.unpack_from(data)
    if magic not in (MAGIC, _EARLIER):
        reader.refuse(0, f"it begins with {magic:#010x}, a binary snapshot with {MAGIC:#010x}")
    if end and end < start:
        reader.refuse(reader.at - 8, f"its window ends at {end}, before it begins at {start}")
    return int(start), int(end), reader


class _Reader:
    """A place in the file, moved forward."""

    def __init__(self, data: bytes | memoryview, path: str, earlier: bool) -> None:
        self.data = memoryview(data)
        self.path = path
        self.head = _EARLIER_HEAD if earlier else _HEAD
        self.at = self.head.size
        self._value = np.dtype("<f8") if earlier else _VALUE

    def refuse(self, offset: int, why: str) -> None:
        raise CorruptRecord(
            f"{self.path or 'binary snapshot'}: damaged at {offset}: {why}", path=self.path, offset=offset
        )

    def level(self, levels: tuple[str, ...], at: int) -> Iterator[Stretch]:
        if len(levels) > LEVELS_MAX:
            self.refuse(at, f"more than {LEVELS_MAX} levels below the host")
        self.at = at
        for _ in range(self._count("metrics", _METRIC_BYTES_MIN)):
            yield self._metric(levels)
        for _ in range(self._count("levels", _CHILD_BYTES_MIN)):
            name = self._name()
            yield from self.level((*levels, name), self.at)

    def _metric(self, levels: tuple[str, ...]) -> Stretch:
        name = self._name()
        at = self.at
        step_s, start, n = self._unpack(_GRID)
        if n * self._value.itemsize > len(self.data) - self.at:
            self.refuse(at + 16, f"{n} values announced, {len(self.data) - self.at} bytes are left")
        check_times(name, start, step_s, n, self.path, at)
        values = np.frombuffer(self.data, self._value, n, self.at)
        self.at += values.nbytes
        return Stretch(levels, name, start, step_s, values)

    def _name(self) -> str:
        at = self.at
        (length,) = self._unpack(_LENGTH)
        if length > len(self.data) - self.at:
            self.refuse(at, f"a name of {length} bytes announced, {len(self.data) - self.at} bytes are left")
        raw = bytes(self.data[self.at : self.at + length])
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError as error:
            raise CorruptRecord(
                f"{self.path or 'binary snapshot'}: damaged at {at}: a name that is not UTF-8",
                path=self.path, offset=at,
            ) from error  # fmt: skip

    def _count(self, what: str, bytes_min: int) -> int:
        at = self.at
        (n,) = self._unpack(_COUNT)
        left = len(self.data) - self.at
        if n * bytes_min > left:
            self.refuse(at, f"{n} {what} announced, {left} bytes are left")
        return int(n)

    def _unpack(self, form: struct.Struct) -> tuple[int, ...]:
        if form.size > len(self.data) - self.at:
            self.refuse(self.at, f"it ends after {len(self.data) - self.at} of {form.size} bytes")
        found = form.unpack_from(self.data, self.at)
        self.at += form.size
        return found


def _write_level(level: Level, parts: list[bytes]) -> None:
    parts.append(_COUNT.pack(len(level.metrics)))
    for name, stretch in sorted(level.metrics.items()):
        with np.errstate(over="ignore"):
            values = stretch.values.astype(_VALUE)
        parts += [_named(name), _GRID.pack(stretch.step_s, stretch.start, len(values)), values.tobytes()]
    parts.append(_COUNT.pack(len(level.children)))
    for name, child in sorted(level.children.items()):
        parts.append(_named(name))
        _write_level(child, parts)


def _named(name: str) -> bytes:
    raw = name.encode()
    if len(raw) > _NAME_BYTES_MAX:
        raise InvalidRequest(f"a name of {len(raw)} bytes: a binary snapshot holds at most {_NAME_BYTES_MAX}")
    return _LENGTH.pack(len(raw)) + raw
