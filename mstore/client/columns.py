"""Columns of samples without text: series are opened once, then written by handle, many to a frame.

    writer = client.writer()
    handles = writer.open([SeriesPath("fritz", "f0201", "mem_used"), ...])      uint32[n]
    writer.write(handles, times, values)                                        int64[m], float[m, n]
    result = writer.flush()

Steps for both kinds of writer; the faces are in sync.py and aio.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mstore import limits
from mstore.client.operations import Operations
from mstore.client.results import WriteResult
from mstore.client.session import Session
from mstore.client.window import Window
from mstore.errors import InvalidRequest, ProtocolError, UnknownHandle
from mstore.ipc import messages
from mstore.ipc.transport import Steps
from mstore.model import MetricSpec, Reason, SeriesPath

FRAME_VALUES = 512 * 1024
"""Values in one frame at most: 2 to 4 MiB, so that a window of frames keeps store and client both busy."""
OPEN_SERIES = 50_000
"""Series in one Open at most."""

Handles: TypeAlias = NDArray[np.uint32]
PathLike: TypeAlias = SeriesPath | Sequence[str]

_DTYPES: dict[int, np.dtype[Any]] = {
    messages.TYPE_F32: np.dtype("<f4"),
    messages.TYPE_F64: np.dtype("<f8"),
    messages.TYPE_U64: np.dtype("<u8"),
}
U64_MISSING = np.uint64(2**64 - 1)

assert FRAME_VALUES <= limits.COLUMNS_VALUES_MAX
# Eight bytes each for values and times, when one series has as many times as a frame has values.
assert FRAME_VALUES * (8 + 8) + 4096 <= limits.FRAME_BYTES_MAX


@dataclass(frozen=True, slots=True)
class _Wire:
    """Handles that were written together, checked: nearly always those of the next call."""

    columns: Handles
    kind: int
    """Their value type, 0 when they have several."""
    data: bytes


class WriterSteps:
    """A session of its own with its handles and its window of unacknowledged frames.

    Handles are the writer's own numbers and survive reconnects: the series are opened again on the new
    connection and frames are translated while they are sent, should the store number them differently.
    """

    def __init__(self, operations: Operations, window: int) -> None:
        self._ops = operations
        self._session = operations.settings.session(
            "ingest", operations.settings.cluster, restore=self._reopen, adapt=self._adapt
        )
        self._window = Window(self._session, window, operations.until_s)
        self._opens: list[messages.Open] = []
        self._types: NDArray[np.uint8] = np.zeros(0, np.uint8)
        self._on_wire: Handles = np.zeros(0, np.uint32)
        self._translate = False
        self._last: _Wire | None = None
        self.refused: dict[int, str] = {}
        """Handles whose series the store refused when they were opened, with the reason. Their samples are
        not sent but counted here; they are opened again with every new connection."""

    def refuse_child(self) -> None:
        """raises InvalidRequest in a process forked since: to be called before a lock is waited for"""
        self._session.refuse_child("writer")

    def open(self, series: Sequence[PathLike], spec: MetricSpec | None) -> Steps[Handles]:
        paths = [_path_list(one) for one in series]
        first = len(self._types)
        if first + len(paths) > limits.HANDLES_PER_CONNECTION_MAX:
            raise InvalidRequest(
                f"more than {limits.HANDLES_PER_CONNECTION_MAX} handles: use several writers"
            )
        for i in range(0, len(paths), OPEN_SERIES):
            part = paths[i : i + OPEN_SERIES]
            message = messages.Open(part, None if spec is None else [_spec_list(spec)] * len(part))
            reply = yield from self._session.exchange(message, self._ops.until_s())
            self._add(message, reply)
        return np.arange(first, first + len(paths), dtype=np.uint32)

    def write(self, handles: ArrayLike, times: ArrayLike, values: ArrayLike) -> Steps[None]:
        self._window.raise_error()
        columns = np.ascontiguousarray(handles, dtype="<u4").reshape(-1)
        moments = _integers(times, "s")
        matrix = np.asarray(values)
        if matrix.size != len(columns) * len(moments):
            raise InvalidRequest(
                f"{matrix.size} values for {len(moments)} times x {len(columns)} series: expected m x n"
            )
        if not matrix.size:
            return
        matrix = matrix.reshape(len(moments), len(columns))
        if self.refused:
            self._check_known(columns)
            columns, matrix = self._without_refused(columns, matrix)
            if not len(columns):
                return
        wire = self._wire(columns)
        if wire.kind:
            yield from self._write_type(wire, moments, matrix)
            return
        types = self._types[columns]
        for kind in np.unique(types).tolist():
            mine = types == kind
            part = columns[mine]
            yield from self._write_type(_Wire(part, kind, part.tobytes()), moments, matrix[:, mine])

    def rows(self, handle: int, stamps_ms: ArrayLike, values: ArrayLike) -> Steps[None]:
        self._window.raise_error()
        stamps = _integers(stamps_ms, "ms")
        words = _row_words(values, len(stamps))
        if not 0 <= int(handle) < len(self._types):
            raise UnknownHandle(f"handle {handle} was never opened by this writer", handle=int(handle))
        if int(handle) in self.refused:
            self._count_refused(int(handle), len(stamps))
            return
        for i in range(0, len(stamps), limits.RUN_VALUES_MAX):
            part = slice(i, i + limits.RUN_VALUES_MAX)
            message = messages.Rows(int(handle), stamps[part].tobytes(), words[part].tobytes())
            yield from self._window.send(message)

    def flush(self) -> Steps[WriteResult]:
        """Wait for all acknowledgements; the total since the last flush. raises the first error since
        then.
        """
        yield from self._window.drain()
        return self._window.take_result()

    def close(self) -> None:
        """Close the connection; what is not acknowledged may or may not be stored."""
        self._window.clear()
        self._session.forget()

    def _wire(self, columns: Handles) -> _Wire:
        """These handles as a frame holds them. raises UnknownHandle"""
        last = self._last
        if last is not None and np.array_equal(last.columns, columns):
            return last
        self._check_known(columns)
        types = self._types[columns]
        kind = int(types[0]) if (types == types[0]).all() else 0
        self._last = _Wire(columns.copy(), kind, columns.tobytes())
        return self._last

    def _check_known(self, columns: Handles) -> None:
        if int(columns.max()) >= len(self._types):
            raise UnknownHandle(
                f"handle {int(columns.max())} was never opened by this writer", handle=int(columns.max())
            )

    def _write_type(self, wire: _Wire, moments: NDArray[np.int64], matrix: NDArray[Any]) -> Steps[None]:
        width = min(len(wire.columns), FRAME_VALUES)
        height = max(1, FRAME_VALUES // width)
        for column in range(0, len(wire.columns), width):
            part = wire.data[4 * column : 4 * (column + width)]  # all of it: no copy
            for row in range(0, len(moments), height):
                values = to_type(matrix[row : row + height, column : column + width], wire.kind)
                message = messages.Columns(
                    part, moments[row : row + height].tobytes(), values.data.cast("B"), wire.kind
                )
                yield from self._window.send(message)

    def _without_refused(self, columns: Handles, matrix: NDArray[Any]) -> tuple[Handles, NDArray[Any]]:
        """The columns that may be sent; the samples of the others are counted."""
        usable = self._on_wire[columns] != messages.HANDLE_NONE
        if usable.all():
            return columns, matrix
        for handle in columns[~usable].tolist():
            self._count_refused(handle, len(matrix))
        return columns[usable], matrix[:, usable]

    def _count_refused(self, handle: int, n: int) -> None:
        reason = self.refused[handle]
        ignored = n if reason == Reason.UNKNOWN_METRIC.public else 0
        self._window.total += WriteResult(0, n - ignored, ignored, {reason: n})

    def _add(self, message: messages.Open, reply: messages.Message) -> None:
        self._take_opened(message, reply)
        self._opens.append(message)
        self._note_translation()

    def _reopen(self, session: Session, until_s: float) -> Steps[None]:
        """Open everything again on a new connection, before anything unanswered is sent again."""
        replies = []
        for message in self._opens:
            replies.append((yield from session.direct(message, until_s)))
        self._types, self._on_wire = self._types[:0], self._on_wire[:0]
        self.refused.clear()
        for message, reply in zip(self._opens, replies, strict=True):
            self._take_opened(message, reply)
        self._note_translation()

    def _take_opened(self, message: messages.Open, reply: messages.Message) -> None:
        if not isinstance(reply, messages.Opened):
            raise ProtocolError(f"Open was answered by {type(reply).__name__}")
        handles = np.frombuffer(reply.handles, dtype="<u4")
        types = np.frombuffer(reply.types, dtype=np.uint8)
        if not len(handles) == len(types) == len(message.series):
            raise ProtocolError(
                f"{len(handles)} handles and {len(types)} types for {len(message.series)} series"
            )
        first = len(self._types)
        self._last = None  # a reconnect may have brought other types
        reasons = {int(index): str(reason) for index, reason in reply.errors}
        for index in np.flatnonzero(handles == messages.HANDLE_NONE).tolist():
            self.refused[first + index] = reasons.get(index, "")
        self._types = np.concatenate([self._types, types])
        self._on_wire = np.concatenate([self._on_wire, handles])

    def _note_translation(self) -> None:
        self._translate = not np.array_equal(self._on_wire, np.arange(len(self._on_wire), dtype=np.uint32))

    def _adapt(self, message: messages.Message) -> messages.Message:
        if not self._translate:
            return message
        if isinstance(message, messages.Columns):
            mine = np.frombuffer(message.handles, dtype="<u4")
            return replace(message, handles=self._on_wire[mine].astype("<u4").tobytes())
        if isinstance(message, messages.Rows):
            return replace(message, handle=int(self._on_wire[message.handle]))
        return message


def to_type(values: NDArray[Any], kind: int) -> NDArray[Any]:
    """A copy of `values` as little-endian [m, n] of a value type, made so that nothing wrong is stored.

    Into u64, what is negative, fractional or not finite becomes 2^64-1, which the store refuses and counts;
    into f32, what is beyond its range becomes infinite, with the same end.
    """
    dtype = _DTYPES[kind]
    out = np.empty(values.shape, dtype=dtype)
    if kind != messages.TYPE_U64 or values.dtype.kind in "ub":
        with np.errstate(over="ignore"):
            out[...] = values
        return out
    if values.dtype.kind == "i":
        out[...] = values
        out[values < 0] = U64_MISSING
        return out
    numbers = np.asarray(values, dtype=np.float64)
    with np.errstate(invalid="ignore"):
        good = (numbers >= 0) & (numbers < 2.0**64) & (np.floor(numbers) == numbers)
    out[...] = U64_MISSING
    out[good] = numbers[good].astype(dtype)
    return out


def _integers(times: ArrayLike, unit: str) -> NDArray[np.int64]:
    """Times as int64 in `unit`: numbers are taken to be in it, datetime64 is converted."""
    array = np.asarray(times)
    if array.dtype.kind == "M":
        array = array.astype(f"datetime64[{unit}]")
    return np.ascontiguousarray(array, dtype="<i8").reshape(-1)


def _row_words(values: ArrayLike, n_rows: int) -> NDArray[np.uint64]:
    """Rows as 8-byte words [n_rows, k]: floats as float64, integers as uint64, structured columns one by
    one.
    """
    array = np.asarray(values)
    if array.dtype.names:
        columns = [_row_words(array[name], n_rows) for name in array.dtype.names]
        return np.concatenate(columns, axis=1)
    if n_rows == 0 or array.size % n_rows:
        if array.size == 0:
            return np.zeros((0, 1), np.uint64)
        raise InvalidRequest(
            f"{array.size} values for {n_rows} rows: expected the same number of columns in each"
        )
    kind = messages.TYPE_F64 if array.dtype.kind == "f" else messages.TYPE_U64
    return to_type(array.reshape(n_rows, -1), kind).view("<u8")


def _path_list(path: PathLike) -> list[str]:
    if isinstance(path, SeriesPath):
        return [path.cluster, path.host, path.metric, path.type, path.type_id, path.subtype, path.subtype_id]
    parts = [str(part) for part in path]
    if isinstance(path, str) or not 3 <= len(parts) <= 7:
        raise InvalidRequest(
            f"{path!r} is no series: expected (cluster, host, metric[, type, type_id[, subtype, subtype_id]])"
        )
    return parts + [""] * (7 - len(parts))


def _spec_list(spec: MetricSpec) -> list[Any]:
    return [spec.step_s, spec.aggregation, spec.type, spec.unit, [list(column) for column in spec.columns]]
