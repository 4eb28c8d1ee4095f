"""Files of the archive -> the rows of a question, part by part.

    manifest -> parts that reach into the range -> the table of series: which of them are asked for
             -> row groups whose statistics may hold them -> rows of these series

A part that cannot be read is an ArchiveError that names the file; the others are read all the same.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.archive import names, schema
from mstore.archive.arrow import footer_checksum, pa, pc, pq
from mstore.archive.lives import FIRST, Life, column_types
from mstore.archive.manifest import Manifest, Part, read_manifest
from mstore.archive.scope import Scope
from mstore.errors import ArchiveError, StorageError
from mstore.model import SeriesPath
from mstore.persistence.files import ReadOnly
from mstore.shm import layout
from mstore.shm.directory import MetricInfo

_BATCH_ROWS = 1 << 16
_FOOTERS_MAX = 256
"""Files' footers that are kept, and small tables: a month's of an archive with eight parts a day."""
_TABLE_ROWS_MAX = 20_000
_TYPES = {name: code for code, name in layout.TYPE_NAMES.items()}
_ORIGINS = {"configured": layout.ORIGIN_CONFIGURED, "registered": layout.ORIGIN_REGISTERED}


_Key = tuple[str, int, int]


@dataclass(slots=True)
class Samples:
    """Rows of one part; `life[i]` is the place of row i's series in `lives`.

    key_ms  int64[n]: nominal time, or the stamp of a stamped row
    value   float32[n], of f32 series
    word    uint64[n]: the bits of f64 and u64 values, 2^64-1 = missing
    column  int64[n]: which column of a stamped row
    """

    lives: list[Life]
    life: NDArray[np.int64]
    key_ms: NDArray[np.int64]
    value: NDArray[np.float32]
    word: NDArray[np.uint64]
    column: NDArray[np.int64]


class ArchiveFiles:
    """The archive at `root`, read-only. What is kept between questions is checked against the files each time."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._manifests: dict[str, tuple[tuple[int, ...], Manifest]] = {}
        self._footers: OrderedDict[_Key, Any] = OrderedDict()
        self._tables: OrderedDict[_Key, Any] = OrderedDict()

    def manifest(self, cluster: str) -> Manifest | None:
        """As it is now; None when nothing of the cluster is archived. raises ArchiveError, StorageError"""
        try:
            status = os.stat(names.manifest_path(self.root, cluster))
        except FileNotFoundError:
            return None
        except OSError as error:
            raise ArchiveError(f"the archive at {self.root} cannot be read: {error.strerror}") from error
        mark = (status.st_ino, status.st_mtime_ns, status.st_size)
        kept = self._manifests.get(cluster)
        if kept is None or kept[0] != mark:
            found = read_manifest(ReadOnly(), self.root, cluster)
            if found is None:
                return None
            kept = self._manifests[cluster] = mark, found
        return kept[1]

    def has_deleted(self, cluster: str, part: Part) -> bool:
        """Whether the part's day has left the archive by now: then nothing is missing that a question of now would find."""
        try:
            manifest = self.manifest(cluster)
        except (ArchiveError, StorageError):
            return False
        return manifest is not None and part.day < manifest.first_day

    def metrics(self, cluster: str, part: Part) -> list[MetricInfo]:
        """Definitions of the metrics that a part has samples of, without index and cluster. raises ArchiveError"""
        return [_metric(row) for row in self._table(cluster, part, names.METRICS, schema.METRICS).to_pylist()]

    def lives(self, scope: Scope, part: Part) -> list[Life]:
        """The series of a part that a scope asks for. raises ArchiveError"""
        table = self._table(scope.cluster, part, names.SERIES, schema.SERIES)
        return [_life(row) for row in _chosen(table, scope).to_pylist()]

    def samples(self, scope: Scope, part: Part, lives: list[Life], limit: int) -> Iterator[Samples]:
        """Rows of these series in [start, end) of the scope, in pieces.

        limit   rows at most; more end with a piece that has more
        raises  ArchiveError
        """
        path = names.part_path(self.root, scope.cluster, part.day, part.number)
        wanted_crc = part.footers.get(names.SAMPLES)
        defined = {info.name: info.columns for info in self.metrics(scope.cluster, part)} if lives else {}
        rows = _Rows(lives, defined)
        n = 0
        with _told(path):
            file = self._open(path, wanted_crc)
            groups = [
                group
                for group in range(file.metadata.num_row_groups)
                if _may_hold(file.metadata.row_group(group), scope)
            ]
            if not lives or not groups:
                return
            n_left = sum(file.metadata.row_group(group).num_rows for group in groups)
            for batch in file.iter_batches(_BATCH_ROWS, row_groups=groups, columns=rows.columns):
                n_left -= batch.num_rows
                found = rows.of(batch, scope.start, scope.end)
                if len(found.life):
                    n += len(found.life)
                    yield found
                if n > limit:
                    return
            # Pages have checksums, their headers have none: one that is damaged may be passed over as of a kind unknown.
            if n_left:
                raise ValueError(f"{n_left} rows fewer came than its footer tells")

    def _table(self, cluster: str, part: Part, table: str, columns: Any) -> Any:
        path = names.part_path(self.root, cluster, part.day, part.number, table)
        with _told(path):
            key = _key(path)
            if (kept := self._tables.get(key)) is not None:
                self._tables.move_to_end(key)
                return kept
            found = self._open(path, part.footers.get(table)).read().cast(columns)
        if found.num_rows <= _TABLE_ROWS_MAX:
            self._tables[key] = found
            if len(self._tables) > _FOOTERS_MAX:
                self._tables.popitem(last=False)
        return found

    def _open(self, path: Path, checksum: int | None) -> Any:
        key = _key(path)
        if key not in self._footers and checksum is not None and footer_checksum(path) != checksum:
            raise ValueError("the checksum of its footer does not fit the manifest's")
        file = pq.ParquetFile(
            path, metadata=self._footers.get(key), memory_map=True, page_checksum_verification=True
        )
        self._footers[key] = file.metadata
        self._footers.move_to_end(key)
        if len(self._footers) > _FOOTERS_MAX:
            self._footers.popitem(last=False)
        return file


