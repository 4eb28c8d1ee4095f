"""Parquet as the reference's archive has it: one row a sample, read and written in pieces. Needs pyarrow.

    cluster hostname metric scope scope_id  string | timestamp frequency  int64 | value  float     all required

The host itself is scope "node" with an empty scope_id. Below an accelerator or socket the reference keeps the inner
level alone; parent_scope and parent_scope_id, which readers of the eight columns pass over, keep the outer one.
Columns that mstore's own archive adds (values of other types, partitions in directory names) are read, too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mstore.compat.contents import STEP_S_MAX
from mstore.compat.names import Part, scope, split
from mstore.errors import CorruptRecord, InvalidRequest
from mstore.times import SECONDS_MAX, SECONDS_MIN

if TYPE_CHECKING:
    import pyarrow as pa

NODE = "node"
SORTED_BY = ("cluster", "hostname", "metric", "timestamp")
_TEXTS = ("cluster", "hostname", "metric", "scope", "scope_id")
_PARENTS = ("parent_scope", "parent_scope_id")
_NUMBERS = ("timestamp", "frequency", "value")
_WIDE = ("value_f64", "value_u64")
_REFUSALS = (OSError, ValueError, TypeError, KeyError, NotImplementedError, MemoryError)
"""What pyarrow raises for files that are damaged: its own errors are among these."""
_ROWS_A_PIECE = 1 << 20
_ROWS_A_GROUP = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Samples of one series, in the order of the file."""

    cluster: str
    host: str
    levels: tuple[Part, ...]
    """(type, id) of each level below the host, outermost first."""
    metric: str
    step_s: int
    times: NDArray[Any]
    """int64[n], Unix seconds."""
    values: NDArray[Any]
    """float32, float64 or uint64 [n]."""


def read_parquet(path: Path, cluster: str = "") -> Iterator[list[Rows]]:
    """The samples of a file, a million rows at a time.

    cluster  of a file without that column: its directory's
    raises   CorruptRecord for what is no Parquet, or another table; InvalidRequest without pyarrow
    """
    arrow = _arrow()
    try:
        with open(path, "rb") as raw, arrow.ParquetFile(raw) as file:
            names = file.schema_arrow.names
            _check_columns(path, names, cluster)
            wanted = [name for name in (*_TEXTS, *_PARENTS, *_NUMBERS, *_WIDE) if name in names]
            for batch in file.iter_batches(_ROWS_A_PIECE, columns=wanted):
                yield list(_series(path, batch, cluster))
    except _REFUSALS as error:
        raise CorruptRecord(
            f"{path}: no Parquet table of samples: {' '.join(str(error).split())}", path=str(path), offset=0
        ) from error


class ParquetWriter:
    """Writes one cluster's rows in the order of host, metric and time, a million to a row group.

    sink  a binary file; it stays open
    """

    def __init__(self, sink: IO[bytes], cluster: str) -> None:
        arrow = _arrow()
        import pyarrow as pa

        self._cluster = cluster
        self._schema = _schema(pa)
        order = arrow.SortingColumn.from_ordering(self._schema, [(name, "ascending") for name in SORTED_BY])
        self._writer = arrow.ParquetWriter(sink, self._schema, compression="zstd", sorting_columns=order)
        self._waiting: list[pa.Table] = []
        self._n_waiting = 0

    def add(self, host: str, metric: str, found: Sequence[Rows]) -> None:
        """All series of one metric of a host; hosts, and metrics of a host, come in the order of their names.

        Values become float32.
        """
        self._waiting.append(self._table(host, metric, found))
        self._n_waiting += self._waiting[-1].num_rows
        if self._n_waiting >= _ROWS_A_GROUP:
            self._write()

    def close(self) -> None:
        """What was added is in the sink, and the file is whole."""
        self._write()
        self._writer.close()

    def _write(self) -> None:
        import pyarrow as pa

        if self._n_waiting:
            self._writer.write_table(pa.concat_tables(self._waiting), _ROWS_A_GROUP)
        self._waiting, self._n_waiting = [], 0

    def _table(self, host: str, metric: str, found: Sequence[Rows]) -> pa.Table:
        import pyarrow as pa

        labelled = sorted(((_labels(rows), rows) for rows in found), key=lambda one: one[0])
        counts = [len(rows.times) for _, rows in labelled]
        times = np.concatenate([rows.times for _, rows in labelled])
        order = np.argsort(times, kind="stable")
        with np.errstate(over="ignore"):
            values = np.concatenate([rows.values.astype(np.float32) for _, rows in labelled])
        whose = np.repeat(np.arange(len(labelled), dtype=np.int32), counts)[order]
        n = len(times)
        columns: dict[str, Any] = {
            "cluster": pa.repeat(self._cluster, n),
            "hostname": pa.repeat(host, n),
            "metric": pa.repeat(metric, n),
            "timestamp": times[order],
            "frequency": np.repeat([rows.step_s for _, rows in labelled], counts).astype(np.int64)[order],
            "value": values[order],
        }
        for k, name in enumerate((*_TEXTS[3:], *_PARENTS)):
            words = pa.array([labels[k] for labels, _ in labelled], pa.string())
            columns[name] = pa.DictionaryArray.from_arrays(whose, words).dictionary_decode()
        return pa.table([columns[name] for name in self._schema.names], schema=self._schema)


