"""Questions to a mapped store that has an archive: asked of memory, or of memory and archive together where needed.

    query ── needed? ── no ──> memory, as if there were no archive
                    └── yes ─> overlay of what the question reaches ──> the same query of that

`archive=False` asks memory alone. What of the archive cannot be read is said by the answer, `.why`; an answer that has
no place for that is an ArchiveError.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from mstore import clock
from mstore.archive.switch import Switch
from mstore.errors import ArchiveError
from mstore.frames import Series
from mstore.query.plan import Ids, Request
from mstore.query.reader import Reader, Time
from mstore.times import to_seconds

if TYPE_CHECKING:
    from mstore.archive.lives import Memory
    from mstore.archive.reading import ArchiveFiles, Scope

T = TypeVar("T")

Answer = Series | list[Series]


class ArchiveReader:
    """The archive of one store, as one process reads it beside the store's memory.

    left  control.left: see Switch
    """

    def __init__(
        self, store_dir: Path, reader: Reader, left: Callable[[], int], now_s: Callable[[], int] = clock.now_s
    ) -> None:
        self.switch = Switch(store_dir, reader.shortest_retention_s, left, now_s)
        self._store_dir = store_dir
        self._reader = reader
        self._now_s = now_s
        self._memory: Memory | None = None
        self._files: ArchiveFiles | None = None

    def needed(self, cluster: str, start: int, end: int) -> bool:
        """Whether memory alone may lack samples of [start, end). Where that cannot be known, the answer is yes."""
        try:
            return self.switch.needed(cluster, start, end)
        except ArchiveError:
            return True

    def over(self, scopes: Sequence[Scope]) -> tuple[Reader, list[str]]:
        """A Reader of everything the scopes reach, and what of the archive could not be read.

        raises  LimitExceeded
        """
        try:
            # pyarrow comes with it: only questions that need the archive load it.
            from mstore.archive.lives import Memory
            from mstore.archive.overlay import build
            from mstore.archive.reading import ArchiveFiles

            setup = self.switch.setup
        except ArchiveError as error:
            return self._reader, [error.message]
        if setup is None:
            return self._reader, []
        if self._memory is None:
            self._memory = Memory(self._reader.directory.segment, self._reader.gatherer.samples)
        if self._files is None or self._files.root != setup.directory:
            self._files = ArchiveFiles(setup.directory)
        made = build(self._files, self._memory, scopes, store_dir=self._store_dir, now_s=self._now_s)
        return made.reader, made.problems


def said(answer: Answer, problems: Sequence[str]) -> Answer:
    """The answer with what of the archive it lacks."""
    if problems:
        more = f"; {len(problems) - 1} more" if len(problems) > 1 else ""
        for series in answer if isinstance(answer, list) else [answer]:
            series.why = "; ".join(
                filter(None, [series.why, f"part of the archive is missing: {problems[0]}{more}"])
            )
    return answer


def refuse_if_any(problems: Sequence[str]) -> None:
    """For answers that have no place for it. raises ArchiveError"""
    if problems:
        raise ArchiveError(f"{problems[0]} (archive=False asks memory alone)", n_problems=len(problems))


def scope_of(request: Request) -> Scope:
    from mstore.archive.reading import Scope

    return Scope(request.cluster, {request.host}, {request.metric}, request.start, request.end)


class ArchivedQuestions(Reader):
    """A Reader that answers from the archive, too. Whoever makes it sets both fields.

    archive  None: there is none
    bare     the same memory without an archive
    """

    archive: ArchiveReader | None
    bare: Reader

    def query(
        self,
        cluster: str,
        host: str,
        metric: str,
        start: Time,
        end: Time,
        *,
        type: str | None = None,
        type_ids: Ids = None,
        subtype: str | None = None,
        subtype_ids: Ids = None,
        aggregate: bool = False,
        resolution: int = 0,
        missing: str = "skip",
        archive: bool = True,
    ) -> Answer:
        """As Reader.query; samples that have left memory come from the archive, unless archive=False.

        What of the archive could not be read is said by .why; the rest is answered.
        """
        reader: Reader = self.bare
        problems: list[str] = []
        if archive and self.archive is not None:
            now_s = self._now_s()
            start, end = to_seconds(start, now_s), to_seconds(end, now_s)
            if self.archive.needed(cluster, start, end):
                reader, problems = self.archive.over([scope_of(Request(cluster, host, metric, start, end))])
        answer = reader.query(
            cluster, host, metric, start, end, type=type, type_ids=type_ids, subtype=subtype,
            subtype_ids=subtype_ids, aggregate=aggregate, resolution=resolution, missing=missing,
        )  # fmt: skip
        return said(answer, problems)

    def ask(self, request: Request, *, archive: bool = True) -> Answer:
        """query() for a Request, whose times are seconds already."""
        return self.query_many([request], archive=archive)[0]

    def query_many(self, requests: Iterable[Request], *, archive: bool = True) -> list[Answer]:
        """As Reader.query_many, of memory and archive together where any of them needs it."""
        asked = list(requests)
        both = self.archive if archive else None
        if both is None or not any(both.needed(one.cluster, one.start, one.end) for one in asked):
            return self.bare.query_many(asked)
        reader, problems = both.over(joined([scope_of(one) for one in asked]))
        return [said(answer, problems) for answer in reader.query_many(asked)]


def joined(scopes: Collection[Scope]) -> list[Scope]:
    """One scope a cluster that holds all that these hold: many questions of a job view become one look."""
    from mstore.archive.reading import Scope

    found: dict[str, Scope] = {}
    for one in scopes:
        first = found.get(one.cluster)
        if first is None:
            found[one.cluster] = one
            continue
        hosts = None if first.hosts is None or one.hosts is None else {*first.hosts, *one.hosts}
        metrics = None if first.metrics is None or one.metrics is None else {*first.metrics, *one.metrics}
        found[one.cluster] = Scope(
            one.cluster, hosts, metrics, min(first.start, one.start), max(first.end, one.end)
        )
    return list(found.values())
