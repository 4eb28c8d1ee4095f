"""The blocking client. What it does is in operations.py and columns.py; here is how it is called."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from mstore import paths
from mstore.client.operations import Operations
from mstore.client.pool import Settings
from mstore.client.questions import Question
from mstore.client.sync_answers import AnswerCalls
from mstore.client.sync_life import LifeCalls
from mstore.client.sync_selecting import SelectorCalls
from mstore.ipc.transport import run

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from mstore.client.columns import Handles, PathLike, WriterSteps
    from mstore.client.lines import Source
    from mstore.client.questions import Ids
    from mstore.client.results import WriteResult
    from mstore.client.sync_following import Follow
    from mstore.config import Config
    from mstore.frames import Series
    from mstore.model import Metric, MetricSpec, SeriesPath
    from mstore.selector import SelectorLike
    from mstore.times import TimeLike
    from mstore.topology import Cluster


def connect(
    directory: str | os.PathLike[str] | None = None,
    *,
    ack: str = "durable",
    timeout: float = 30.0,
    cluster: str = "",
) -> Client:
    """A client of the store in `directory` (default: $MSTORE_DIR, else ~/.local/state/mstore).

    ack       what an acknowledgement promises: "durable" (on the disk) or "memory" (survives the store's
              processes, not the machine's power)
    timeout   seconds that a request may take; for long writes, seconds without an acknowledgement
    cluster   default cluster for lines without a cluster tag
    raises    Unavailable when no store answers
    """
    client = Client(directory, ack=ack, timeout=timeout, cluster=cluster)
    client.ping()
    return client


class Client(SelectorCalls, AnswerCalls, LifeCalls):
    """Talks to a store over its Unix sockets; connects when needed.

    Threads     may share a client: every call has a connection to itself (kept for later calls).
    Fork        is safe: a child makes connections of its own. A Writer stays with the process that made it.
    Interrupt   (Ctrl-C) ends a call at once; the store drops the request. A write so ended may be
                stored in part; writing it again is safe.
    Reconnect   a broken connection is made again, with pauses of 10 ms to 1 s until `timeout`, and what was
                not answered is sent again. That is safe: questions change nothing, and a sample with a
                timestamp goes to the same slot with the same value. Lines without a timestamp may be stored
                twice, at both times of arrival. Orders (control, archive, protect, the free calls) are sent once:
                a connection that breaks before the answer is Unavailable.
    Errors      are those of mstore.errors, the same class that the store raised.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str] | None = None,
        *,
        ack: str = "durable",
        timeout: float = 30.0,
        cluster: str = "",
    ) -> None:
        self.directory = paths.store_dir(directory)
        self._ops = Operations(Settings(self.directory, ack, timeout, cluster))

    def write(self, lines: Source, cluster: str | None = None, precision: str | None = None) -> WriteResult:
        """Store line protocol: text, bytes, a binary file, or an iterable of lines.

        cluster     default cluster of these lines, instead of the client's
        precision   "s", "ms", "us" or "ns"; without it timestamps are told apart by their magnitude
        returns     when all is acknowledged; bad lines are counted by reason and do not stop the others
        raises      Timeout when the store makes no progress; StoreFull, Degraded, ...
        """
        return run(self._ops.write(lines, cluster, precision))

    def put(
        self,
        cluster: str,
        host: str,
        values: Mapping[str, Any],
        ts: TimeLike | None = None,
        *,
        type: str | None = None,
        type_id: str | int | None = None,
        subtype: str | None = None,
        subtype_id: str | int | None = None,
        unit: str | None = None,
    ) -> WriteResult:
        """Store one sample of each metric in `values`. ts: a time (query says which forms), default now."""
        path = make_path(cluster, host, type, type_id, subtype, subtype_id)
        return run(self._ops.put(path, values, ts, unit))

    def writer(self, window: int = 8) -> Writer:
        """A writer of columns, with at most `window` unacknowledged frames."""
        from mstore.client.columns import WriterSteps  # with it comes numpy

        return Writer(WriterSteps(self._ops, window))

    def query(
        self,
        cluster: str,
        host: str,
        metric: str,
        start: TimeLike,
        end: TimeLike,
        *,
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
        timeout: float | None = None,
    ) -> Series | list[Series]:
        """Samples of one metric in [start, end).

        start, end   Unix seconds, datetime (naive = UTC), ISO text, or relative: "-2h", "now"
        type_ids     one id: one Series; a list: a list in that order; None with a type: all there are
        aggregate    one Series over all selected, by the metric's aggregation
        function     "rate", "increase", "delta" (of counters), "moving_average" or "centred_moving_average" of every
                     series, before several become one; docs/answers.md says what each is
        window       of the function, seconds; 0: from each sample to the next
        missing      "skip" or "propagate": what an aggregate makes of a slot that some of its series miss
        resolution   seconds, a multiple of the step: one value for that many; 0 = native
        algo         how: "average", "min", "max", "last", "simple" (the first slot) or "lttb" (picked slots, with
                     their own times)
        scale_by     a factor for all values; 0 and 1 are none
        fill         "none", "previous" or "linear": what stands in slots without a sample
        max_gap      how far fill reaches, seconds; 0 = any
        archive      also what has left memory, where the store has an archive
        returns      the full range; slots without a sample are missing (NaN, or valid False)
        raises       InvalidTimeRange, InvalidRequest, UnknownMetric, NotAggregatable, InvalidStep, LimitExceeded
        """
        question = Question(
            cluster, host, metric, start, end, type, type_ids, subtype, subtype_ids, aggregate, resolution,
            algo, function, window, missing, scale_by, fill, max_gap, archive,
        )  # fmt: skip
        return run(self._ops.query(question, timeout))

    def query_many(
        self, questions: Iterable[Question], *, timeout: float | None = None
    ) -> list[Series | list[Series]]:
        """Answers to many questions, in their order, without waiting for one before the next is asked.

        questions  mstore.Question each: the arguments of query()
        timeout    seconds without an answer
        raises     as query(); the first error ends the call. LimitExceeded for more than limits.QUERY_MANY_MAX questions
        """
        return run(self._ops.query_many(questions, timeout))

    def follow(
        self,
        selector: SelectorLike,
        metrics: str | Sequence[str] | None = None,
        *,
        since: TimeLike | None = None,
    ) -> Follow:
        """Samples as they are stored: iterate over what this returns, FollowBatch by FollowBatch.

        selector   "fritz/f02[01-64]/hwthread*", or ["fritz", ["f0201", "f0202"], "*"]; what comes later and matches
                   is followed, too
        metrics    one, several, or None for all
        since      also what is stored from this time on
        raises     EmptyCluster, InvalidRequest, LimitExceeded

        A batch comes within 100 ms of its write. Who does not keep up is told how many samples were not delivered
        and from when (FollowBatch.missed), and may resume() from there.
        """
        from mstore.client.sync_following import Follow  # with it comes numpy

        return Follow(self._ops.follow(selector, metrics, since), self._ops.until_s)

    def children(self, *path: str) -> list[str]:
        """Names of the levels below a path of level names; without one, the clusters."""
        return run(self._ops.children(path))

    def host_series(self, cluster: str, host: str) -> list[SeriesPath]:
        """Every series of a host and of the levels below it, in natural order; none of a host that is not there."""
        return run(self._ops.host_series(cluster, host))

    def paths(self, depth: int) -> list[tuple[str, ...]]:
        """All paths of `depth` level names: 1 = clusters, 2 = cluster and host, ..."""
        return run(self._ops.paths(depth))

    def metrics(self, cluster: str | None = None) -> list[Metric]:
        """The metrics of a cluster, or of all."""
        return run(self._ops.metrics(cluster))

    def clusters(self) -> dict[str, Cluster]:
        """The topologies that the store is configured with: nodes, their parts, the scope of each metric."""
        return dict(self.config().clusters)

    def config(self) -> Config:
        """What answers depend on of the store's configuration: topologies, definitions of metrics, minimum_points."""
        return run(self._ops.config())

    def info(self, *, starting: bool = False, predict: bool = False) -> dict[str, Any]:
        """The store's own figures: version, state, counters, memory.

        starting  ask at control.sock, which answers while the store still reads its files; for its own user only
        predict   also "prediction": what the configuration will take of the memory
        """
        return run(self._ops.info(starting, predict))

    def ping(self) -> None:
        """Ask for a sign of life. raises Unavailable"""
        run(self._ops.ping())

    def archive(
        self, clusters: Sequence[str] = (), *, delete: bool = False, timeout: float | None = None
    ) -> dict[str, Any]:
        """Write what memory holds to the archive now, without waiting for retention.

        clusters   names; none = all
        delete     then free what was archived, whole chunks, as retention would
        timeout    seconds to wait for it; default the client's
        returns    counts: rows, bytes, parts, days_deleted, freed; `failed`: a sentence for each cluster that failed
        raises     ArchiveError when the store has no archive, NotPermitted for other users
        """
        return run(self._ops.archive(clusters, delete, timeout))

    def control(self, verb: str, memory: str = "") -> dict[str, Any]:
        """Ask the store to "stop", "restart", "reload" or "snapshot".

        memory  of a stop or a restart: "keep" leaves the shared memory for the next start, "free" gives it back
                after a last snapshot; "" = a stop does what keep_memory says, a restart keeps it where it can
        raises  NotPermitted for other users
        """
        return run(self._ops.control(verb, memory))

    def close(self) -> None:
        """Close the idle connections; those in use close when their call ends."""
        self._ops.pool.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Writer:
    """Writes columns of samples by handle. Threads may share it (calls wait for each other); a fork may not.

    In a forked child all but close() raise InvalidRequest; what was under way stays the parent's, who goes on.
    A write returns when its frames are handed to the socket; flush() waits for the acknowledgements and
    returns the counts since the last flush. An error that the store answers to a frame is raised by the next
    write or flush. After a broken connection, or a call ended by a time-out or an interrupt, the next call
    connects again, opens the series again and sends again what was not acknowledged.
    """

    def __init__(self, steps: WriterSteps) -> None:
        self._steps = steps
        self._lock = threading.Lock()

    def _mine(self) -> threading.Lock:
        """The lock, unless this is a forked child: a thread that is not there may hold it. raises InvalidRequest"""
        self._steps.refuse_child()
        return self._lock

    @property
    def refused(self) -> dict[int, str]:
        """Handles that could not be written when they were opened, with the reason."""
        return self._steps.refused

    def open(self, series: Sequence[PathLike], spec: MetricSpec | None = None) -> Handles:
        """Handles, uint32[n], for SeriesPaths or tuples (cluster, host, metric[, type, type_id[, ...]]).

        spec   defines the metric where it is not defined yet (its name is not used)
        """
        with self._mine():
            return run(self._steps.open(series, spec))

    def write(self, handles: ArrayLike, times: ArrayLike, values: ArrayLike) -> None:
        """Grid samples: values[m, n] (or [n] for one time) of n series at m times in Unix seconds.

        Values become the type of their series. NaN, and what does not fit the type, is refused and counted.
        """
        with self._mine():
            run(self._steps.write(handles, times, values))

    def rows(self, handle: int, stamps_ms: ArrayLike, values: ArrayLike) -> None:
        """Rows of one stamped series: values[m, k] for its k columns, stamped in Unix milliseconds.

        Columns of different types: a structured array, or float64 and uint64 words.
        """
        with self._mine():
            run(self._steps.rows(handle, stamps_ms, values))

    def flush(self) -> WriteResult:
        """Wait until everything is acknowledged; the counts since the last flush."""
        with self._mine():
            return run(self._steps.flush())

    def close(self) -> None:
        """Close the connection without waiting; what is not acknowledged may or may not be stored."""
        self._steps.close()

    def __enter__(self) -> Writer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Flush, unless an exception is on its way; close."""
        try:
            if kind is None:
                self.flush()
        finally:
            self.close()


def make_path(
    cluster: str,
    host: str,
    type: str | None,
    type_id: str | int | None,
    subtype: str | None,
    subtype_id: str | int | None,
) -> SeriesPath:
    """The path of a level from optional parts; numbers as ids become text."""
    from mstore.model import SeriesPath

    parts = [str(part) if part is not None else "" for part in (type, type_id, subtype, subtype_id)]
    return SeriesPath(cluster, host, "", *parts)