def _schema(pa: ModuleType) -> pa.Schema:
    kinds = {"timestamp": pa.int64(), "frequency": pa.int64(), "value": pa.float32()}
    names = (*_TEXTS, "timestamp", "frequency", "value", *_PARENTS)
    return pa.schema([pa.field(name, kinds.get(name, pa.string()), nullable=False) for name in names])


def _labels(rows: Rows) -> tuple[str, str, str, str]:
    """scope, scope_id, parent_scope, parent_scope_id."""
    inner = scope("".join(rows.levels[-1])) if rows.levels else (NODE, "")
    outer = scope("".join(rows.levels[-2])) if len(rows.levels) > 1 else ("", "")
    return (*inner, *outer)


def _check_columns(path: Path, names: Sequence[str], cluster: str) -> None:
    needed = {*_TEXTS, *_NUMBERS} - ({"cluster"} if cluster else set())
    if missing := sorted(needed - set(names)):
        raise CorruptRecord(
            f"{path}: a table without {', '.join(missing)}: not one of samples", path=str(path), offset=0
        )


def _series(path: Path, batch: pa.RecordBatch, cluster: str) -> Iterator[Rows]:
    """The rows of a batch by series, each in the order of the rows."""
    texts = {name: _coded(batch, name) for name in (*_TEXTS, *_PARENTS)}
    steps, times = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("frequency", "timestamp"))
    _check_numbers(path, times, steps)
    values = {name: batch.column(name) for name in (*_WIDE, "value") if name in batch.schema.names}
    present = [column.is_valid().to_numpy(zero_copy_only=False) for column in values.values()]
    kinds = np.argmax([*present, np.ones(len(times), np.bool_)], axis=0)
    distinct, step_codes = np.unique(steps, return_inverse=True)
    group = _grouped([(codes, len(words)) for codes, words in texts.values()]
                     + [(step_codes, len(distinct)), (kinds, len(present) + 1)])  # fmt: skip
    order = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[order], prepend=-1))
    arrays = [_numbers(column) for column in values.values()]
    for mine in np.split(order, starts[1:]):
        first = int(mine[0]) if len(mine) else -1
        if first < 0 or kinds[first] == len(present):
            continue  # no value at all
        said = [words[codes[first]] for codes, words in texts.values()]
        yield Rows(
            said[0] or cluster, said[1], _levels(*said[3:]), said[2], int(steps[first]), times[mine],
            arrays[kinds[first]][mine],
        )  # fmt: skip


def _coded(batch: pa.RecordBatch, name: str) -> tuple[NDArray[np.int64], list[str]]:
    """Codes and what they stand for; a missing text is an empty one."""
    if name not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64), [""]
    column = batch.column(name).cast("string").dictionary_encode()
    codes = column.indices.cast("int64").fill_null(-1).to_numpy(zero_copy_only=False) + 1
    return codes, ["", *(str(word or "") for word in column.dictionary.to_pylist())]


def _grouped(columns: Sequence[tuple[NDArray[Any], int]]) -> NDArray[np.int64]:
    """One number a row, equal where all codes are. columns: codes and how many there may be, each."""
    group, size = np.zeros(len(columns[0][0]), np.int64), 1
    for codes, n in columns:
        if size * n >= 1 << 62:
            distinct, group = np.unique(group, return_inverse=True)
            size = len(distinct)
        group = group * n + codes
        size *= n
    return group


def _numbers(column: Any) -> NDArray[Any]:
    """Null is NaN, in unsigned integers 0: whoever looks knows where values are."""
    filled = column if column.null_count == 0 or column.type != "uint64" else column.fill_null(0)
    found: NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return found


def _levels(inner: str, inner_id: str, outer: str, outer_id: str) -> tuple[Part, ...]:
    """A scope without an id is a level's whole name."""
    if inner == NODE:
        return ()
    pairs = [(outer, outer_id)] if outer and outer != NODE else []
    return tuple(split(kind) if not name else (kind, name) for kind, name in (*pairs, (inner, inner_id)))


def _check_numbers(path: Path, times: NDArray[Any], steps: NDArray[Any]) -> None:
    if times.dtype.kind != "i" or steps.dtype.kind != "i":
        raise CorruptRecord(
            f"{path}: timestamp and frequency are {times.dtype} and {steps.dtype}: expected integers without nulls",
            path=str(path), offset=0,
        )  # fmt: skip
    if len(times) and not (times.min() >= SECONDS_MIN and times.max() <= SECONDS_MAX):
        raise CorruptRecord(f"{path}: timestamps are not Unix seconds", path=str(path), offset=0)
    if len(steps) and not (steps.min() >= 0 and steps.max() <= STEP_S_MAX):
        raise CorruptRecord(f"{path}: a frequency is not 0 to {STEP_S_MAX} s", path=str(path), offset=0)


def _arrow() -> ModuleType:
    try:
        return import_module("pyarrow.parquet")
    except ImportError:
        raise InvalidRequest("Parquet files need pyarrow: pip install 'mstore[archive]'") from None
