"""Scopes: at which level a metric is stored, at which it is asked, and the questions between the two.

    asked            coarser ------------------------------------------------->
    stored       hwthread   core       memoryDomain  socket     node
    hwthread     each       a core     a domain      a socket   all together
    core         (core)     each       a domain      a socket   all together
    memoryDomain (domain)   (domain)   each          a socket   all together
    socket       (socket)   (socket)   (socket)      each       all together
    node         (node)     (node)     (node)        (node)     the host itself
    accelerator  nothing    nothing    nothing       nothing    all together       accelerator: each

What is asked finer than it is stored is answered as it is stored (in brackets). Accelerators belong to a node, and
cluster.json does not say to which socket.

One rule for jobs that own part of a node, whatever is asked: **a stored part counts if the job owns any of its hardware
threads, counts whole (its value cannot be divided), and counts once, in the part of the coarser scope that holds its
first thread.** So the sums over cores, domains and sockets and that of the node are the same, as far as the topology
puts every thread into a core, a domain and a socket (where it does not, reading it warns).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from mstore.errors import InvalidRequest
from mstore.topology import Topology

FINE_TO_COARSE = ("accelerator", "hwthread", "core", "memoryDomain", "socket", "node")

Level = tuple[str, str, str, str]
"""type, type_id, subtype, subtype_id below a host; four times "": the host itself."""

_RANK = {scope: rank for rank, scope in enumerate(FINE_TO_COARSE)}


@dataclass(frozen=True, slots=True)
class ScopeQuery:
    """One question for a host: some of its levels, an answer for each or one for all."""

    scope: str
    """Of the answer."""
    type: str | None
    """Of the levels that are asked, with `ids`; None: the host itself."""
    ids: tuple[str, ...] = ()
    aggregate: bool = False
    """One answer over all ids; else each has one of its own."""
    id: str | None = None
    """Of that one answer: "1" for socket 1; None for the node."""

    def answer_ids(self) -> tuple[str, ...]:
        """The id of each answer; "" for the node."""
        if self.type is None or self.aggregate:
            return (self.id or "",)
        return self.ids

    def answers(self) -> tuple[tuple[str, tuple[Level, ...]], ...]:
        """The id of each answer ("" for the node), and the levels that make it."""
        if self.type is None:
            return (("", (("", "", "", ""),)),)
        levels = tuple((self.type, one, "", "") for one in self.ids)
        each = (levels,) if self.aggregate else tuple((level,) for level in levels)
        return tuple(zip(self.answer_ids(), each, strict=True))


def effective(native: str, requested: str) -> str:
    """The scope of the answer: the coarser of the two; raises InvalidRequest for what is no scope"""
    for scope in (native, requested):
        if scope not in _RANK:
            raise InvalidRequest(
                f"{scope!r} is no scope: expected one of {', '.join(FINE_TO_COARSE)}", scope=scope
            )
    return max(native, requested, key=_RANK.__getitem__)


def scope_queries(
    native: str,
    requested: str,
    topology: Topology,
    threads: Sequence[int] | None = None,
    accelerators: Iterable[str] = (),
) -> list[ScopeQuery]:
    """The questions for one host that answer a metric of scope `native` at scope `requested`.

    threads       hardware threads that are asked about; None or none: all of the node
    accelerators  their ids, likewise, but none means none
    returns       [] where the topology has nothing to answer with
    raises        InvalidRequest for what is no scope
    """
    scope = effective(native, requested)
    if native == "node":
        return [ScopeQuery("node", None)]
    if native == "accelerator":
        return _of_accelerators(scope, tuple(accelerators))
    owned = _owned(native, topology, threads or _all_threads(topology))
    ids = tuple(str(part) for part in owned)
    if not ids:
        return []
    if scope == native:
        return [ScopeQuery(scope, native, ids)]
    if scope == "node":
        return [ScopeQuery(scope, native, ids, aggregate=True)]
    return _grouped(native, scope, topology, owned)


def _of_accelerators(scope: str, ids: tuple[str, ...]) -> list[ScopeQuery]:
    if not ids or scope not in ("accelerator", "node"):
        return []
    return [ScopeQuery(scope, "accelerator", ids, aggregate=scope == "node")]


def _parts(scope: str, topology: Topology) -> tuple[tuple[int, ...], ...]:
    """The hardware threads of every core, domain or socket."""
    return {"core": topology.cores, "memoryDomain": topology.memory_domains, "socket": topology.sockets}[
        scope
    ]


def _all_threads(topology: Topology) -> list[int]:
    """Those that are listed for the node, then those that only its parts know."""
    parts = (*topology.sockets, *topology.memory_domains, *topology.cores)
    return list(dict.fromkeys(itertools.chain(topology.node, *parts)))


def _owned(native: str, topology: Topology, threads: Sequence[int]) -> dict[int, int]:
    """Parts of the native scope with a thread of `threads`, in order, and the first thread of each."""
    if native == "hwthread":
        return {thread: thread for thread in threads}
    asked = set(threads)
    parts = enumerate(_parts(native, topology))
    return {index: part[0] for index, part in parts if not asked.isdisjoint(part)}


def _grouped(native: str, scope: str, topology: Topology, owned: dict[int, int]) -> list[ScopeQuery]:
    """One question for every part of the coarser scope that holds some of the owned parts, in order."""
    home: dict[int, int] = {}
    for index, part in enumerate(_parts(scope, topology)):
        for thread in part:
            home.setdefault(thread, index)
    groups: dict[int, list[str]] = {}
    for owned_part, first in owned.items():
        if first in home:
            groups.setdefault(home[first], []).append(str(owned_part))
    return [
        ScopeQuery(scope, native, tuple(groups[index]), aggregate=True, id=str(index))
        for index in sorted(groups)
    ]
