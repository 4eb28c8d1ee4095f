"""Every series of an answer about hosts, labelled by metric, scope, host and id, in flat arrays.

    labels   one LABEL a series                     16 bytes each
    packed   their times, statistics and values     fetching/packed.py

Series come by metric, then scope, then host, then id, each in the order asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import MstoreError, ProtocolError
from mstore.fetching.packed import BatchSeries, Packed
from mstore.scopes import FINE_TO_COARSE

LABEL = np.dtype([("metric", "<u4"), ("scope", "<u4"), ("host", "<u4"), ("id", "<u4")])
"""Numbers in the lists of a Loaded, scope in FINE_TO_COARSE; id 0 = none: the node itself."""


@dataclass(frozen=True, slots=True)
class LoadedMetric:
    """One metric of the answer."""

    name: str
    unit: str = ""
    unit_prefix: str = ""
    """How much of the unit's text is its prefix: "G" of "GB/s"."""
    step_s: int = 0
    scope: str = "node"
    """At which it is stored."""


@dataclass(frozen=True, slots=True)
class LoadError:
    """What could not be answered while the rest was."""

    error: MstoreError
    metric: str
    scope: str = ""
    host: str = ""
    id: str = ""

    def __str__(self) -> str:
        where = "/".join(part for part in (self.host, self.scope and self.scope + self.id) if part)
        return f"{self.metric}{' of ' if where else ''}{where}: {self.error}"


class Loaded:
    """The answer to a LoadRequest."""

    def __init__(
        self,
        cluster: str,
        metrics: Sequence[LoadedMetric],
        hosts: Sequence[str],
        ids: Sequence[str],
        labels: NDArray[Any],
        packed: Packed,
        failed: Sequence[tuple[str, MstoreError]] = (),
    ) -> None:
        """ids: by number, ids[0] is ""; failed: metrics that could not be asked at all. raises ProtocolError"""
        self.cluster = cluster
        self.metrics = metrics
        self.hosts = hosts
        self.ids = ids
        self.labels = labels
        self.packed = packed
        self.failed = failed
        if len(labels) != len(packed):
            raise ProtocolError(f"an answer with {len(labels)} labels for {len(packed)} series")
        bounds = {"metric": len(metrics), "scope": len(FINE_TO_COARSE), "host": len(hosts), "id": len(ids)}
        for name, n in bounds.items():
            if len(labels) and int(labels[name].max()) >= n:
                raise ProtocolError(f"an answer whose labels name a {name} that it does not have")

    def __len__(self) -> int:
        return len(self.labels)

    def series(self, index: int) -> BatchSeries:
        """One of them; its type and type_id are the scope and the id of the answer."""
        metric, scope, host, id_ = self.labels[index].item()
        scope_name, id_text = FINE_TO_COARSE[scope], self.ids[id_]
        path = (self.cluster, self.hosts[host], self.metrics[metric].name)
        return self.packed.series(index, (*path, "" if scope_name == "node" else scope_name, id_text, "", ""))

    def groups(self) -> Iterator[tuple[LoadedMetric, str, range]]:
        """(metric, scope, numbers of its series) for every metric and scope, in order."""
        keys = self.labels["metric"].astype(np.int64) * len(FINE_TO_COARSE) + self.labels["scope"]
        edges = np.flatnonzero(np.diff(keys)) + 1
        for first, stop in pairwise([0, *edges.tolist(), len(keys)]):
            if first < stop:
                metric, scope, _, _ = self.labels[first].item()
                yield self.metrics[metric], FINE_TO_COARSE[scope], range(first, stop)

    def errors(self) -> list[LoadError]:
        """Everything that could not be answered, by metric and series."""
        found = [LoadError(error, name) for name, error in self.failed]
        for index in np.flatnonzero(self.packed.entries["error"]).tolist():
            metric, scope, host, id_ = self.labels[index].item()
            error = self.packed.errors[int(self.packed.entries["error"][index]) - 1]
            found.append(
                LoadError(
                    error, self.metrics[metric].name, FINE_TO_COARSE[scope], self.hosts[host], self.ids[id_]
                )
            )
        return found
