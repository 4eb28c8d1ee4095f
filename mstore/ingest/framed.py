"""A framed ingest connection as a state machine: messages in, effects and replies out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.errors import InvalidRequest, LimitExceeded, MstoreError, ProtocolError, StoreFull, UnknownMessage
from mstore.ingest.effects import Effect, NeedPaths
from mstore.ingest.engine import NEED_ROOM, Engine, LineState
from mstore.ingest.handles import HandleTable
from mstore.ingest.tally import Tally
from mstore.ipc import messages as m
from mstore.ipc.checks import Bin
from mstore.kernels._columns import ColumnEncoder, encode_rows
from mstore.model import Ack, Precision, Reason
from mstore.shm import layout

LOOK_UP_ONLY = -(1 << 63)
"""As the first time of a path: answer its type and kind, and its reference if it exists, but create nothing."""

Replies = Generator[Effect, Any, None]
Reply = Callable[[int, Ack | None, m.Message], None]
"""reply(request_id, level, message): send now (None), or once the ring's position has reached that level."""

_PRECISIONS = {
    "": None,
    "auto": Precision.AUTO,
    "s": Precision.S,
    "ms": Precision.MS,
    "us": Precision.US,
    "ns": Precision.NS,
}


class FramedSession:
    """One connection that began with a frame. handle() takes one decoded message at a time, in order.

    Operating errors become an Error reply of that request and nothing of it is stored; a ProtocolError ends
    the connection.
    """

    def __init__(self, engine: Engine, reply: Reply, welcome: Callable[[m.Hello], m.Message]) -> None:
        self._engine = engine
        self._reply = reply
        self._welcome = welcome
        self._handles = HandleTable()
        self._hello: m.Hello | None = None
        self.cluster = b""
        self.precision = Precision.AUTO
        self.ack = Ack.DURABLE

    def handle(self, request_id: int, message: m.Message) -> Replies:
        """Carry out one request; its reply is sent through `reply`."""
        try:
            if isinstance(message, m.Hello):
                self._greet(request_id, message)
            elif self._hello is None:
                raise ProtocolError("the first message of a connection must be Hello")
            elif isinstance(message, m.Lines):
                yield from self._lines(request_id, message)
            elif isinstance(message, m.Open):
                yield from self._open(request_id, message)
            elif isinstance(message, m.Columns):
                yield from self._columns(request_id, message)
            elif isinstance(message, m.Rows):
                yield from self._rows(request_id, message)
            elif isinstance(message, m.Ping):
                self._reply(request_id, None, m.Done({}))
            elif isinstance(message, m.Cancel):
                pass  # everything here is carried out in order: by now the request has been answered
            else:
                raise UnknownMessage(f"{type(message).__name__} is not a message of ingest.sock")
        except ProtocolError:
            raise
        except MstoreError as error:
            self._engine.publish()
            self._reply(request_id, None, m.Error(error.code, error.message, error.details))

    def _greet(self, request_id: int, hello: m.Hello) -> None:
        reply = self._welcome(hello)
        self.ack = Ack[hello.ack.upper()]
        self.cluster = hello.cluster.encode()
        self.precision = self._precision(hello.precision)
        self._hello = hello
        self._reply(request_id, None, reply)

    def _precision(self, text: str) -> Precision:
        if text not in _PRECISIONS:
            raise ProtocolError(f"precision {text!r}: allowed are s, ms, us, ns and auto")
        found = _PRECISIONS[text]
        return self.precision if found is None else found

    def _written(self, request_id: int, tally: Tally) -> None:
        durable = self.ack is Ack.DURABLE
        reply = m.Written(tally.written, tally.rejected, tally.ignored, tally.reasons, durable)
        self._reply(request_id, self.ack, reply)

    def _lines(self, request_id: int, message: m.Lines) -> Replies:
        state = LineState(self.cluster, self._precision(message.precision))
        data = message.data if isinstance(message.data, bytes) else memoryview(message.data)
        used = yield from self._engine.take_lines(data, state, final=True)
        assert used == len(data), "with final, every byte is used"
        self._written(request_id, state.tally)

    def _open(self, request_id: int, message: m.Open) -> Replies:
        paths, specs = _check_paths(message.series, message.specs)
        found = yield NeedPaths(paths, np.full(len(paths), LOOK_UP_ONLY, dtype=np.int64).tobytes(), specs)
        refs = np.frombuffer(found.refs, dtype=np.uint64)
        errors = _refusals(refs)
        handles = self._handles.add(paths, specs, refs, found.types, found.kinds).astype("<u4")
        handles[[i for i, _ in errors]] = m.HANDLE_NONE
        self._reply(request_id, None, m.Opened(handles.tobytes(), found.types, errors))

    def _columns(self, request_id: int, message: m.Columns) -> Replies:
        handles = np.frombuffer(message.handles, dtype="<u4")
        times = np.frombuffer(message.times, dtype="<i8")
        size = m.TYPE_BYTES.get(message.type, 0)
        self._refuse_if_full()
        if not size:
            raise InvalidRequest(f"value type {message.type}: allowed are 1 (f32), 2 (f64), 3 (u64)")
        n = len(handles) * len(times)
        if n > limits.COLUMNS_VALUES_MAX or len(message.values) != n * size:
            raise InvalidRequest(
                f"{len(message.values)} bytes of values for {len(times)} times x {len(handles)} series of {size} bytes"
                f" (at most {limits.COLUMNS_VALUES_MAX} values a frame)"
            )
        self._handles.check(handles, message.type, layout.KIND_GRID)
        tally = Tally()
        if not n:
            self._written(request_id, tally)
            return
        times, values = self._within_window(times, message.values, len(handles) * size, len(handles), tally)
        self._engine.enter()
        try:
            refs = yield from self._current(handles, times, message.type, layout.KIND_GRID)
            usable = refs & np.uint64(0xFFFF_FFFF) != layout.IGNORE_SLOT
            if not usable.all():
                values = _drop_columns(values, usable, len(times), size)
                for i, reason in _refusals(refs):
                    tally.refuse(Reason[reason.upper()], len(times))
                refs = refs[usable]
            yield from self._encode(ColumnEncoder(refs, times, values, message.type), tally)
        finally:
            self._engine.leave()
        self._engine.count(0, tally.written, tally.counts)
        self._written(request_id, tally)

    def _refuse_if_full(self) -> None:
        if self._engine.full():
            raise StoreFull("the store has no room and nothing it may evict: free memory or raise memory_cap")

    def _encode(self, encoder: ColumnEncoder, tally: Tally) -> Replies:
        while not encoder.encode(self._engine.ring):
            self._engine.publish()
            yield NEED_ROOM
        self._engine.publish()
        tally.counts[0] += encoder.n_written
        tally.refuse(Reason.BAD_VALUE, encoder.n_bad)

    def _rows(self, request_id: int, message: m.Rows) -> Replies:
        handles = np.array([message.handle], dtype=np.uint32)
        self._handles.check(handles, None, layout.KIND_STAMPED)
        self._refuse_if_full()
        stamps = np.frombuffer(message.stamps, dtype="<i8")
        if not len(stamps):
            self._written(request_id, Tally())
            return
        if len(stamps) > limits.RUN_VALUES_MAX:
            raise LimitExceeded(f"{len(stamps)} rows in one message; at most {limits.RUN_VALUES_MAX}")
        self._engine.enter()
        try:
            refs = yield from self._current(handles, stamps // 1000, None, layout.KIND_STAMPED)
            for _, reason in _refusals(refs):
                raise InvalidRequest(f"the series cannot be stored: {reason}", reason=reason)
            series = self._engine.directory.series(int(refs[0]) & 0xFFFF_FFFF)
            assert series is not None, "no series goes away while its reference is in hand"
            n_columns = series.n_columns
            if len(message.values) != 8 * n_columns * len(stamps):
                raise InvalidRequest(
                    f"{len(message.values)} bytes of values for {len(stamps)} rows of {n_columns} columns of 8 bytes"
                )
            tally = Tally()
            stamps, values = self._within_window(stamps, message.values, 8 * n_columns, 1, tally, per_s=1000)
            while not encode_rows(self._engine.ring, int(refs[0]), stamps, values, n_columns):
                self._engine.publish()
                yield NEED_ROOM
            self._engine.publish()
        finally:
            self._engine.leave()
        tally.counts[0] += len(stamps)
        self._engine.count(0, tally.written * n_columns, tally.counts)
        self._written(request_id, tally)

    def _within_window(
        self,
        times: NDArray[np.int64],
        values: Bin,
        row_bytes: int,
        row_samples: int,
        tally: Tally,
        per_s: int = 1,
    ) -> tuple[NDArray[np.int64], Bin]:
        """Only the rows whose time is accepted; the others are counted."""
        _, oldest, newest = self._engine.window()
        late, ahead = times < oldest * per_s, times >= (newest + 1) * per_s
        if not (late.any() or ahead.any()):
            return times, values
        tally.refuse(Reason.TOO_LATE, int(late.sum()) * row_samples)
        tally.refuse(Reason.TOO_FAR_AHEAD, int(ahead.sum()) * row_samples)
        keep = ~(late | ahead)
        rows = np.frombuffer(values, dtype=np.uint8).reshape(len(times), row_bytes)
        return times[keep], rows[keep].tobytes()

    def _current(
        self, handles: NDArray[np.uint32], times: NDArray[np.int64], vtype: int | None, kind: int
    ) -> Generator[Effect, Any, NDArray[np.uint64]]:
        """References of the handles as of now.

        Opening a handle creates nothing: the first sample does, because its time fixes the grid's anchor. So new
        handles, and those whose series was removed meanwhile, are interned here.
        """
        gone = self._handles.stale(handles, self._engine.directory)
        if len(gone):
            paths, specs = self._handles.paths(gone)
            first = int(times.min()) if len(times) else self._engine.window()[0]
            found = yield NeedPaths(paths, np.full(len(gone), first, dtype=np.int64).tobytes(), specs)
            self._handles.renew(gone, np.frombuffer(found.refs, dtype=np.uint64), found.types, found.kinds)
            self._handles.check(handles, vtype, kind)
        return self._handles.refs(handles)


def _check_paths(series: list[Any], specs: list[Any] | None) -> tuple[list[list[str]], list[Any] | None]:
    if len(series) > limits.HANDLES_PER_CONNECTION_MAX:
        raise LimitExceeded(f"{len(series)} series in one Open; at most {limits.HANDLES_PER_CONNECTION_MAX}")
    if specs is not None and len(specs) == 1:
        specs = specs * len(series)
    if specs is not None and len(specs) != len(series):
        raise InvalidRequest(
            f"{len(specs)} specs for {len(series)} series: send one for all, one each, or nil"
        )
    return series, specs


def _refusals(refs: NDArray[np.uint64]) -> list[list[Any]]:
    """[index, reason] of every entry that is an ignore word."""
    ignored = np.flatnonzero(refs & np.uint64(0xFFFF_FFFF) == layout.IGNORE_SLOT)
    return [[int(i), Reason(int(refs[i]) >> 56).public] for i in ignored]


def _drop_columns(values: Bin, usable: NDArray[np.bool_], n_times: int, size: int) -> bytes:
    matrix = np.frombuffer(values, dtype=np.dtype(("V", size))).reshape(n_times, len(usable))
    return matrix[:, usable].tobytes()
