"""Rows -> the files of one part: sorted, in row groups of a bounded size, at their place whole or not at all.

_tmp/*        written, fdatasynced every few MiB so that the log's own commits stay quick
rename        tables first, then the samples that need them; fsync of the directories
"""

from __future__ import annotations

import contextlib
import io
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.archive import names, schema
from mstore.archive.arrow import footer_checksum, pa, pq
from mstore.archive.index import Group
from mstore.archive.lives import FIRST, Life
from mstore.archive.rows import Rows, together
from mstore.errors import StorageError
from mstore.limits import MIB
from mstore.persistence.files import Files
from mstore.shm import layout

ROW_GROUP_ROWS = 1 << 18
_WRITE_BYTES, _SYNC_BYTES = MIB // 4, 4 * MIB
_PAUSE_S = 0.002
_DICTIONARIES = [
    "cluster", "hostname", "metric", "scope", "scope_id", "parent_scope", "parent_scope_id", "column", "frequency",
    "series", "value", "value_f64", "value_u64",
]  # fmt: skip
"""Columns with few values, or whose values repeat; the writer goes back to plain ones where it does not pay."""
_KINDS = {layout.KIND_GRID: "grid", layout.KIND_STAMPED: "stamped"}

assert set(_DICTIONARIES) < set(schema.SAMPLES.names)


class Sink(io.RawIOBase):
    """A new file for pyarrow to write to, by way of Files: its errors are ours, and what it wrote reaches the disk."""

    def __init__(self, files: Files, path: Path, *, paced: bool) -> None:
        self._files = files
        self._paced = paced
        self._fd = -1  # what cannot be created is closed, too, when it goes
        self._fd = files.create(path)
        self._waiting = bytearray()
        self._n_written = self._n_synced = 0

    @property
    def n_bytes(self) -> int:
        return self._n_written + len(self._waiting)

    def writable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.n_bytes

    def write(self, content: Any) -> int:
        view = memoryview(content).cast("B")
        self._waiting += view
        if len(self._waiting) >= _WRITE_BYTES:
            self._write_out()
        if self._n_written - self._n_synced >= _SYNC_BYTES:
            self._sync()
            if self._paced:
                time.sleep(_PAUSE_S)
        return len(view)

    def _write_out(self) -> None:
        """pyarrow writes a header of some bytes at a time; the file system is given more."""
        self._files.pwritev(self._fd, [self._waiting], self._n_written)
        self._n_written += len(self._waiting)
        self._waiting = bytearray()

    def _sync(self) -> None:
        self._files.fdatasync(self._fd)
        self._n_synced = self._n_written

    def finish(self) -> None:
        """All of it is on the disk."""
        self._write_out()
        self._sync()
        self.close()

    def close(self) -> None:
        if not self.closed and self._fd >= 0:
            self._files.close(self._fd)
        super().close()


class TableFile:
    """One Parquet file on its way; raises StorageError from every call."""

    def __init__(
        self,
        files: Files,
        path: Path,
        columns: Any,
        *,
        level: int,
        paced: bool = False,
        rows_sorted: bool = False,
    ) -> None:
        self._sink = Sink(files, path, paced=paced)
        how: dict[str, Any] = {}
        if rows_sorted:
            how = {"sorting_columns": schema.sorting_columns(), "use_dictionary": _DICTIONARIES}
        self._writer = pq.ParquetWriter(
            self._sink,
            columns,
            compression="zstd",
            compression_level=level,
            write_page_index=True,
            write_page_checksum=True,
            **how,
        )

    def write(self, table: Any) -> None:
        self._writer.write_table(table, row_group_size=ROW_GROUP_ROWS)

    def finish(self, said: dict[str, Any]) -> int:
        """Complete and durable under its name of the moment; its bytes. said: for the file's own metadata"""
        self._writer.add_key_value_metadata({"mstore": json.dumps({"version": schema.VERSION, **said})})
        self._writer.close()
        self._sink.finish()
        return self._sink.n_bytes

    def abandon(self) -> None:
        with contextlib.suppress(Exception):
            self._writer.close()
        self._sink.close()


@dataclass(slots=True)
class _Held:
    """What a part has of one series."""

    life: Life
    index: int
    n: int
    first_ms: int
    last_ms: int


