"""A batch request: what is asked of many series at once, every key known and every number checked.

The JSON shape is the metric store's:

    {"cluster": "fritz", "from": 1725620400, "to": 1725624000,
     "queries": [{"metric": "flops_any", "host": "f0201", "type": "hwthread", "type-ids": ["0", "1"],
                  "aggreg": true, "resolution": 240, "subtype": ..., "subtype-ids": ..., "scale-by": 2.0}],
     "for-all-nodes": ["cpu_load"],
     "with-stats": true, "with-data": true, "with-padding": true, "resample-algo": "lttb"}

and "archive", which is mstore's own: false asks memory alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mstore import times
from mstore.choices import ALGORITHMS, refuse_unless
from mstore.errors import EmptyCluster, InvalidRequest, InvalidTimeRange, LimitExceeded, shortened
from mstore.limits import FETCH_QUERIES_MAX, QUERY_SERIES_MAX
from mstore.nearest import nearest

RESOLUTION_S_MAX = 2**31 - 1

_QUERY_KEYS = (
    "metric", "host", "resolution", "type", "type-ids", "subtype", "subtype-ids", "scale-by", "aggreg",
)  # fmt: skip
_KEYS = (
    "cluster", "queries", "for-all-nodes", "from", "to", "with-stats", "with-data", "with-padding", "resample-algo",
    "archive",
)  # fmt: skip


@dataclass(slots=True)
class FetchQuery:
    """One query: a row of the answer, with an entry for every id, or one for all of them together.

    Not frozen, because thousands are made at a time; nobody changes one.
    """

    metric: str
    host: str
    resolution: int = 0
    """Seconds between points; no coarser than the metric's step: as stored."""
    type: str | None = None
    type_ids: tuple[str, ...] = ()
    subtype: str | None = None
    subtype_ids: tuple[str, ...] = ()
    scale_by: float = 0.0
    """Data and statistics are multiplied by it; 0 and 1: they are not."""
    aggregate: bool = False
    """One entry over all ids, by the metric's aggregation."""

    @property
    def one_level(self) -> bool:
        """Whether it asks for the host or for all its ids together, and not for an entry each."""
        return self.aggregate or (self.type in (None, "node") and self.subtype is None)

    def levels(self) -> Iterable[tuple[str, str, str, str]]:
        """(type, type_id, subtype, subtype_id) of each level that is asked, in order."""
        types = (
            [("", "")] if self.type in (None, "node") else [(self.type or "", one) for one in self.type_ids]
        )
        subtypes = [("", "")] if self.subtype is None else [(self.subtype, one) for one in self.subtype_ids]
        return ((*upper, *lower) for upper in types for lower in subtypes)

    @property
    def n_levels(self) -> int:
        n_types = 1 if self.type in (None, "node") else len(self.type_ids)
        return n_types * (1 if self.subtype is None else len(self.subtype_ids))

    def to_dict(self) -> dict[str, Any]:
        """Its JSON shape; what is absent by default is left out."""
        found: dict[str, Any] = {
            "metric": self.metric, "host": self.host, "resolution": self.resolution, "aggreg": self.aggregate,
        }  # fmt: skip
        if self.type is not None:
            found |= {"type": self.type, "type-ids": list(self.type_ids)}
        if self.subtype is not None:
            found |= {"subtype": self.subtype, "subtype-ids": list(self.subtype_ids)}
        if self.scale_by != 0:
            found["scale-by"] = self.scale_by if math.isfinite(self.scale_by) else None
        return found


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Queries of one cluster over [start, end), Unix seconds."""

    cluster: str
    start: int
    end: int
    queries: tuple[FetchQuery, ...] = ()
    for_all_nodes: tuple[str, ...] | None = None
    """Metrics to ask of every node of the cluster, besides the queries."""
    with_stats: bool = True
    with_data: bool = True
    with_padding: bool = True
    """Every series has the whole range; False: missing samples at both ends are left out."""
    algo: str = "lttb"
    archive: bool = True
    """Also what has left memory, where the store has an archive."""

    def __post_init__(self) -> None:
        """raises EmptyCluster, InvalidTimeRange, InvalidRequest, LimitExceeded"""
        if not self.cluster:
            raise EmptyCluster('a batch request without a cluster: expected its name as "cluster"')
        if self.start > self.end:
            raise InvalidTimeRange(
                f"the range starts at {self.start} and ends before, at {self.end}",
                start=self.start,
                end=self.end,
            )
        refuse_unless("resample-algo", self.algo, ALGORITHMS)
        refuse_too_many(len(self.queries))
        n_entries = sum(query.n_levels for query in self.queries)
        if n_entries > QUERY_SERIES_MAX:
            raise LimitExceeded(
                f"a batch request for {n_entries} ids; at most {QUERY_SERIES_MAX}: ask for less at a time",
                limit=QUERY_SERIES_MAX,
            )

    @classmethod
    def parse(cls, document: Mapping[str, Any] | FetchRequest, now_s: int) -> FetchRequest:
        """The request of a JSON document; relative times ("-2h") count from now_s.

        raises InvalidRequest naming the place, the value and what is allowed; and what __post_init__ raises
        """
        if isinstance(document, FetchRequest):
            return document
        _known(document, _KEYS, "")
        for key in ("cluster", "from", "to"):
            if key not in document:
                raise InvalidRequest(f"a batch request without {key!r}: expected {', '.join(_KEYS[:5])}")
        listed = _value(document, "queries", "", (list, tuple), "a list of queries", None) or ()
        refuse_too_many(len(listed))
        return cls(
            _value(document, "cluster", "", str, "a name", ""),
            times.to_seconds(document["from"], now_s),
            times.to_seconds(document["to"], now_s),
            tuple(_query(query, f"queries[{index}].") for index, query in enumerate(listed)),
            None if document.get("for-all-nodes") is None else _names(document, "for-all-nodes", ""),
            _value(document, "with-stats", "", bool, "true or false", True),
            _value(document, "with-data", "", bool, "true or false", True),
            _value(document, "with-padding", "", bool, "true or false", True),
            _value(document, "resample-algo", "", str, ", ".join(ALGORITHMS), "") or "lttb",
            _value(document, "archive", "", bool, "true or false", True),
        )


def refuse_too_many(n_queries: int) -> None:
    """LimitExceeded for more queries than a batch may have."""
    if n_queries > FETCH_QUERIES_MAX:
        raise LimitExceeded(
            f"a batch of {n_queries} queries; at most {FETCH_QUERIES_MAX}: ask for less at a time",
            limit=FETCH_QUERIES_MAX,
        )


def _query(document: object, where: str) -> FetchQuery:
    if not isinstance(document, Mapping):
        raise InvalidRequest(f"{where[:-1]} is no object: expected {{{', '.join(_QUERY_KEYS)}}}")
    _known(document, _QUERY_KEYS, where)
    resolution = _value(document, "resolution", where, int, "whole seconds", 0)
    if not 0 <= resolution <= RESOLUTION_S_MAX:
        raise InvalidRequest(f"{where}resolution={resolution}: expected 0 to {RESOLUTION_S_MAX} seconds")
    return FetchQuery(
        _value(document, "metric", where, str, "a name"),
        _value(document, "host", where, str, "a name"),
        resolution,
        _value(document, "type", where, str, "a name", None),
        _names(document, "type-ids", where),
        _value(document, "subtype", where, str, "a name", None),
        _names(document, "subtype-ids", where),
        _scale(document, where),
        _value(document, "aggreg", where, bool, "true or false", False),
    )


def _scale(document: Mapping[str, Any], where: str) -> float:
    if "scale-by" not in document:
        return 0.0
    value = document["scale-by"]
    if value is None:
        return math.nan  # as the metric store reads it; the query is answered by an error
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidRequest(f"{where}scale-by={_shown(value)}: expected a number")
    try:
        return float(value)
    except OverflowError:
        return math.inf


_MISSING = object()


def _value(
    document: Mapping[str, Any],
    key: str,
    where: str,
    kind: type | tuple[type, ...],
    expected: str,
    absent: Any = _MISSING,
) -> Any:
    """The value of a key; null is the same as absent."""
    value = document.get(key)
    if value is None:
        if absent is _MISSING:
            raise InvalidRequest(f"{where}{key} is missing: expected {expected}")
        return absent
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise InvalidRequest(f"{where}{key}={_shown(value)}: expected {expected}")
    return value


def _names(document: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    listed: Sequence[Any] = _value(document, key, where, (list, tuple), "a list of names", None) or ()
    for name in listed:
        if not isinstance(name, str):
            raise InvalidRequest(f"{where}{key} holds {_shown(name)}: expected names as texts")
    return tuple(listed)


def _known(document: Mapping[str, Any], keys: Sequence[str], where: str) -> None:
    for key in document:
        if key not in keys:
            near = nearest(str(key), keys)
            hint = f"did you mean {near}? " if near else ""
            raise InvalidRequest(
                f"{where}{key} is no key of a batch request: {hint}allowed are {', '.join(keys)}"
            )


def _shown(value: object) -> str:
    return shortened(repr(value))
