"""The metric store's batch request, answered: thousands of queries planned and gathered together.

    query                                     entries of its row
      no type, or aggreg                        one: the host, or all its ids together (an id that is missing is skipped)
      type, type-ids                            one an id, in their order, also for an id that does not exist
      subtype, subtype-ids                      the same one level deeper, for each of the above
    for-all-nodes                             a query for every host and metric, behind the others

What concerns one query alone (an unknown metric, a resolution that does not fit, no aggregation, a scale that is no
number) is an error in its own entries; what is wrong with the whole request is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mstore.config import Config
from mstore.errors import InvalidRequest
from mstore.fetching.answer import Fetched, all_nodes
from mstore.fetching.request import FetchQuery, FetchRequest, refuse_too_many
from mstore.hostlists import natural_key
from mstore.query.answering import Answering
from mstore.query.budget import Budget, Work, finished
from mstore.query.finder import Finder
from mstore.query.gather import replanned
from mstore.query.retained import RetainedGatherer
from mstore.query.rows import Frame, Row, scale_of


class FetchQuestions:
    """Of a Reader: batch requests."""

    gatherer: RetainedGatherer
    _config: Callable[[], Config]
    _now_s: Callable[[], int]

    def fetch(self, request: Mapping[str, Any] | FetchRequest) -> Fetched:
        """As mstore.Client.fetch()."""
        return finished(self.fetch_work(FetchRequest.parse(request, self._now_s()), Budget()))

    def fetch_work(self, request: FetchRequest, budget: Budget) -> Work[Fetched]:
        """fetch() in pieces."""
        hosts = self._all_hosts(request) if request.for_all_nodes else []
        queries = request.queries + all_nodes(request, hosts)
        frame = Frame(
            request.start, request.end, request.with_stats, request.with_data, request.with_padding,
            request.algo, self._minimum_points(queries),
        )  # fmt: skip
        answering = Answering(
            lambda: Finder(self.gatherer, request.cluster, self._config), _row, frame, budget
        )
        yield from answering.work(queries)
        return Fetched(request, hosts, np.array(answering.sizes, np.uint32), answering.packing.packed())

    def _minimum_points(self, queries: tuple[FetchQuery, ...]) -> int:
        """Not asked where nothing is resampled: an attached program may not know the configuration."""
        return self._config().minimum_points if any(query.resolution for query in queries) else 0

    def _all_hosts(self, request: FetchRequest) -> list[str]:
        hosts = replanned(lambda: Finder(self.gatherer, request.cluster, self._config).hosts())
        refuse_too_many(len(request.queries) + len(hosts) * len(request.for_all_nodes or ()))
        return sorted((name for _, name in hosts), key=natural_key)


def _row(finder: Finder, query: FetchQuery) -> Row:
    try:
        scale = scale_of(query.scale_by)
    except InvalidRequest as error:
        return Row.failed(1 if query.one_level else query.n_levels, error)
    type_ = None if query.type == "node" else query.type
    row = finder.row(
        query.metric,
        query.host,
        (type_, query.type_ids, query.subtype, query.subtype_ids),
        together=query.one_level,
    )
    row.resolution_s, row.scale = query.resolution, scale
    return row
