"""A framed ingest connection as a state machine: messages in, effects and replies out."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.errors import (
    InvalidRequest,
    LimitExceeded,
    MstoreError,
    ProtocolError,
    StoreFull,
    UnknownMessage,
)
from mstore.ingest import reach
from mstore.ingest.effects import Effect, NeedPaths
from mstore.ingest.engine import NEED_ROOM, Engine, LineState, is_name
from mstore.ingest.handles import HandleTable
from mstore.ingest.tally import Tally
from mstore.ipc import failure, greeting
from mstore.ipc import messages as m
from mstore.ipc.checks import Bin
from mstore.kernels._columns import ColumnEncoder, RowEncoder
from mstore.model import Ack, Precision, Reason
from mstore.shm import layout

LOOK_UP_ONLY = -(1 << 63)
"""As the first time of a path: answer its type and kind, and its reference if it exists, but create nothing."""

NEVER = (1 << 63) - 1
"""Instead of a first time: there is no sample."""
Firsts = Callable[[], NDArray[np.int64]]
Replies = Generator[Effect, Any, None]
Reply = Callable[[int, Ack | None, m.Message], None]
"""reply(request_id, level, message): send now (None), or once the ring's position has reached that level."""

_DTYPES = {m.TYPE_F32: "<f4", m.TYPE_F64: "<f8", m.TYPE_U64: "<u8"}
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

    Operating errors become an Error reply of that request, and nothing is stored of it (of lines: nothing from the
    batch on in which it happened, and its details count the lines before); a ProtocolError ends the connection.
    """

    def __init__(self, engine: Engine, reply: Reply, welcome: Callable[[m.Hello], m.Message]) -> None:
        self._engine = engine
        self._reply = reply
        self._welcome = welcome
        self._handles = HandleTable()
        self._hello: m.Hello | None = None
        self._closed = False
        self.cluster = b""
        self.precision = Precision.AUTO
        self.ack = Ack.DURABLE

    def handle(self, request_id: int, message: m.Message) -> Replies:
        """Carry out one request; its reply is sent through `reply`."""
        self._engine.slot.add("frames")
        try:
            if self._hello is None:
                self._greet(request_id, message)
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
            elif isinstance(message, m.Hello):
                raise ProtocolError("Hello comes once, as the first message of a connection")
            else:
                raise UnknownMessage(f"{type(message).__name__} is not a message of ingest.sock")
        except MstoreError as error:
            self._reply(request_id, None, failure.reply_to(message, error, "the ingest worker"))

    def close(self) -> None:
        """The connection has ended: its handles count no more. A request under way is carried out all the same."""
        self._engine.slot.add("handles_open", -len(self._handles))
        self._closed = True

    def _greet(self, request_id: int, message: m.Message) -> None:
        hello = greeting.accept_hello(message, "ingest")
        if hello.cluster and not is_name(hello.cluster.encode()):
            raise ProtocolError(
                f"a default cluster of {len(hello.cluster.encode())} bytes: expected a name of 1 to"
                f" {limits.NAME_BYTES_MAX} bytes without control characters"
            )
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
        # A full store refuses while what it took before waits: who has written nothing need not wait for that.
        self._reply(request_id, self.ack if tally.written else None, reply)

    def _lines(self, request_id: int, message: m.Lines) -> Replies:
        state = LineState(self.cluster, self._precision(message.precision))
        data = message.data if isinstance(message.data, bytes) else memoryview(message.data)
        try:
            rest = yield from self._engine.take_lines(data, state, final=True)
        except MstoreError as error:
            if not state.exact or not state.tally.total:
                raise
            # The batches before are in the ring: the answer says so, and as reliably as Written would.
            failed = m.Error.of(error)
            failed.details.update(state.tally.details(self.ack is Ack.DURABLE))
            self._reply(request_id, self.ack if state.tally.written else None, failed)
            return
        assert not rest, "with final, every byte is used"
        self._written(request_id, state.tally)

    def _open(self, request_id: int, message: m.Open) -> Replies:
        n = len(self._handles) + len(message.series)
        if n > limits.HANDLES_PER_CONNECTION_MAX:
            raise LimitExceeded(
                f"{n} handles on one connection; at most {limits.HANDLES_PER_CONNECTION_MAX}",
                limit=limits.HANDLES_PER_CONNECTION_MAX,
            )
        paths, specs = message.series, _check_specs(message.series, message.specs)
        found = yield NeedPaths(paths, np.full(len(paths), LOOK_UP_ONLY, dtype=np.int64).tobytes(), specs)
        refs = np.frombuffer(found.refs, dtype=np.uint64)
        errors = _refusals(refs)
        handles = self._handles.add(paths, specs, refs, found.types, found.kinds).astype("<u4")
        handles[[i for i, _ in errors]] = m.HANDLE_NONE
        if not self._closed:
            self._engine.slot.add("handles_open", len(paths))
        self._reply(request_id, None, m.Opened(handles.tobytes(), found.types, errors))

    def _columns(self, request_id: int, message: m.Columns) -> Replies:
        handles = _array(message.handles, "<u4", "handles")
        times = _array(message.times, "<i8", "times")
        n, size = len(handles) * len(times), m.TYPE_BYTES[message.type]
        if n > limits.COLUMNS_VALUES_MAX:
            raise LimitExceeded(
                f"{n} values in one message; at most {limits.COLUMNS_VALUES_MAX}",
                limit=limits.COLUMNS_VALUES_MAX,
            )
        if len(message.values) != n * size:
            raise InvalidRequest(
                f"{len(message.values)} bytes of values for {len(times)} times x {len(handles)} series of {size} bytes"
            )
        known = self._handles.known(handles, message.type, layout.KIND_GRID)
        if known is None:
            self._handles.check(handles, message.type, layout.KIND_GRID)
        self._refuse_if_full()
        tally = Tally()
        times, values = self._within_window(times, message.values, len(handles) * size, len(handles), tally)
        if n and len(times):
            yield from self._engine.enter_in_turn()
            try:
                # SYNC POINT (full) worker-epoch: in its epoch the worker sees the count of every series hidden before.
                if known is not None and known.lapses == self._engine.directory.lapses():
                    refs = known.refs
                else:
                    first = _first_values(times, values, message.type, len(handles))
                    refs = yield from self._current(handles, first, message.type, layout.KIND_GRID)
                    refs, values = _without_refused(refs, values, len(times), size, tally)
                values, n_blank = self._within_reach(refs, times, values, message.type, tally)
                yield from self._encode(ColumnEncoder(refs, times, values, message.type), tally, n_blank)
            finally:
                self._engine.leave()
        if n:
            self._engine.count(0, tally.written, tally.counts)
        self._written(request_id, tally)

    def _refuse_if_full(self) -> None:
        if self._engine.full():
            raise StoreFull("the store has no room and nothing it may evict: free memory or raise memory_cap")

    def _within_reach(
        self, refs: NDArray[np.uint64], times: NDArray[np.int64], values: Bin, vtype: int, tally: Tally
    ) -> tuple[Bin, int]:
        """The values with those blanked that are too old for their series, which are counted; how many.

        Too old is what retention does not keep, and what the series could not hold beside its newest sample.
        """
        engine = self._engine
        _, _, newest = engine.window()
        late = bool(engine.rules.own_retentions_s) and int(times.min()) < engine.may_be_late()
        if reach.all_within(times, newest) and not late:
            return values, 0
        oldest = reach.oldest_s(engine.steps(refs), newest)
        if late:
            oldest = np.maximum(oldest, engine.kept_from_s(refs))
        values, n_blank = reach.without_older(times, oldest, values, vtype)
        tally.refuse(Reason.TOO_LATE, n_blank)
        return values, n_blank

    def _encode(self, encoder: ColumnEncoder | RowEncoder, tally: Tally, n_blank: int = 0) -> Replies:
        """n_blank: values that are missing because they were counted already."""
        while not encoder.encode(self._engine.ring):
            self._engine.publish()
            yield NEED_ROOM
        self._engine.publish()
        tally.counts[0] += encoder.n_written
        tally.refuse(Reason.BAD_VALUE, encoder.n_bad - n_blank)

    def _rows(self, request_id: int, message: m.Rows) -> Replies:
        handles = np.array([message.handle], dtype=np.uint32)
        stamps = _array(message.stamps, "<i8", "stamps")
        if len(stamps) > limits.RUN_VALUES_MAX:
            raise LimitExceeded(
                f"{len(stamps)} rows in one message; at most {limits.RUN_VALUES_MAX}",
                limit=limits.RUN_VALUES_MAX,
            )
        row_bytes = len(message.values) // len(stamps) if len(stamps) else 0
        if len(message.values) != row_bytes * len(stamps) or row_bytes % 8 or (len(stamps) and not row_bytes):
            raise InvalidRequest(
                f"{len(message.values)} bytes of values for {len(stamps)} rows of 8-byte words"
            )
        self._handles.check(handles, None, layout.KIND_STAMPED)
        self._refuse_if_full()
        tally, n_columns = Tally(), row_bytes // 8
        stamps, values = self._within_window(stamps, message.values, row_bytes, 1, tally, per_s=1000)
        if len(stamps):
            yield from self._engine.enter_in_turn()
            try:
                earliest = np.array([int(stamps.min()) // 1000])
                refs = yield from self._current(handles, lambda: earliest, None, layout.KIND_STAMPED)
                refs, values = _without_refused(refs, values, len(stamps), row_bytes, tally)
                if len(refs) and self._engine.rules.own_retentions_s:
                    late = stamps // 1000 < int(self._engine.kept_from_s(refs)[0])
                    tally.refuse(Reason.TOO_LATE, int(late.sum()))
                    stamps, values = _without_rows(stamps, values, row_bytes, late)
                if len(refs) and len(stamps):
                    types = self._column_types(int(refs[0]), n_columns)
                    yield from self._encode(RowEncoder(int(refs[0]), stamps, values, types), tally)
            finally:
                self._engine.leave()
        if row_bytes:
            self._engine.count(0, tally.written * n_columns, tally.counts)
        self._written(request_id, tally)

    def _column_types(self, ref: int, n_columns: int) -> bytes:
        """The value type of each column of a stamped series. raises InvalidRequest if it has another number of them"""
        directory = self._engine.directory
        series = directory.series(ref & 0xFFFF_FFFF)
        assert series is not None, "no series goes away while its reference is in hand"
        if series.n_columns != n_columns:
            raise InvalidRequest(
                f"rows of {n_columns} columns of 8 bytes; this series has {series.n_columns}",
                columns=series.n_columns,
            )
        columns = directory.metric(series.metric).columns
        if len(columns) == n_columns:
            return bytes(layout.TYPE_U64 if kind == "u64" else layout.TYPE_F64 for _, kind in columns)
        return bytes([series.type or layout.TYPE_F64] * n_columns)

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
        negative, late, ahead = times < 0, times < oldest * per_s, times >= (newest + 1) * per_s
        refused = negative | late | ahead
        if not refused.any():
            return times, values
        tally.refuse(Reason.BAD_TIMESTAMP, int(negative.sum()) * row_samples)
        tally.refuse(Reason.TOO_LATE, int((late & ~negative).sum()) * row_samples)
        tally.refuse(Reason.TOO_FAR_AHEAD, int(ahead.sum()) * row_samples)
        return _without_rows(times, values, row_bytes, refused)

    def _current(
        self, handles: NDArray[np.uint32], first: Firsts, vtype: int | None, kind: int
    ) -> Generator[Effect, Any, NDArray[np.uint64]]:
        """References of the handles as of now; ignore words for the refused.

        Opening a handle creates nothing: the first sample does, because its time fixes the grid's anchor. So new
        handles, and those whose series was removed meanwhile, are interned here; one whose samples are all missing
        stays as it is.

        first  the time of the first sample of each handle, NEVER where there is none
        """
        refs, stale = self._handles.look(handles, vtype, kind, self._engine.directory)
        if not len(stale):
            return refs
        times = first()
        stale = stale[times[stale] != NEVER]
        if not len(stale):
            return refs
        paths, specs = self._handles.paths(handles[stale])
        found = yield NeedPaths(paths, times[stale].astype("<i8").tobytes(), specs)
        self._handles.renew(handles[stale], np.frombuffer(found.refs, "<u8"), found.types, found.kinds)
        self._handles.check(handles, vtype, kind)
        refs = self._handles.refs(handles)
        refs[stale] = np.frombuffer(found.refs, "<u8")
        return refs


def _array(data: Bin, dtype: str, name: str) -> NDArray[Any]:
    """A bin field as an array, aligned. raises InvalidRequest unless its length is whole"""
    size = np.dtype(dtype).itemsize
    if len(data) % size:
        raise InvalidRequest(f"{len(data)} bytes of {name}: expected a multiple of {size}")
    return np.require(np.frombuffer(data, dtype=dtype), requirements="A")


def _first_values(times: NDArray[np.int64], values: Bin, vtype: int, n: int) -> Firsts:
    """For each of n series: the earliest time at which it has a value, NEVER if it has none."""

    def find() -> NDArray[np.int64]:
        matrix = np.frombuffer(values, dtype=_DTYPES[vtype]).reshape(len(times), n)
        found = np.full(n, NEVER, dtype=np.int64)
        for t, row in zip(times.tolist(), matrix, strict=True):
            there = row != layout.U64_MISSING if vtype == layout.TYPE_U64 else np.isfinite(row)
            np.minimum(found, t, out=found, where=there)
        return found

    return find


def _without_refused(
    refs: NDArray[np.uint64], values: Bin, n_times: int, size: int, tally: Tally
) -> tuple[NDArray[np.uint64], Bin]:
    """Only the series that are not refused, and their columns of the matrix; the others' samples are counted."""
    ignored = refs & np.uint64(0xFFFF_FFFF) == layout.IGNORE_SLOT
    if not ignored.any():
        return refs, values
    for reason, count in enumerate(np.bincount((refs[ignored] >> np.uint64(56)).astype(np.int64))):
        tally.refuse(reason, int(count) * n_times)
    matrix = np.frombuffer(values, dtype=np.dtype(f"V{size}")).reshape(n_times, len(refs))
    return refs[~ignored], matrix[:, ~ignored].tobytes()


def _without_rows(
    times: NDArray[np.int64], values: Bin, row_bytes: int, refused: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], Bin]:
    """Times and rows without those that are refused."""
    rows = np.frombuffer(values, dtype=np.uint8).reshape(len(times), row_bytes)
    return times[~refused], rows[~refused].tobytes()


def _check_specs(series: list[Any], specs: list[Any] | None) -> list[Any] | None:
    if specs is not None and len(specs) == 1:
        specs = specs * len(series)
    if specs is not None and len(specs) != len(series):
        raise InvalidRequest(
            f"{len(specs)} specs for {len(series)} series: send one for all, one each, or nil"
        )
    return specs


def _refusals(refs: NDArray[np.uint64]) -> list[list[Any]]:
    """[index, reason] of every entry that is an ignore word."""
    ignored = np.flatnonzero(refs & np.uint64(0xFFFF_FFFF) == layout.IGNORE_SLOT)
    return [[int(i), Reason(int(refs[i]) >> 56).public] for i in ignored]
