"""Questions to a mapped store that has an archive: asked of memory, or of memory and archive together where needed.

    question ── needed? ── no ──> memory, as if there were no archive
                       └── yes ─> overlay of what the question reaches ──> the same question of that

What of the archive cannot be read is said: by `.why` of a series, by the errors of a view of a job. An answer that has
no place for it is an ArchiveError.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mstore import clock, functions
from mstore.archive.begun import gone
from mstore.archive.scope import Scope, joined, scope_of
from mstore.archive.switch import Switch
from mstore.config import Config
from mstore.errors import ArchiveError, StorageError
from mstore.fetching.answer import Fetched
from mstore.fetching.request import FetchRequest
from mstore.frames import Series
from mstore.jobs.loaded import Loaded
from mstore.jobs.request import LoadRequest
from mstore.persistence.files import ReadOnly
from mstore.query.budget import Budget, Work
from mstore.query.plan import Ids, Request
from mstore.query.reader import Reader
from mstore.selector import Selector
from mstore.tables import Stats, Top

if TYPE_CHECKING:
    from mstore.archive.lives import Memory
    from mstore.archive.reading import ArchiveFiles

Answer = Series | list[Series]


class ArchiveReader:
    """The archive of one store, as one process reads it beside the store's memory.

    left    control.left: see Switch
    config  as a Reader has it
    """

    def __init__(
        self,
        store_dir: Path,
        reader: Reader,
        left: Callable[[], int],
        config: Callable[[], Config],
        now_s: Callable[[], int] = clock.now_s,
    ) -> None:
        self.switch = Switch(store_dir, reader.shortest_retention_s, left, now_s)
        self._store_dir = store_dir
        self._where = reader.directory.segment, reader.gatherer.samples
        self._config = config
        self._now_s = now_s
        self._memory: Memory | None = None
        self._files: ArchiveFiles | None = None

    def over(self, scopes: Sequence[Scope]) -> tuple[Reader | None, list[str]]:
        """A Reader of everything the scopes reach, and what of the archive could not be read; None: ask memory.

        raises  LimitExceeded
        """
        try:
            # pyarrow comes with it: only questions that need the archive load it.
            from mstore.archive.lives import Memory
            from mstore.archive.overlay import build
            from mstore.archive.reading import ArchiveFiles

            setup = self.switch.setup
        except ArchiveError as error:
            return None, [error.message]
        if setup is None:
            return None, []
        problems = self._gone(setup.directory)
        if self._memory is None:
            self._memory = Memory(*self._where)
        if self._files is None or self._files.root != setup.directory:
            self._files = ArchiveFiles(setup.directory)
        made = build(
            self._files, self._memory, scopes,
            store_dir=self._store_dir, now_s=self._now_s, config=self._config,
        )  # fmt: skip
        return made.reader, [*problems, *made.problems]

    def _gone(self, root: Path) -> list[str]:
        """What is missing with the whole archive, if it is: that looks like an archive of nothing."""
        try:
            why = gone(ReadOnly(), self._store_dir, root)
        except StorageError as error:
            return [error.message]
        return [why] if why else []


class ArchivedQuestions(Reader):
    """A Reader that answers from the archive, too. Whoever makes it sets `archive`."""

    archive: ArchiveReader

    def single(
        self, cluster: str, host: str, metric: str, start: int, end: int, type: str | None, type_ids: Ids
    ) -> Series | None:
        if self.archive.switch.needed(cluster, start, end):
            return None
        return super().single(cluster, host, metric, start, end, type, type_ids)

    def answering(self, requests: Sequence[Request], budget: Budget) -> Work[list[Answer]]:
        if not self.archive.switch.reads:
            return super().answering(requests, budget)
        far = [index for index, one in enumerate(requests) if one.archive and self._needed(one)]
        return self._apart(requests, far, budget) if far else super().answering(requests, budget)

    def _needed(self, request: Request) -> bool:
        return self.archive.switch.needed(*reach_of(self, request))

    def _apart(self, requests: Sequence[Request], far: list[int], budget: Budget) -> Work[list[Answer]]:
        """Those that need the archive are asked of memory and archive, the others of memory."""
        near = sorted(set(range(len(requests))) - set(far))
        answers = dict(
            zip(near, (yield from super().answering([requests[i] for i in near], budget)), strict=True)
        )
        asked = [requests[index] for index in far]
        reader, problems = self.archive.over(joined(map(scope_of, asked)))
        both = super().answering(asked, budget) if reader is None else reader.answering(asked, budget)
        for index, answer in zip(far, (yield from both), strict=True):
            answers[index] = said(answer, problems)
        return [answers[index] for index in range(len(requests))]

    def fetch_work(self, request: FetchRequest, budget: Budget) -> Work[Fetched]:
        reader = self._whole([scope_of_fetch(request)] if request.archive else [])
        return super().fetch_work(request, budget) if reader is None else reader.fetch_work(request, budget)

    def load_work(self, request: LoadRequest, budget: Budget) -> Work[Loaded]:
        scope = scope_of_load(request)
        if not self.archive.switch.needed(scope.cluster, scope.start, scope.end):
            return super().load_work(request, budget)
        reader, problems = self.archive.over([scope])
        work = super().load_work(request, budget) if reader is None else reader.load_work(request, budget)
        return _with_errors(work, problems)

    def stats_work(
        self, selector: Selector, metric: str, start: int, end: int, percentiles: Sequence[float], per: str,
        budget: Budget,
    ) -> Work[Stats]:  # fmt: skip
        reader = self._whole(self._of_selector(selector, metric, start, end))
        ask = super().stats_work if reader is None else reader.stats_work
        return ask(selector, metric, start, end, percentiles, per, budget)

    def top_work(
        self, selector: Selector, metric: str, start: int, end: int, k: int, by: str, largest: bool, per: str,
        budget: Budget,
    ) -> Work[Top]:  # fmt: skip
        reader = self._whole(self._of_selector(selector, metric, start, end))
        ask = super().top_work if reader is None else reader.top_work
        return ask(selector, metric, start, end, k, by, largest, per, budget)

    def series_work(self, selector: Selector, request: Request, budget: Budget) -> Work[Answer]:
        _, start, end = reach_of(self, request)
        scopes = self._of_selector(selector, request.metric, start, end)
        if not self._any_needed(scopes):
            return super().series_work(selector, request, budget)
        reader, problems = self.archive.over(scopes)
        ask = super().series_work if reader is None else reader.series_work
        return _with_why(ask(selector, request, budget), problems)

    # --- what a question reaches

    def _of_selector(self, selector: Selector, metric: str, start: int, end: int) -> list[Scope]:
        clusters = selected_clusters(self, self.archive.switch, selector)
        hosts = selector.steps[1].names if selector.depth > 1 else None
        return [Scope(cluster, hosts, {metric}, start, end) for cluster in clusters]

    def _any_needed(self, scopes: Sequence[Scope]) -> bool:
        return any(self.archive.switch.needed(one.cluster, one.start, one.end) for one in scopes)

    def _whole(self, scopes: Sequence[Scope]) -> Reader | None:
        """A Reader of all that scopes reach, where memory is not enough. raises ArchiveError when a part is missing"""
        if not self._any_needed(scopes):
            return None
        reader, problems = self.archive.over(scopes)
        if problems:
            raise ArchiveError(f"{_told(problems)}: ask for what memory holds", n_problems=len(problems))
        return reader


def reach_of(reader: Reader, request: Request) -> tuple[str, int, int]:
    """Cluster and seconds [start, end) that a question looks at, by its function also around its range.

    raises  what an unsound question is refused for
    """
    request.refuse_unless_sound()
    if not request.function:
        return request.cluster, request.start, request.end
    before_s, after_s = functions.reach(request.function, request.window, reader.longest_step_s())
    return request.cluster, request.start - before_s, request.end + after_s


def selected_clusters(reader: Reader, switch: Switch, selector: Selector) -> list[str]:
    """Names of the clusters that a selector may mean, in memory and archive."""
    step = selector.steps[0]
    if step.names is not None:
        return list(dict.fromkeys(step.names))
    known = dict.fromkeys([*reader.children(), *switch.clusters()])
    return [name for name in known if step.matches(name)]


def scope_of_fetch(request: FetchRequest) -> Scope:
    every = request.for_all_nodes or ()
    hosts = None if every else {query.host for query in request.queries}
    metrics = {*every, *(query.metric for query in request.queries)}
    return Scope(request.cluster, hosts, metrics, request.start, request.end)


def scope_of_load(request: LoadRequest) -> Scope:
    hosts = None if request.resources is None else {one.host for one in request.resources}
    metrics = None if request.metrics is None else set(request.metrics)
    return Scope(request.cluster, hosts, metrics, request.start, request.end)


# --- what is missing


def said(answer: Answer, problems: Sequence[str]) -> Answer:
    """The answer with what of the archive it lacks."""
    if problems:
        for series in answer if isinstance(answer, list) else [answer]:
            series.why = "; ".join(filter(None, [series.why, _told(problems)]))
    return answer


def _with_why(work: Work[Answer], problems: Sequence[str]) -> Work[Answer]:
    return said((yield from work), problems)


def _with_errors(work: Work[Loaded], problems: Sequence[str]) -> Work[Loaded]:
    """The view, with an error of each metric that may lack samples."""
    loaded = yield from work
    if problems:
        error = ArchiveError(_told(problems), n_problems=len(problems))
        loaded.failed = [*loaded.failed, *((metric.name, error) for metric in loaded.metrics)]
    return loaded


def _told(problems: Sequence[str]) -> str:
    more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
    return f"part of the archive is missing: {problems[0]}{more}"
