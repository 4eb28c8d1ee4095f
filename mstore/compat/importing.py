"""Files of the reference -> a store, through a client's columns with the files' own times.

Samples are written as any sender writes them: the store's rules hold, retention and definitions included, and what it
refuses is counted by reason. The same file twice changes nothing: the same samples go to the same slots.

Times of checkpoints that are half a step off are put back where the files tell (phases.py).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mstore.client.results import WriteResult
from mstore.compat.exactness import Exactness
from mstore.compat.imported import Journal, Report
from mstore.compat.names import Part
from mstore.compat.reading import Host, Samples, Troubles, samples_of, splitter
from mstore.compat.source import Asked, asked
from mstore.compat.walk import BIN, JSON, PARQUET, WAL_NAME, Found
from mstore.config import Config
from mstore.errors import CorruptRecord
from mstore.model import Metric, MetricSpec, Reason, SeriesPath
from mstore.times import SECONDS_MAX, SECONDS_MIN

_FLUSH_SAMPLES = 4_000_000
"""Written before they are waited for: a store that is killed costs at most the files of so many samples again."""
_HANDLES_MAX = 1_000_000
"""Opened by one writer; then another one is taken."""
_UNKNOWN_METRIC = Reason.UNKNOWN_METRIC.public


class WriterLike(Protocol):
    """What is needed of client.sync.Writer."""

    @property
    def refused(self) -> dict[int, str]: ...
    def open(self, series: Sequence[SeriesPath], spec: MetricSpec | None = None) -> NDArray[np.uint32]: ...
    def write(self, handles: Any, times: Any, values: Any) -> None: ...
    def flush(self) -> WriteResult: ...
    def close(self) -> None: ...


class ClientLike(Asked, Protocol):
    """What is needed of client.sync.Client."""

    def writer(self) -> WriterLike: ...
    def metrics(self, cluster: str | None = None) -> list[Metric]: ...
    def config(self) -> Config: ...


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of the files is imported, and how."""

    clusters: tuple[str, ...] = ()
    """Only these; none = all."""
    start: int = SECONDS_MIN
    end: int = SECONDS_MAX
    """Samples of [start, end), Unix seconds."""
    types: tuple[str, ...] = ()
    """Further types of levels whose ids may have any form."""
    salvage: bool = False
    """Of damaged snapshots, what stands before the damage."""


