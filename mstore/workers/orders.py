"""What an operator orders done with the data: hosts to be protected, chunks to be freed.

    supervisor  ["order", id, tag] + memfd with the message's body  ->  ["done", id, details] or ["failed", id, ...]

A free goes through the series table in slices between two drains, as retention does, and like it logs what goes before it
goes. Series that it leaves with nothing are taken out by the next pass, and so are levels and hosts.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.apply.store import RANGES_PER_PLAN, free_records
from mstore.errors import InvalidRequest, MstoreError
from mstore.ipc import messages as m
from mstore.model import is_name
from mstore.query import selected
from mstore.query.budget import Budget, Slices, Work
from mstore.selector import Selector
from mstore.shm.directory import KEEP_ALL_S
from mstore.workers.freeing import Freeing
from mstore.workers.leaving import Why
from mstore.workers.protecting import Protecting
from mstore.workers.retention import Retention
from mstore.workers.timers import Timers

if TYPE_CHECKING:
    from mstore.workers.persister import Persister

log = logging.getLogger(__name__)

SLICE_SERIES = 2048
_SLICE_S, _PAUSE_S = 0.002, 0.002
_NEVER = int(np.iinfo(np.int64).max)
UNKNOWN_HOSTS_TOLD = 10
"""Names in an answer that are no host of the cluster; their number is told, too."""
_ERAS = 1024
"""Of one series that are looked at: more than any keeps."""

Answer = Callable[[dict[str, Any], MstoreError | None], None]
Ranges = Callable[[slice, NDArray[np.bool_]], NDArray[np.void]]
"""The ranges that go of some rows of the series table, of which those are meant that the mask says."""


class Orders:
    """Owned by the persister's housekeeping."""

    def __init__(
        self,
        persister: Persister,
        timers: Timers,
        freeing: Freeing,
        retention: Retention,
        protecting: Protecting,
    ) -> None:
        self._persister = persister
        self._timers = timers
        self._freeing = freeing
        self._retention = retention
        self._protecting = protecting

    def take(self, tag: int, fd: int, answer: Answer) -> None:
        """Begin to carry out the message in a memfd, which is closed; `answer` is called when it is done or refused."""
        try:
            body = os.pread(fd, os.fstat(fd).st_size, 0)
        finally:
            os.close(fd)
        try:
            message = m.decode(tag, body)
            if isinstance(message, m.Protect):
                answer(self._protect(message), None)
            elif isinstance(message, m.Free):
                self._begin(self._free(message), answer)
            elif isinstance(message, m.ForceFree):
                self._begin(self._force_free(message), answer)
            else:
                raise InvalidRequest(f"{type(message).__name__} is no order for the persister")
        except MstoreError as error:
            answer({}, error)

    def _begin(self, work: Work[dict[str, Any]], answer: Answer) -> None:
        self._go_on(Slices(work, Budget()), answer)

    def _go_on(self, slices: Slices[dict[str, Any]], answer: Answer) -> None:
        try:
            done = slices.run(_SLICE_S)
        except MstoreError as error:
            answer({}, error)
            return
        if done:
            assert slices.answer is not None
            answer(slices.answer, None)
        else:
            self._timers.later(_PAUSE_S, lambda: self._go_on(slices, answer))

    # --- protecting

    def _protect(self, message: m.Protect) -> dict[str, Any]:
        wrong = [name for name in (message.cluster, *message.hosts) if not is_name(name)]
        if wrong:
            raise InvalidRequest(
                f"{wrong[0][:100]!r} is no name: expected 1 to {limits.NAME_BYTES_MAX} bytes without control characters"
            )
        details = self._protecting.protect(message.cluster, message.hosts, message.until_s)
        unknown = self._unknown(message.cluster, message.hosts)
        return {**details, "unknown": unknown[:UNKNOWN_HOSTS_TOLD], "n_unknown": len(unknown)}

    def _unknown(self, cluster: str, hosts: list[str]) -> list[str]:
        """Which of these names neither hold data nor stand in the cluster's topology; each once, in their order."""
        directory = self._persister.directory
        topology = self._persister.config.clusters.get(cluster)
        listed = set(topology.hosts()) if topology is not None else set()
        level = directory.find_level(0, b"", cluster.encode())
        return [
            host
            for host in dict.fromkeys(hosts)
            if host not in listed and (level < 0 or directory.find_level(level, b"", host.encode()) < 0)
        ]

    # --- freeing

    def _free(self, message: m.Free) -> Work[dict[str, Any]]:
        """Whole chunks that end by a time."""
        samples = self._persister.samples

        def ranges(rows: slice, meant: NDArray[np.bool_]) -> NDArray[np.void]:
            limit = np.where(meant, min(message.before_s, 1 << 53), KEEP_ALL_S)
            return samples.expired(rows.start, len(meant), limit)

        return self._each_slice(message.selectors, message.exclude, ranges)

    def _force_free(self, message: m.ForceFree) -> Work[dict[str, Any]]:
        """The oldest chunk of each series: of the oldest of its eras that has one."""
        directory, samples = self._persister.directory, self._persister.samples

        def ranges(rows: slice, meant: NDArray[np.bool_]) -> NDArray[np.void]:
            table = directory.series_table()
            chosen = rows.start + np.flatnonzero(meant & (table["n_chunks"][rows] > 0))
            chosen = chosen[~_has_older_chunks(table, chosen)]
            numbers = table["first_n"][chosen]
            return samples.ranges_of(chosen.astype(np.uint32), numbers, _NEVER)

        return self._each_slice(message.selectors, message.exclude, ranges)

    def _each_slice(self, selectors: list[str], exclude: list[str], ranges: Ranges) -> Work[dict[str, Any]]:
        persister = self._persister
        wanted, left_out = ([Selector.parse(text) for text in texts] for texts in (selectors, exclude))
        levels = yield from selected.below(persister.directory, wanted, left_out)
        details = {"levels": int(levels.sum()), "series": 0, "chunks": 0, "samples": 0}
        for start in range(0, persister.directory.counts()["n_series"], SLICE_SERIES):
            rows = slice(start, start + SLICE_SERIES)
            meant = selected.of_series(persister.directory, levels, rows)
            if not meant.any():
                continue
            for found in _pieces(ranges(rows, meant)):
                n_samples = persister.samples.samples_in(found)
                n_chunks, _ = persister.samples.chunks_in(found)
                self._freeing.go(free_records(found), Why.COMMAND)
                details["chunks"] += n_chunks
                details["samples"] += n_samples
                details["series"] += len(np.unique(found["slot"]))
                persister.slot.add("chunks_freed", n_chunks)
                yield
            empty = persister.directory.series_table()["n_chunks"][rows] == 0
            self._retention.remove_soon(start + np.flatnonzero(meant & empty))
            yield
        self._retention.pass_soon()
        log.info(
            "%d chunks with %d samples of %d series were freed on order",
            details["chunks"], details["samples"], details["series"],
        )  # fmt: skip
        return details


def _pieces(ranges: NDArray[np.void]) -> list[NDArray[np.void]]:
    """At most as many at once as one plan frees."""
    return [ranges[at : at + RANGES_PER_PLAN] for at in range(0, len(ranges), RANGES_PER_PLAN)]


def _has_older_chunks(table: NDArray[np.void], slots: NDArray[np.intp]) -> NDArray[np.bool_]:
    """bool[n]: whether an era before these series' own has a chunk."""
    found = np.zeros(len(slots), bool)
    going, at = np.ones(len(slots), bool), slots
    for _ in range(_ERAS):
        before = table["prev_slot"][at].astype(np.int64) - 1
        going &= before >= 0
        before[~going] = 0
        going &= table["generation"][before] == table["prev_generation"][at]
        if not going.any():
            break
        found |= going & (table["n_chunks"][before] > 0)
        at = np.where(going, before, at)
    return found