@dataclass(slots=True)
class Written:
    """A part that is complete under temporary names."""

    day: int
    n_rows: int
    n_bytes: int
    first_s: int
    last_s: int
    early: list[tuple[int, int]]
    """(first, last) second of what left memory before its time; one span or none."""
    paths: dict[str, Path]
    """By table."""

    def footers(self) -> dict[str, int]:
        """As Part has them."""
        return {table: footer_checksum(path) for table, path in self.paths.items()}


class PartWriter:
    """One part: the samples of one cluster on one day, its series and metrics.

    level   of zstd
    paced   leave the disk some time for others
    """

    def __init__(
        self, files: Files, root: Path, cluster: str, number: int, day: int, *, level: int, paced: bool
    ) -> None:
        self._files = files
        self._root = root
        self.cluster = cluster
        self.number = number
        self.day = day
        self._level = level
        stem = f"{names.partition(cluster)}.{number:010d}.{names.day_text(day)}"
        self._paths = {
            table: names.tmp_dir(root) / f"{stem}.{table}.tmp" for table in (*names.TABLES[:2], names.SAMPLES)
        }
        for path in self._paths.values():
            files.unlink(path)
        self._samples = TableFile(
            files, self._paths[names.SAMPLES], schema.SAMPLES, level=level, paced=paced, rows_sorted=True
        )
        self._buffer = _Buffer(cluster)
        self._held: dict[tuple[int, int], _Held] = {}
        self.metrics: set[int] = set()
        self.n_rows = 0
        self.first_s, self.last_s = (1 << 62), -(1 << 62)
        self._early_first_s, self._early_last_s = (1 << 62), -(1 << 62)

    @property
    def early(self) -> list[tuple[int, int]]:
        """As Written has it, so far."""
        found = self._early_first_s <= self._early_last_s
        return [(self._early_first_s, self._early_last_s)] if found else []

    def add(self, group: Group, rows: Rows) -> None:
        """Rows that follow all that were added before."""
        self.n_rows += len(rows)
        self.metrics.add(group.index)
        self.first_s = min(self.first_s, int(rows.key_ms[0]) // 1000)
        self.last_s = max(self.last_s, int(rows.key_ms[-1]) // 1000)
        if rows.early.any():
            times = rows.key_ms[rows.early]
            self._early_first_s = min(self._early_first_s, int(times[0]) // 1000)
            self._early_last_s = max(self._early_last_s, int(times[-1]) // 1000)
        self._note(group, rows)
        self._buffer.add(group, rows)
        if self._buffer.n_rows >= ROW_GROUP_ROWS:
            self._flush()

    def _flush(self) -> None:
        full, self._buffer = self._buffer, _Buffer(self.cluster)
        if full.n_rows:
            self._samples.write(full.table())

    def _note(self, group: Group, rows: Rows) -> None:
        counts = np.bincount(rows.life, minlength=len(group.lives))
        first = np.full(len(group.lives), 1 << 62, np.int64)
        last = np.full(len(group.lives), -(1 << 62), np.int64)
        np.minimum.at(first, rows.life, rows.key_ms)
        np.maximum.at(last, rows.life, rows.key_ms)
        for place in np.flatnonzero(counts).tolist():
            life = group.lives[place]
            held = self._held.setdefault(
                (life.ref, group.index), _Held(life, group.index, 0, 1 << 62, -(1 << 62))
            )
            held.n += int(counts[place])
            held.first_ms = min(held.first_ms, int(first[place]))
            held.last_ms = max(held.last_ms, int(last[place]))

    def finish(self, definitions: Any, ends: dict[int, int], said: dict[str, Any]) -> Written:
        """Complete all files under their temporary names.

        definitions  table of schema.METRICS with those of `metrics`
        ends         reference -> where its successor begins, of series that have one
        said         for the metadata of the samples' file
        """
        self._flush()
        where = {"cluster": self.cluster, "day": names.day_text(self.day), "part": self.number}
        n_bytes = self._samples.finish({**where, **said})
        tables = {names.SERIES: self._series(ends), names.METRICS: definitions}
        for table, content in tables.items():
            file = TableFile(self._files, self._paths[table], schema.BY_TABLE[table], level=self._level)
            try:
                file.write(content)
                n_bytes += file.finish(where)
            except BaseException:
                file.abandon()
                raise
        return Written(self.day, self.n_rows, n_bytes, self.first_s, self.last_s, self.early, self._paths)

    def _series(self, ends: dict[int, int]) -> Any:
        held = list(self._held.values())
        lives = [one.life for one in held]
        paths = [life.path for life in lives]
        columns: dict[str, list[Any]] = {
            "cluster": [self.cluster] * len(held),
            "hostname": [path.host for path in paths],
            "metric": [path.metric for path in paths],
            "type": [path.type for path in paths],
            "type_id": [path.type_id for path in paths],
            "subtype": [path.subtype for path in paths],
            "subtype_id": [path.subtype_id for path in paths],
            "series": [life.ref for life in lives],
            "kind": [_KINDS[life.kind] for life in lives],
            "value_type": [layout.TYPE_NAMES.get(life.type, "") for life in lives],
            "n_columns": [life.n_columns for life in lives],
            "anchor": [life.anchor_s for life in lives],
            "frequency": [life.step_s for life in lives],
            "life_start": [None if life.start == FIRST else life.start for life in lives],
            "life_end": [ends.get(life.ref) for life in lives],
            "n_samples": [one.n for one in held],
            "first": [one.first_ms // 1000 for one in held],
            "last": [one.last_ms // 1000 for one in held],
        }
        return pa.table(columns, schema=schema.SERIES)

    def abandon(self) -> None:
        """Leave nothing behind."""
        self._samples.abandon()
        for path in self._paths.values():
            with contextlib.suppress(StorageError):
                self._files.unlink(path)


def publish(files: Files, root: Path, cluster: str, number: int, written: Written) -> None:
    """Give the files of a part their names, the samples last: whoever sees them finds the tables, too."""
    for table, path in written.paths.items():
        folder = names.day_dir(root, cluster, written.day, table)
        files.mkdir(folder)
        files.rename(path, names.part_path(root, cluster, written.day, number, table))
        files.sync_path(folder)


class _Buffer:
    """Rows on their way to a row group: numbers as they came, names by their place in lists."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self.n_rows = 0
        self._pieces: list[tuple[Rows, NDArray[np.int64]]] = []
        self._hosts: list[str] = []
        self._metrics: list[str] = []
        self._lives: list[Life] = []
        self._columns: list[str | None] = []
        self._first_column: list[int] = []
        """Of each of the lives, in _columns."""

    def add(self, group: Group, rows: Rows) -> None:
        base = len(self._lives)
        for life in group.lives:
            self._lives.append(life)
            self._hosts.append(group.host)
            self._metrics.append(group.metric)
            self._first_column.append(len(self._columns))
            self._columns += [name or None for name, _ in group.columns_of(life)]
        self._pieces.append((rows, rows.life + base))
        self.n_rows += len(rows)

    def table(self) -> Any:
        """All of it, of schema.SAMPLES."""
        life = np.concatenate([place for _, place in self._pieces])
        rows = together([one for one, _ in self._pieces])
        stamped = np.array([one.step_s == 0 for one in self._lives])[life]
        scopes = [one.scope for one in self._lives]
        parents = [one.parent_scope or (None, None) for one in self._lives]
        several = np.array(self._first_column)[life] + rows.column

        def by_life(texts: list[Any], kind: Any = None) -> Any:
            return pa.array(texts, kind or pa.string()).take(pa.array(life))

        columns = {
            "cluster": pa.repeat(pa.scalar(self._cluster), len(life)),
            "hostname": by_life(self._hosts),
            "metric": by_life(self._metrics),
            "scope": by_life([scope for scope, _ in scopes]),
            "scope_id": by_life([number for _, number in scopes]),
            "timestamp": pa.array(rows.key_ms // 1000),
            "frequency": by_life([one.step_s for one in self._lives], pa.int64()),
            "value": pa.array(rows.value),
            "value_f64": pa.array(rows.word.view(np.float64), mask=rows.type != layout.TYPE_F64),
            "value_u64": pa.array(rows.word, mask=_no_u64(rows)),
            "parent_scope": by_life([scope for scope, _ in parents]),
            "parent_scope_id": by_life([number for _, number in parents]),
            "stamp_ms": pa.array(rows.key_ms, mask=~stamped),
            "column": pa.array(self._columns, pa.string()).take(pa.array(several)),
            "series": by_life([one.ref for one in self._lives], pa.uint64()),
        }
        return pa.table(columns, schema=schema.SAMPLES)


def _no_u64(rows: Rows) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (rows.type != layout.TYPE_U64) | (rows.word == layout.U64_MISSING)
    return found