class Import:
    """One run. `report` is right after every file, also when an error ends the run.

    client  None: files are read and counted, nothing is written
    tell    called with (bytes of files done, samples found)
    """

    def __init__(
        self, client: ClientLike | None, wanted: Wanted, journal: Journal | None = None,
        tell: Callable[[int, int], None] = lambda _bytes, _samples: None,
    ) -> None:  # fmt: skip
        self.report = Report()
        self._client = client
        self._wanted = wanted
        self._journal = journal
        self._tell = tell
        self._writer: WriterLike | None = None
        self._handles: dict[SeriesPath, int] = {}
        self._n_handles = 0
        self._whose = ("", "")
        self._host = Host()
        self._unflushed: list[str] = []
        self._n_unflushed = 0
        self._steps: dict[tuple[str, str], int] = {}
        self._exactness: Exactness | None = None
        # Where unknown metrics are ignored, what the files say of them does not count either.
        self._defines = client is not None and client.config().unknown_metrics == "register"

    def run(self, files: Iterable[Found]) -> Report:
        """Import files in their order. raises what the store raises: StoreFull, Unavailable, ..."""
        n_bytes = n_samples = 0
        try:
            for found in files:
                if not self._wanted.clusters or found.cluster in (*self._wanted.clusters, ""):
                    n_samples += self._file(found)
                n_bytes += found.n_bytes
                self._tell(n_bytes, n_samples)
            self._flush()
            self._compare_steps()
        finally:
            if self._writer is not None:
                self._writer.close()
        return self.report

    def _file(self, found: Found) -> int:
        line = self._journal.line(found) if self._journal is not None else ""
        if self._journal is not None and line in self._journal:
            self.report.n_done_before += 1
            return 0
        if (found.cluster, found.host) != self._whose:
            self._next_host(found)
        n, troubles = 0, Troubles()
        clusters: set[str] = set()
        try:
            for piece in samples_of(found, self._host, troubles, salvage=self._wanted.salvage):
                kept = [one for one in map(self._within, piece) if one is not None]
                self._take(kept)
                n += sum(len(one.times) for one in kept)
                clusters.update(one.path.cluster for one in kept)
        except CorruptRecord as error:
            troubles.texts.append(error.message)
        except OSError as error:
            troubles.texts.append(f"{found.path}: {error.strerror or error}")
        self.report.damaged += [(found.path, text) for text in troubles.told()]
        for cluster in clusters:
            self.report.clusters[cluster].n_files += 1
        if not troubles.texts:
            self._unflushed.append(line)
        self._n_unflushed += n
        if self._n_unflushed >= _FLUSH_SAMPLES:
            self._flush()
        return n

    def _next_host(self, found: Found) -> None:
        self._whose = found.cluster, found.host
        self._handles.clear()
        known: dict[str, Part] = {}
        if self._client is not None and found.kind != PARQUET:
            there = self._client.host_series(found.cluster, found.host)
            known = {path.type + path.type_id: (path.type, path.type_id) for path in there}
        self._host = Host(splitter(known, self._wanted.types))
        if found.kind in (JSON, BIN):
            self._host.learn(found.path.parent / WAL_NAME)

    def _within(self, found: Samples) -> Samples | None:
        """What of it is wanted."""
        if self._wanted.clusters and found.path.cluster not in self._wanted.clusters:
            return None
        inside = (found.times >= self._wanted.start) & (found.times < self._wanted.end)
        if inside.all():
            return found
        return (
            Samples(found.path, found.step_s, found.times[inside], found.values[inside])
            if inside.any()
            else None
        )

    def _take(self, samples: list[Samples]) -> None:
        """Count, open what is new, and write."""
        for one in samples:
            self.report.clusters[one.path.cluster].count(one.path.host, one.times)
            if one.step_s:
                key = one.path.cluster, one.path.metric
                self._steps[key] = min(one.step_s, self._steps.get(key, one.step_s))
        self._open(samples)
        if self._client is not None:
            accepted = [one for one in samples if not self._is_refused(one)]
            kept, n_left = self._exact(self._client).without_roundings(accepted)
            self.report.n_exact += n_left
            self._write(kept)

    def _exact(self, client: ClientLike) -> Exactness:
        """What the store had when the import began: what it defines for the import takes any value as it comes."""
        if self._exactness is None:
            types = {(one.cluster, one.name): one.type for one in client.metrics()}
            self._exactness = Exactness(asked(client), types)
        return self._exactness

    def _open(self, samples: list[Samples]) -> None:
        """Handles for the series that have none yet."""
        if self._n_handles > _HANDLES_MAX:
            self._flush()
            self._renew()
        by_step: dict[int, dict[SeriesPath, None]] = defaultdict(dict)
        for one in samples:
            if one.path in self._handles:
                continue
            step_s = (
                one.step_s or self._steps.get((one.path.cluster, one.path.metric)) or usual_step(one.times)
            )
            by_step[step_s][one.path] = None
        for step_s, paths in by_step.items():
            spec = MetricSpec("", step_s=step_s) if step_s and self._defines else None
            handles = (
                range(len(paths))
                if self._client is None
                else self._open_writer().open(list(paths), spec).tolist()
            )
            self._handles |= zip(paths, handles, strict=True)
            self._n_handles += len(paths)
            for path in paths:
                self.report.clusters[path.cluster].n_series += 1

    def _is_refused(self, one: Samples) -> bool:
        """Whether the store would not open its series; then its samples are counted here."""
        reason = self._open_writer().refused.get(self._handles[one.path])
        if reason is None:
            return False
        n = len(one.times)
        ignored = n if reason == _UNKNOWN_METRIC else 0
        if ignored:
            self.report.unknown_metrics[one.path.metric] += n
        self.report.result += WriteResult(0, n - ignored, ignored, {reason: n})
        return True

    def _write(self, samples: list[Samples]) -> None:
        writer = self._open_writer()
        for members, times, matrix in together(samples):
            writer.write([self._handles[one.path] for one in members], times, matrix)

    def _open_writer(self) -> WriterLike:
        assert self._client is not None
        if self._writer is None:
            self._writer = self._client.writer()
        return self._writer

    def _renew(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._writer, self._n_handles = None, 0
        self._handles.clear()

    def _flush(self) -> None:
        """Wait for what was written; only then it is known what became of it, and the files are done."""
        if self._writer is not None:
            self.report.result += self._writer.flush()
        if self._journal is not None and self._client is not None:
            self._journal.add(self._unflushed)
        self._unflushed, self._n_unflushed = [], 0

    def _compare_steps(self) -> None:
        if self._client is None:
            return
        kept = {(one.cluster, one.name): one.step_s for one in self._client.metrics()}
        for key, step_s in self._steps.items():
            if kept.get(key, 0) > step_s:
                self.report.coarser[key] = step_s, kept[key]


def together(samples: Sequence[Samples]) -> Iterator[tuple[list[Samples], NDArray[np.int64], NDArray[Any]]]:
    """Samples at the same times side by side: the series, times int64[m], values [m, n]."""
    groups: dict[tuple[bytes, str], list[Samples]] = defaultdict(list)
    for one in samples:
        groups[one.times.tobytes(), one.values.dtype.str].append(one)
    for members in groups.values():
        yield members, members[0].times, np.stack([one.values for one in members], axis=1)


def usual_step(times: NDArray[np.int64]) -> int:
    """The most frequent distance between samples, 0 for too few to tell: for a metric that nothing defines."""
    gaps = np.diff(np.unique(times))
    if len(gaps) < 2:
        return 0
    lengths, counts = np.unique(gaps, return_counts=True)
    return int(lengths[np.argmax(counts)])
