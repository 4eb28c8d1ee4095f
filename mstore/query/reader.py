"""Reader: every question a program may ask of the mapped segments of a store. No sockets, nothing is written.

    query -> plan (directory only) -> gather (validated copies) -> function -> aggregate -> resample -> scale -> fill
      \\-- one series at its own step: find and gather, two calls of the kernels

Nothing is remembered between questions. When the store changes under one, it is planned again, a bounded
number of times. Threads may share a Reader.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from mstore import choices, clock
from mstore.config import Config
from mstore.frames import Series
from mstore.kernels._segment import Segment
from mstore.model import Metric
from mstore.query import catalog
from mstore.query.answer import answering
from mstore.query.budget import Budget, Work, finished
from mstore.query.chunks import ChunkView, chunk_views
from mstore.query.fetch import FetchQuestions
from mstore.query.gather import SLOTS_MAX, replanned
from mstore.query.health import HealthQuestions
from mstore.query.held import HeldQuestions
from mstore.query.listing import ListingQuestions
from mstore.query.load import LoadQuestions
from mstore.query.plan import Ids, Request
from mstore.query.retained import RetainedGatherer
from mstore.query.selecting import SelectorQuestions
from mstore.selector import Selector
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader
from mstore.times import SECONDS_MAX, SECONDS_MIN, to_seconds
from mstore.topology import Cluster

Time = int | float | str | datetime


class Question(Protocol):
    """A tuple with the arguments of query() by name, as mstore.Question is one."""

    def _asdict(self) -> dict[str, Any]: ...


class Reader(
    SelectorQuestions, FetchQuestions, LoadQuestions, HealthQuestions, ListingQuestions, HeldQuestions
):
    """Reads a store through its directory and samples segments; read-only mappings are enough.

    retention_s  how long samples are served, asked at every question; 0 = all there are
    config       the store's topologies and metric definitions, asked by questions about jobs and nodes
    """

    def __init__(
        self,
        directory: Segment,
        samples: Segment,
        *,
        now_s: Callable[[], int] = clock.now_s,
        retention_s: Callable[[], int] = lambda: 0,
        config: Callable[[], Config] = Config,
    ) -> None:
        self.directory = DirectoryReader(directory)
        self.gatherer = RetainedGatherer(self.directory, samples, retention_s, now_s)
        self._now_s = now_s
        self._config = config
        self._retention_s = retention_s
        self._find = self.directory.find_series_path
        self._grid = self.gatherer.grid
        self._unit = self.gatherer.unit

    def query(
        self,
        cluster: str,
        host: str,
        metric: str,
        start: Time,
        end: Time,
        # Meant to be named. A star here would cost 10 ns a default, which a dictionary then holds.
        type: str | None = None,
        type_ids: Ids = None,
        subtype: str | None = None,
        subtype_ids: Ids = None,
        aggregate: bool = False,
        resolution: int = 0,
        algo: str = "average",
        function: str = "",
        window: int = 0,
        missing: str = "skip",
        scale_by: float = 1.0,
        fill: str = "none",
        max_gap: int = 0,
        archive: bool = True,
    ) -> Series | list[Series]:
        """The samples of [start, end): one Series, or a list of them where several ids are asked for.

        start, end   Unix seconds, datetime (naive = UTC), ISO 8601, or relative like "-2h" and "now"
        type         level below the host ("hwthread", "socket", ...); without one: the host's own series, or
                     the aggregate of all below it
        type_ids     one id: one Series; a list: one each, in its order; None: all there are, natural order
        subtype, subtype_ids  the same one level deeper
        aggregate    everything selected becomes one Series, by the metric's sum or avg
        function     "rate", "increase", "delta", "moving_average", "centred_moving_average" of every series, before
                     several become one; "" = none
        window       of the function, seconds: 0 = from each sample to the next; averages need one
        missing      "skip" or "propagate": how an aggregate treats a slot that some of its series miss
        resolution   seconds, a multiple of the step: one value for a run of slots; 0 = as stored
        algo         what a run becomes: "average", "min", "max", "last", "simple" (its first slot), or "lttb", which
                     picks the slots that keep the shape and answers with their times
        scale_by     a factor for all values; 0 and 1 are none
        fill         "none", "previous" or "linear": what stands in slots without a sample
        max_gap      how far fill reaches, seconds; 0 = any
        archive      also what has left memory, where this Reader knows of an archive: an attached one does

        What does not exist or has no samples is answered by an all-missing Series whose .why says so.
        raises InvalidTimeRange, InvalidRequest, UnknownMetric, NotAggregatable, InvalidStep, LimitExceeded
        """
        if not (start.__class__ is end.__class__ is int and SECONDS_MIN <= start <= end <= SECONDS_MAX):
            now_s = self._now_s()
            start, end = to_seconds(start, now_s), to_seconds(end, now_s)
        if not (
            aggregate or resolution or function or window or max_gap
            or subtype is not None or subtype_ids is not None
        ) and algo == "average" and missing == "skip" and scale_by == 1.0 and fill == "none":  # fmt: skip
            found = self.single(cluster, host, metric, start, end, type, type_ids)
            if found is not None:
                return found
        return self.ask(
            Request(cluster, host, metric, start, end, type, _kept(type_ids), subtype, _kept(subtype_ids),
                    aggregate, resolution, missing, algo, fill, max_gap, function, window, scale_by, archive)
        )  # fmt: skip

    def single(
        self, cluster: str, host: str, metric: str, start: int, end: int, type: str | None, type_ids: Ids
    ) -> Series | None:
        """One series as it is stored, which needs no plan; None if it is not that. Whatever is unusual about it, a plan
        will say.
        """
        if start > end or (type_ids is None) is not (type is None):
            return None
        if type_ids is not None and type_ids.__class__ is not str:
            return None
        try:
            ref = self._find(cluster, host, metric, type or "", type_ids or "")
        except UnicodeEncodeError:
            return None  # a lone surrogate is in no name
        found = self._grid(ref, start, end, SLOTS_MAX) if ref > 0 else 0
        if found.__class__ is tuple and found[4] and found[3] != layout.TYPE_U64:
            return Series(
                found[0], found[1], found[2], self._unit(found[5]), None, None, None, "",
                cluster, host, metric, type or "", type_ids or "",
            )  # fmt: skip
        return None

    def ask(self, request: Request) -> Series | list[Series]:
        """query() for a Request, whose times are seconds already."""
        return finished(self.answering((request,), Budget()))[0]

    def query_many(self, questions: Iterable[Question | Request]) -> list[Series | list[Series]]:
        """One answer a question, in their order; the first error of any is raised.

        questions  mstore.Question each, which are the arguments of query(), or Requests
        raises     LimitExceeded for more than limits.QUERY_MANY_MAX of them
        """
        now_s = self._now_s()
        asked = choices.questions(questions)
        requests = [one if isinstance(one, Request) else _request_of(one, now_s) for one in asked]
        return finished(self.answering(requests, Budget()))

    def answering(self, requests: Sequence[Request], budget: Budget) -> Work[list[Series | list[Series]]]:
        """query_many() in pieces."""
        return answering(self.gatherer, requests, budget)

    def shortest_retention_s(self) -> int:
        """The shortest time for which samples of any metric are served, seconds; 0 = all of them for ever."""
        own = self.directory.metrics_table()["retention_s"]
        return min((period for period in (self._retention_s(), *own.tolist()) if period > 0), default=0)

    def longest_step_s(self) -> int:
        """The longest step of any metric, seconds; 0 without any."""
        return int(self.directory.metrics_table()["step_s"].max(initial=0))

    def children(self, *path: str) -> list[str]:
        """Names below a path: of nothing clusters, of ("fritz",) hosts, of ("fritz", "f0201") levels."""
        return catalog.children(self.gatherer, path)

    def paths(self, depth: int) -> list[tuple[str, ...]]:
        """All paths of that many names: 1 = clusters, 2 = (cluster, host), ..."""
        return finished(self.paths_work(depth))

    def paths_work(self, depth: int) -> Work[list[tuple[str, ...]]]:
        """paths() in pieces."""
        return catalog.paths_work(self.gatherer, depth)

    def matching(self, selector: Selector, metrics: Sequence[str]) -> NDArray[np.uint64]:
        """References of the live series of some metrics (none = all) that a selector selects, each once."""
        return catalog.matching(self.gatherer, self.directory, selector, metrics)

    def metrics(self, cluster: str | None = None) -> list[Metric]:
        """Metric definitions of a cluster, or of all."""
        return catalog.metrics(self.gatherer, self.directory, cluster)

    def clusters(self) -> dict[str, Cluster]:
        """The topologies that the store is configured with: nodes, their parts, the scope of each metric."""
        return dict(self._config().clusters)

    def chunks(
        self,
        cluster: str,
        host: str,
        metric: str,
        type: str = "",
        type_id: str = "",
        subtype: str = "",
        subtype_id: str = "",
    ) -> Iterator[ChunkView]:
        """The chunks of one series without a copy, oldest first; nothing for a series that does not exist."""
        ref = self._find(cluster, host, metric, type, type_id, subtype, subtype_id)
        return replanned(lambda: iter(list(chunk_views(self.gatherer, ref)))) if ref > 0 else iter(())


def _request_of(question: Question, now_s: int) -> Request:
    said = question._asdict()
    start, end = to_seconds(said["start"], now_s), to_seconds(said["end"], now_s)
    ids = {name: _kept(said[name]) for name in ("type_ids", "subtype_ids")}
    return Request(**{**said, **ids, "start": start, "end": end})


def _kept(ids: Ids) -> Ids:
    """Ids that can be gone through again when the request is planned again."""
    return ids if ids is None or isinstance(ids, str | int) else list(ids)
