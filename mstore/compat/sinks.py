"""Where an export goes: one class a format, each fed host by host, and files that appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Protocol, TypeAlias

import numpy as np

from mstore.compat import bin_snapshot, json_checkpoint, wal
from mstore.compat.contents import Checkpoint, Points, Stretch
from mstore.compat.parquet import ParquetWriter, Rows
from mstore.compat.walk import WAL_NAME
from mstore.errors import MstoreError, StorageError
from mstore.model import SeriesPath
from mstore.persistence.files import TMP_SUFFIX, Files

LEFT_OUT_TOLD = 20
WINDOW_S = 12 * 3600
"""Of one checkpoint: what the reference writes by default."""
VALUES_MAX = 4_000_000
"""In one checkpoint; a host with more gets more files. JSON takes 100 bytes of memory for each while it is written."""
_WINDOW_S_MIN = 600
_LOG_PIECE_S = 3600


@dataclass(slots=True)
class Exported:
    """What an export wrote, and what it left out or changed."""

    clusters: set[str] = field(default_factory=set)
    n_hosts: int = 0
    n_series: int = 0
    n_samples: int = 0
    n_files: int = 0
    n_bytes: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    """How many of what was left out or changed."""
    left_out: list[str] = field(default_factory=list)
    """Clusters and hosts that no directory can be called, quoted; the first LEFT_OUT_TOLD of them."""

    def add(self, other: Exported) -> None:
        """As of one export after the other: hosts and series are those of the one that had most."""
        self.clusters |= other.clusters
        self.n_hosts, self.n_series = max(self.n_hosts, other.n_hosts), max(self.n_series, other.n_series)
        self.n_samples += other.n_samples
        self.left_out = sorted({*self.left_out, *other.left_out})[:LEFT_OUT_TOLD]
        self.n_files += other.n_files
        self.n_bytes += other.n_bytes
        self.notes = Counter(
            {text: max(self.notes[text], other.notes[text]) for text in self.notes | other.notes}
        )

    def to_plain(self) -> dict[str, Any]:
        """For --json and `mstore info`."""
        return {
            "clusters": len(self.clusters), "hosts": self.n_hosts, "series": self.n_series,
            "samples": self.n_samples, "files": self.n_files, "bytes": self.n_bytes,
            "notes": {text: n for text, n in self.notes.items() if n}, "left_out": self.left_out,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Piece:
    """Samples of one series in one window."""

    path: SeriesPath
    stretch: Stretch


Gather: TypeAlias = Callable[[Sequence[SeriesPath], int, int], list[Piece]]
"""What there is of some series in [start, end)."""


class Sink(Protocol):
    """Takes the hosts of one cluster after the other, in the order of their names."""

    def cluster(self, cluster: str) -> contextlib.AbstractContextManager[None]: ...
    def host(self, cluster: str, host: str, paths: Sequence[SeriesPath], gather: Gather) -> None: ...


@dataclass(slots=True)
class Target:
    """A directory, and what is written there."""

    directory: Path
    start: int
    end: int
    window_s: int
    files: Files
    done: Exported

    def count(self, pieces: Sequence[Piece]) -> None:
        self.done.n_samples += sum(int(np.count_nonzero(~np.isnan(one.stretch.values))) for one in pieces)

    def put(self, path: Path, content: bytes) -> None:
        """A file with this content."""
        self.files.mkdir(path.parent)
        self.files.replace(path, content)
        self._count_file(len(content))

    @contextlib.contextmanager
    def growing(self, path: Path) -> Iterator[IO[bytes]]:
        """A file under another name, which becomes `path` when the block ends without an error and wrote samples."""
        n_before = self.done.n_samples
        tmp = path.with_name(path.name + TMP_SUFFIX)
        self.files.mkdir(path.parent)
        self.files.unlink(tmp)
        fd = self.files.create(tmp)
        whole = False
        try:
            with open(fd, "wb", closefd=False) as sink:
                yield sink
            if self.done.n_samples > n_before:
                self.files.fdatasync(fd)
                self._count_file(self.files.size(fd))
                whole = True
        except MstoreError:
            raise
        except OSError as failure:
            raise StorageError(
                f"cannot write {tmp}: {failure.strerror or failure}", path=str(tmp)
            ) from failure
        finally:
            self.files.close(fd)
            if not whole:
                with contextlib.suppress(StorageError):
                    self.files.unlink(tmp)
        if whole:
            self.files.rename(tmp, path)
            self.files.sync_path(path.parent)

    def _count_file(self, n_bytes: int) -> None:
        self.done.n_files += 1
        self.done.n_bytes += n_bytes


class Checkpoints:
    """json and bin: a file for each host and window, cut at multiples of the window: the same files every time."""

    def __init__(self, target: Target, suffix: str, write: Callable[[Checkpoint], bytes]) -> None:
        self._target = target
        self._suffix = suffix
        self._write = write

    def cluster(self, cluster: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def host(self, cluster: str, host: str, paths: Sequence[SeriesPath], gather: Gather) -> None:
        windows = list(self._windows())
        while windows:
            start, end = windows.pop(0)
            pieces = gather(paths, start, end)
            if sum(len(one.stretch.values) for one in pieces) > VALUES_MAX and end - start > _WINDOW_S_MIN:
                middle = (start + end) // 2
                windows[:0] = [(start, middle), (middle, end)]
            elif pieces:
                path = self._target.directory / cluster / host / f"{start}.{self._suffix}"
                content = self._write(Checkpoint(start, end, [one.stretch for one in pieces]))
                self._target.count(pieces)
                self._target.put(path, content)

    def _windows(self) -> Iterator[tuple[int, int]]:
        start, window_s = self._target.start, self._target.window_s
        while start < self._target.end:
            stop = min(self._target.end, (start // window_s + 1) * window_s)
            yield start, stop
            start = stop


class Logs:
    """wal: a log for each host."""

    def __init__(self, target: Target) -> None:
        self._target = target

    def cluster(self, cluster: str) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def host(self, cluster: str, host: str, paths: Sequence[SeriesPath], gather: Gather) -> None:
        target = self._target
        with target.growing(target.directory / cluster / host / WAL_NAME) as sink:
            sink.write(wal.HEADER)
            for start in range(target.start, target.end, _LOG_PIECE_S):
                pieces = gather(paths, start, min(target.end, start + _LOG_PIECE_S))
                target.count(pieces)
                sink.write(wal.records(_points(one.stretch) for one in pieces))


class Parquet:
    """parquet: a file for each cluster."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._writer: ParquetWriter | None = None

    @contextlib.contextmanager
    def cluster(self, cluster: str) -> Iterator[None]:
        target = self._target
        path = target.directory / cluster / f"{target.start}.parquet"
        with (
            target.growing(path) as sink,
            contextlib.closing(ParquetWriter(sink, cluster)) as self._writer,
        ):
            yield

    def host(self, cluster: str, host: str, paths: Sequence[SeriesPath], gather: Gather) -> None:
        assert self._writer is not None, "within cluster()"
        for metric in sorted({path.metric for path in paths}):
            mine = [path for path in paths if path.metric == metric]
            if pieces := gather(mine, self._target.start, self._target.end):
                self._target.count(pieces)
                self._writer.add(host, metric, [_rows(one) for one in pieces])


def _points(stretch: Stretch) -> Points:
    there = np.flatnonzero(~np.isnan(stretch.values))
    times = stretch.start + stretch.step_s * there.astype(np.int64)
    return Points(stretch.levels, stretch.metric, times, stretch.values[there])


def _rows(piece: Piece) -> Rows:
    path, points = piece.path, _points(piece.stretch)
    return Rows(
        path.cluster,
        path.host,
        path.levels()[1:],
        path.metric,
        piece.stretch.step_s,
        points.times,
        points.values,
    )


SINKS: dict[str, Callable[[Target], Sink]] = {
    "json": lambda target: Checkpoints(target, "json", json_checkpoint.write_json),
    "bin": lambda target: Checkpoints(target, "bin", bin_snapshot.write_bin),
    "wal": Logs,
    "parquet": Parquet,
}