def _key(path: Path) -> _Key:
    """What a file is known by as long as nobody replaces it. raises OSError"""
    status = path.stat()
    return str(path), status.st_ino, status.st_mtime_ns


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Whatever keeps a file from being read becomes an ArchiveError that names it."""
    try:
        yield
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        why = str(error).split("\n")[0] or type(error).__name__
        raise ArchiveError(f"{path} cannot be read: {why}", path=str(path)) from error


def _may_hold(group: Any, scope: Scope) -> bool:
    """Whether a row group's statistics leave room for anything that the scope asks for."""

    def bounds(name: str) -> tuple[Any, Any] | None:
        found = group.column(schema.SAMPLES.get_field_index(name)).statistics
        return (found.min, found.max) if found is not None and found.has_min_max else None

    times = bounds("timestamp")
    if times is not None and (times[0] >= scope.end or times[1] < scope.start):
        return False
    for name, wanted in (("hostname", scope.hosts), ("metric", scope.metrics)):
        texts = bounds(name)
        if (
            wanted is not None
            and texts is not None
            and not any(texts[0] <= one <= texts[1] for one in wanted)
        ):
            return False
    return True


def _chosen(table: Any, scope: Scope) -> Any:
    for name, wanted in (("hostname", scope.hosts), ("metric", scope.metrics)):
        if wanted is not None:
            table = table.filter(pc.is_in(table[name], value_set=pa.array(sorted(wanted), pa.string())))
    return table


def _life(row: dict[str, Any]) -> Life:
    path = SeriesPath(
        row["cluster"],
        row["hostname"],
        row["metric"],
        row["type"],
        row["type_id"],
        row["subtype"],
        row["subtype_id"],
    )
    kind = layout.KIND_GRID if row["kind"] == "grid" else layout.KIND_STAMPED
    start = FIRST if row["life_start"] is None else row["life_start"]
    return Life(
        path, row["series"], kind, _TYPES.get(row["value_type"], 0), row["n_columns"], row["anchor"],
        row["frequency"], start,
    )  # fmt: skip


def _metric(row: dict[str, Any]) -> MetricInfo:
    pairs = [part.rpartition(":") for part in row["columns"].split(",")] if row["columns"] else []
    columns = tuple((name, kind) for name, _, kind in pairs)
    kind = layout.KIND_GRID if row["frequency"] else layout.KIND_STAMPED
    origin = _ORIGINS.get(row["origin"], layout.ORIGIN_CLIENT)
    return MetricInfo(
        0, 0, row["metric"], row["frequency"], row["unit"], row["aggregation"], row["value_type"], kind, columns,
        max(1, len(columns)), origin, -1,
    )  # fmt: skip


class _Rows:
    """Batches of a file -> Samples of the series that are asked for."""

    def __init__(self, lives: list[Life], defined: dict[str, tuple[tuple[str, str], ...]]) -> None:
        self._lives = lives
        refs = np.array([life.ref for life in lives], np.uint64)
        self._order = np.argsort(refs)
        self._refs = refs[self._order]
        self._stamped = np.array([life.kind == layout.KIND_STAMPED for life in lives], np.bool_)
        self._places = {
            (place, name): number
            for place, life in enumerate(lives)
            if life.n_columns > 1
            for number, (name, _) in enumerate(
                column_types(defined.get(life.path.metric, ()), life.n_columns)
            )
        }
        self.columns = ["timestamp", "series", "value", "value_f64", "value_u64"]
        if self._stamped.any():
            self.columns += ["stamp_ms", "column"]

    def of(self, batch: Any, start: int, end: int) -> Samples:
        refs = batch.column("series").to_numpy()
        at = np.minimum(np.searchsorted(self._refs, refs), len(self._refs) - 1)
        times = batch.column("timestamp").to_numpy()
        kept = np.flatnonzero((self._refs[at] == refs) & (times >= start) & (times < end))
        life = self._order[at[kept]]
        key_ms = times[kept] * 1000
        column = np.zeros(len(kept), np.int64)
        if self._stamped.any() and len(kept):
            batch = batch.take(pa.array(kept))
            stamped = self._stamped[life]
            key_ms[stamped] = batch.column("stamp_ms").to_numpy(zero_copy_only=False)[stamped]
            column = self._columns_of(batch, life)
            kept = np.arange(len(kept))
        wide = batch.column("value_f64")
        word = wide.fill_null(np.nan).to_numpy(zero_copy_only=False).view(np.uint64)[kept].copy()
        whole = batch.column("value_u64").is_valid().to_numpy(zero_copy_only=False)[kept]
        is_null = ~whole & ~wide.is_valid().to_numpy(zero_copy_only=False)[kept]
        numbers = batch.column("value_u64").fill_null(0).to_numpy(zero_copy_only=False)[kept]
        word[whole] = numbers[whole]
        word[is_null] = layout.U64_MISSING
        value = batch.column("value").to_numpy()[kept].copy()
        return Samples(self._lives, life, key_ms, value, word, column)

    def _columns_of(self, batch: Any, life: NDArray[np.int64]) -> NDArray[np.int64]:
        texts = batch.column("column").to_pylist()
        found = (self._places.get((place, text), 0) for place, text in zip(life.tolist(), texts, strict=True))
        return np.fromiter(found, np.int64, len(texts))
