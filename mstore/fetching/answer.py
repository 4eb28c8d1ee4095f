"""The answer to a batch request: a row of series for each query, in the order of the queries."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from mstore.errors import ProtocolError
from mstore.fetching.packed import BatchSeries, Packed
from mstore.fetching.request import FetchQuery, FetchRequest


class Fetched(Sequence[list[BatchSeries]]):
    """Rows of series: `fetched[i][k]` is the k-th level of query i.

    queries  what each row answers: the request's own, then those of for-all-nodes, host by host
    """

    def __init__(
        self, request: FetchRequest, hosts: Sequence[str], sizes: NDArray[np.uint32], packed: Packed
    ) -> None:
        """hosts: those of for-all-nodes, natural order; sizes uint32[n]: series of each row. raises ProtocolError"""
        self.request = request
        self.hosts = hosts
        self.sizes = sizes
        self.packed = packed
        self.queries = request.queries + all_nodes(request, hosts)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        if len(sizes) != len(self.queries) or (int(self._ends[-1]) if len(sizes) else 0) != len(packed):
            raise ProtocolError(
                f"an answer with {len(sizes)} rows of {len(packed)} series to {len(self.queries)} queries"
            )

    def __len__(self) -> int:
        return len(self.queries)

    @overload
    def __getitem__(self, index: int) -> list[BatchSeries]: ...
    @overload
    def __getitem__(self, index: slice) -> list[list[BatchSeries]]: ...
    def __getitem__(self, index: int | slice) -> list[BatchSeries] | list[list[BatchSeries]]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = range(len(self))[index]
        query, first = self.queries[index], int(self._ends[index - 1]) if index else 0
        n = int(self._ends[index]) - first
        paths = _paths(self.request.cluster, query, n)
        return [self.packed.series(first + k, path) for k, path in enumerate(paths)]

    def __repr__(self) -> str:
        return f"<Fetched {len(self)} rows, {len(self.packed)} series of {self.request.cluster}>"

    def to_dict(self, *, skip_empty: bool = False) -> dict[str, Any]:
        """The metric store's JSON shape: {"queries"?: [...], "results": [[{...}]]}.

        queries      only with for-all-nodes: those of every row
        skip_empty   a row of which no series has a sample becomes [], as ClusterCockpit's web server expects it
        """
        rows = (
            [] if skip_empty and not any(map(_told, row)) else [one.to_dict() for one in row] for row in self
        )
        found: dict[str, Any] = {"results": list(rows)}
        if self.request.for_all_nodes is not None and self.queries:
            found = {"queries": [query.to_dict() for query in self.queries], **found}
        return found

    def to_json(self, *, skip_empty: bool = False) -> str:
        """to_dict() as text: shortest numbers that read back, null for what is missing."""
        return json.dumps(self.to_dict(skip_empty=skip_empty), ensure_ascii=False, separators=(",", ":"))


def all_nodes(request: FetchRequest, hosts: Sequence[str]) -> tuple[FetchQuery, ...]:
    """The queries of for-all-nodes: every metric of a host, host by host, each at node level and native step."""
    metrics = request.for_all_nodes or ()
    return tuple(FetchQuery(metric, host) for host in hosts for metric in metrics)


def _told(series: BatchSeries) -> bool:
    return series.error is not None or not series.why


def _paths(cluster: str, query: FetchQuery, n: int) -> list[tuple[str, str, str, str, str, str, str]]:
    head = (cluster, query.host, query.metric)
    found = [(*head, *level) for level in query.levels()]
    if query.one_level and len(found) != 1:
        found = [(*head, query.type or "", "", query.subtype or "", "")]
    if len(found) != n:
        raise ProtocolError(f"an answer with {n} series to a query for {len(found)}")
    return found
