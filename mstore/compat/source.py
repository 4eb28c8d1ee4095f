"""Where an export reads: a store's memory, or its query socket; both through the same three questions."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mstore.client.questions import Question
from mstore.errors import InvalidRequest
from mstore.frames import Series
from mstore.model import SeriesPath
from mstore.query.plan import Request
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

if TYPE_CHECKING:
    from mstore.query.reader import Reader


class Asked(Protocol):
    """What is needed of client.sync.Client."""

    def children(self, *path: str) -> list[str]: ...
    def host_series(self, cluster: str, host: str) -> list[SeriesPath]: ...
    def query_many(self, questions: Iterable[Question]) -> list[Series | list[Series]]: ...


@dataclass(frozen=True, slots=True)
class Source:
    """A store to read from.

    names    names of the levels below a path: clusters, hosts of a cluster
    series   every series of a host
    samples  of many series in [start, end), each with its own slots, in the order asked
    """

    names: Callable[..., list[str]]
    series: Callable[[str, str], list[SeriesPath]]
    samples: Callable[[Sequence[SeriesPath], int, int], list[Series]]
    oldest_s: Callable[[], int | None]
    """Start of the oldest chunk, Unix seconds; None when nothing is there. raises InvalidRequest when it cannot be known"""
    damage: str = ""
    """Of a store that was read back from its files: what could not be read."""


def attached(reader: Reader) -> Source:
    """A store whose memory is mapped."""

    def samples(paths: Sequence[SeriesPath], start: int, end: int) -> list[Series]:
        return _single(reader.query_many([Request(*_arguments(path, start, end)) for path in paths]))

    return Source(reader.children, reader.host_series, samples, lambda: oldest_s(reader.directory))


def asked(client: Asked) -> Source:
    """A store behind its socket."""

    def samples(paths: Sequence[SeriesPath], start: int, end: int) -> list[Series]:
        return _single(client.query_many([Question(*_arguments(path, start, end)) for path in paths]))

    return Source(client.children, client.host_series, samples, _not_known)


def _not_known() -> int | None:
    raise InvalidRequest("the store's memory cannot be read by this user: say with --from from when on")


def oldest_s(directory: DirectoryReader) -> int | None:
    """Start of the oldest chunk of any grid series, Unix seconds; None when there is none."""
    table = directory.series_table()
    there = table[
        (table["flags"] & layout.SERIES_LIVE != 0) & (table["n_chunks"] > 0) & (table["step_s"] > 0)
    ]
    if not len(there):
        return None
    slots = there["first_n"].astype(np.int64) * layout.CHUNK_SLOTS
    return int((there["anchor_s"] + slots * there["step_s"]).min())


def _arguments(
    path: SeriesPath, start: int, end: int
) -> tuple[str, str, str, int, int, str | None, str | None, str | None, str | None]:
    """The first arguments of a question for this very series."""
    inner = bool(path.subtype or path.subtype_id)
    outer = bool(path.type or path.type_id)
    return (
        path.cluster, path.host, path.metric, start, end,
        path.type if outer else None, path.type_id if outer else None,
        path.subtype if inner else None, path.subtype_id if inner else None,
    )  # fmt: skip


def _single(answers: Sequence[Series | list[Series]]) -> list[Series]:
    found = []
    for answer in answers:
        assert isinstance(answer, Series), "one id was asked for, not a list"
        found.append(answer)
    return found
