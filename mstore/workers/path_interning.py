"""Series named by their path: found, or made, in the directory; or only looked up before their first sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from mstore.errors import InvalidRequest
from mstore.ingest.framed import LOOK_UP_ONLY
from mstore.model import MetricSpec, Reason
from mstore.shm import layout
from mstore.shm.directory import DirectoryWriter, Interned, definition

Source = Callable[[str, str], MetricSpec | None]


class PathInterner:
    """Interns the paths of columns frames; `source` is the configuration, `register` the rule for unknown metrics."""

    def __init__(
        self, directory: DirectoryWriter, source: Source, register: bool, default_step_s: int
    ) -> None:
        self._directory = directory
        self._source = source
        self._register = register
        self._default_step_s = default_step_s

    def paths(self, paths: list[list[str]], times: bytes, specs: list[Any] | None) -> Interned:
        """References, types, kinds and log records, as DirectoryWriter.intern().

        paths  [cluster, host, metric, type, type_id, subtype, subtype_id] each
        times  int64[n]: first sample, seconds; LOOK_UP_ONLY in all: nothing is made, an unknown series has reference 0
        raises InvalidRequest, ConfigError for a spec that makes no sense; nothing is made then
        """
        if len(times) != 8 * len(paths) or (specs is not None and len(specs) != len(paths)):
            raise InvalidRequest(
                f"{len(times)} bytes of times and {specs and len(specs)} specs for {len(paths)} paths"
            )
        wanted = (
            None if specs is None else [_spec(path[2], spec) for path, spec in zip(paths, specs, strict=True)]
        )
        if len(times) and np.frombuffer(times, dtype=np.int64)[0] == LOOK_UP_ONLY:
            return self._look_up(paths, wanted)
        items = [(cluster, host, *below, metric) for cluster, host, metric, *below in paths]
        return self._directory.intern_paths(items, times, wanted)  # type: ignore[arg-type]  # seven strings: checked by the codec

    def _look_up(self, paths: list[list[str]], specs: list[MetricSpec | None] | None) -> Interned:
        refs = np.zeros(len(paths), dtype=np.uint64)
        types, kinds = np.zeros(len(paths), np.uint8), np.zeros(len(paths), np.uint8)
        known: dict[tuple[str, str, MetricSpec | None], tuple[int, int] | None] = {}
        unknown = np.uint64((int(Reason.UNKNOWN_METRIC) << 24) << 32 | layout.IGNORE_SLOT)
        for i, (cluster, host, metric, *below) in enumerate(paths):
            asked = (cluster, metric, None if specs is None else specs[i])
            if asked not in known:
                known[asked] = self._type_of(*asked)
            found = known[asked]
            if found is None:
                refs[i] = unknown
                continue
            types[i], kinds[i] = found
            refs[i] = max(0, self._directory.find_series_path(cluster, host, metric, *below))
        there = (refs != 0) & (refs != unknown)
        if there.any():
            # A series keeps the type it was made with, whatever its metric has become since.
            rows = self._directory.series_table()[(refs[there] & np.uint64(0xFFFF_FFFF)).astype(np.intp)]
            types[there], kinds[there] = rows["type"], rows["kind"]
        return refs.tobytes(), types.tobytes(), kinds.tobytes(), b""

    def _type_of(self, cluster: str, metric: str, wanted: MetricSpec | None) -> tuple[int, int] | None:
        """(type, kind) a series of this metric has or would get; None = the metric is unknown and stays so, or ignored."""
        level = self._directory.find_level(0, b"", cluster.encode())
        index = self._directory.find_metric(level, metric.encode()) if level >= 0 else -1
        if index >= 0:
            if self._directory.ignores(index):
                return None
            fields = self._directory.metrics_table()[index]
            return int(fields["type"]), int(fields["kind"])
        spec = self._source(cluster, metric) or wanted
        if spec is None and self._register:
            spec = MetricSpec(metric, step_s=self._default_step_s)
        if spec is None:
            return None
        _, type_code, kind, *_ = definition(spec, layout.ORIGIN_CLIENT)
        return type_code, kind


def _spec(metric: str, wire: Any) -> MetricSpec | None:
    """[step_s, aggregation, type, unit, [[column, type], ...]] of the wire; the codec has checked its form."""
    if wire is None:
        return None
    step_s, aggregation, type_name, unit, columns = wire
    return MetricSpec(
        metric, step_s, aggregation, type_name, unit, tuple((name, kind) for name, kind in columns or ())
    )
