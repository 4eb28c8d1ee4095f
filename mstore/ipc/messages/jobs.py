"""Messages of query.sock about jobs and nodes: batch requests, views of hosts, and what they are planned by.

An answer holds thousands of series in a few bins (mstore/fetching/packed.py, mstore/jobs/loaded.py), and in `notes`
what is small: texts, errors and names, as a msgpack map. What makes values of a message is imported when one comes:
most clients never ask for jobs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgpack

from mstore.errors import MstoreError, ProtocolError, from_wire
from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages import connection
from mstore.ipc.messages.base import Message, message

if TYPE_CHECKING:
    from mstore.fetching.answer import Fetched
    from mstore.fetching.packed import Packed
    from mstore.fetching.request import FetchRequest
    from mstore.health import Health
    from mstore.jobs.loaded import Loaded
    from mstore.jobs.request import LoadRequest

_TEXT_OR_NONE = (str, type(None))
_ITEMS_MAX = 1 << 22


@message
class Clusters(Message):
    """The topologies and metric definitions of the store's configuration -> ClusterList."""

    deadline_ms: int = 0


@message
class ClusterList(Message):
    """What config.told() says: the TOML that metrics are defined by, a cluster.json document for each topology."""

    MANY: ClassVar[bool] = True
    toml: str
    clusters: list[dict[str, Any]]


@message
class Fetch(Message):
    """A batch request -> FetchAnswer. A query is
    [metric, host, resolution, type | nil, type_ids, subtype | nil, subtype_ids, scale_by, aggregate]."""

    MANY: ClassVar[bool] = True
    cluster: str
    start: int
    end: int
    queries: list[list[Any]]
    for_all_nodes: list[str] | None = None
    with_stats: bool = True
    with_data: bool = True
    with_padding: bool = True
    algo: str = "lttb"
    deadline_ms: int = 0
    archive: bool = True

    @classmethod
    def of(cls, request: FetchRequest, deadline_ms: int = 0) -> Fetch:
        queries = [
            [one.metric, one.host, one.resolution, one.type, one.type_ids, one.subtype, one.subtype_ids,
             float(one.scale_by), one.aggregate]
            for one in request.queries
        ]  # fmt: skip
        every = None if request.for_all_nodes is None else list(request.for_all_nodes)
        return cls(
            request.cluster, request.start, request.end, queries, every, request.with_stats, request.with_data,
            request.with_padding, request.algo, deadline_ms, request.archive,
        )  # fmt: skip

    def request(self) -> FetchRequest:
        """raises what FetchRequest raises"""
        from mstore.fetching.request import FetchQuery, FetchRequest

        queries = (
            FetchQuery(
                metric, host, resolution, type_, tuple(ids), subtype, tuple(subtype_ids), scale, aggregate
            )
            for metric, host, resolution, type_, ids, subtype, subtype_ids, scale, aggregate in self.queries
        )
        every = None if self.for_all_nodes is None else tuple(self.for_all_nodes)
        return FetchRequest(
            self.cluster, self.start, self.end, tuple(queries), every, self.with_stats, self.with_data,
            self.with_padding, self.algo, self.archive,
        )  # fmt: skip


@message
class FetchAnswer(Message):
    """sizes u32[n]: series of each row, that of for-all-nodes behind the others; entries and values: of all of them;
    notes: a msgpack map of texts, errors [[code, message, details]], hosts (of for-all-nodes)."""

    sizes: Bin
    entries: Bin
    values: Bin
    notes: Bin

    @classmethod
    def of(cls, fetched: Fetched) -> FetchAnswer:
        packed = fetched.packed
        notes = {**_notes_of(packed), "hosts": list(fetched.hosts)}
        return cls(fetched.sizes.tobytes(), packed.entries.tobytes(), packed.values, msgpack.packb(notes))

    def fetched(self, request: FetchRequest) -> Fetched:
        """The answer to `request`. raises ProtocolError when it is none"""
        import numpy as np

        from mstore.fetching.answer import Fetched

        notes = _read_notes(self.notes)
        sizes = np.frombuffer(_column(self.sizes, 4), "<u4")
        return Fetched(request, _names(notes, "hosts"), sizes, _packed(self.entries, self.values, notes))


@message
class Load(Message):
    """Metrics of hosts at some scopes -> LoadAnswer. A resource is [host, threads, accelerators | nil]."""

    MANY: ClassVar[bool] = True
    cluster: str
    start: int
    end: int
    resources: list[list[Any]] | None
    subcluster: str
    metrics: list[str] | None
    scopes: list[str]
    resolution: int = 0
    algo: str = "lttb"
    with_data: bool = True
    with_stats: bool = True
    deadline_ms: int = 0

    @classmethod
    def of(cls, request: LoadRequest, deadline_ms: int = 0) -> Load:
        resources = None
        if request.resources is not None:
            resources = [[one.host, one.threads, one.accelerators] for one in request.resources]
        return cls(
            request.cluster, request.start, request.end, resources, request.subcluster,
            None if request.metrics is None else list(request.metrics), list(request.scopes), request.resolution,
            request.algo, request.with_data, request.with_stats, deadline_ms,
        )  # fmt: skip

    def request(self) -> LoadRequest:
        """raises what LoadRequest raises"""
        from mstore.jobs.job import Resource
        from mstore.jobs.request import LoadRequest

        resources = None
        if self.resources is not None:
            resources = tuple(
                Resource(host, tuple(threads), None if accelerators is None else tuple(accelerators))
                for host, threads, accelerators in self.resources
            )
        return LoadRequest(
            self.cluster, self.start, self.end, resources, self.subcluster,
            None if self.metrics is None else tuple(self.metrics), tuple(self.scopes), self.resolution, self.algo,
            self.with_data, self.with_stats,
        )  # fmt: skip


@message
class LoadAnswer(Message):
    """labels, entries, values: of all series; notes: a msgpack map of texts, errors, hosts, ids,
    metrics [[name, unit, unit_prefix, step_s, scope]], failed [[metric, code, message, details]]."""

    labels: Bin
    entries: Bin
    values: Bin
    notes: Bin

    @classmethod
    def of(cls, loaded: Loaded) -> LoadAnswer:
        packed = loaded.packed
        notes = {
            **_notes_of(packed),
            "hosts": list(loaded.hosts),
            "ids": list(loaded.ids),
            "metrics": [
                [one.name, one.unit, one.unit_prefix, one.step_s, one.scope] for one in loaded.metrics
            ],
            "failed": [[name, *_error(error)] for name, error in loaded.failed],
        }
        return cls(loaded.labels.tobytes(), packed.entries.tobytes(), packed.values, msgpack.packb(notes))

    def loaded(self, cluster: str) -> Loaded:
        """The answer about `cluster`. raises ProtocolError when it is none"""
        import numpy as np

        from mstore.jobs.loaded import LABEL, Loaded, LoadedMetric

        notes = _read_notes(self.notes)
        labels = np.frombuffer(_column(self.labels, LABEL.itemsize), LABEL)
        try:
            metrics = [
                LoadedMetric(str(name), str(unit), str(prefix), int(step_s), str(scope))
                for name, unit, prefix, step_s, scope in notes["metrics"]
            ]
            failed = [(str(name), _error_of(error)) for name, *error in notes["failed"]]
        except (KeyError, ValueError, TypeError) as error:
            raise ProtocolError(f"LoadAnswer.notes: {error!r}") from error
        packed = _packed(self.entries, self.values, notes)
        return Loaded(cluster, metrics, _names(notes, "hosts"), _names(notes, "ids"), labels, packed, failed)


@message
class CheckHealth(Message):
    """Which metrics of which hosts arrive; nil: all hosts, the cluster's usual metrics -> HealthAnswer."""

    MANY: ClassVar[bool] = True
    cluster: str
    hosts: list[str] | None = None
    metrics: list[str] | None = None
    deadline_ms: int = 0


@message
class HealthAnswer(Message):
    """known u8[n]: 1 = the store has heard of the host; states u8[n][m]: a row a host, a column a metric:
    0 missing, 1 healthy, 2 degraded, 3 not expected on this host."""

    MANY: ClassVar[bool] = True
    hosts: list[str]
    metrics: list[str]
    known: Bin
    states: Bin

    @classmethod
    def of(cls, health: Health) -> HealthAnswer:
        return cls(list(health.hosts), list(health.metrics), health.known_flags, health.states)

    def health(self, cluster: str) -> Health:
        """The answer about `cluster`. raises ProtocolError when it is none"""
        from mstore.health import Health

        return Health(cluster, self.hosts, self.metrics, bytes(self.known), bytes(self.states))


# --- notes: what is small


def _notes_of(packed: Packed) -> dict[str, Any]:
    return {"texts": list(packed.texts), "errors": [_error(error) for error in packed.errors]}


def _error(error: MstoreError) -> list[Any]:
    wire = connection.Error.of(error)
    return [wire.code, wire.message, wire.details]


def _error_of(wire: Any) -> MstoreError:
    code, text, details = wire
    return from_wire(str(code), str(text), dict(details))


def _read_notes(raw: Bin) -> dict[str, Any]:
    try:
        notes = msgpack.unpackb(raw, max_array_len=_ITEMS_MAX, max_map_len=_ITEMS_MAX)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise ProtocolError(f"an answer whose notes are no msgpack map ({error})") from error
    if not isinstance(notes, dict):
        raise ProtocolError("an answer whose notes are no map")
    return notes


def _packed(entries: Bin, values: Bin, notes: dict[str, Any]) -> Packed:
    import numpy as np

    from mstore.fetching.packed import ENTRY, Packed

    try:
        errors = [_error_of(one) for one in notes.get("errors", [])]
    except (ValueError, TypeError) as error:
        raise ProtocolError(f"an answer whose errors are none: {error}") from error
    table = np.frombuffer(_column(entries, ENTRY.itemsize), ENTRY)
    return Packed(table, bytes(values), _names(notes, "texts"), errors)


def _names(notes: dict[str, Any], key: str) -> list[str]:
    found = notes.get(key)
    if not isinstance(found, list) or not set(map(type, found)) <= {str}:
        raise ProtocolError(f"an answer whose {key} are no list of texts")
    return found


def _column(raw: Bin, itemsize: int) -> bytes:
    """A copy: what was decoded is a view of memory that the next message is received into, and not aligned."""
    if len(raw) % itemsize:
        raise ProtocolError(f"an answer with a column of {len(raw)} bytes, no multiple of {itemsize}")
    return bytes(raw)


# --- checks beyond the type


def _texts(value: Any) -> bool:
    return type(value) is list and set(map(type, value)) <= {str}


def _query(value: Any) -> bool:
    if type(value) is not list or len(value) != 9:
        return False
    metric, host, resolution, type_, type_ids, subtype, subtype_ids, scale, aggregate = value
    return (
        type(metric) is type(host) is str
        and type(resolution) is int
        and 0 <= resolution < 2**31
        and type(type_) in _TEXT_OR_NONE
        and type(subtype) in _TEXT_OR_NONE
        and _texts(type_ids)
        and _texts(subtype_ids)
        and type(scale) is float
        and type(aggregate) is bool
    )


def _queries(value: Any) -> str:
    if type(value) is list and all(map(_query, value)):
        return ""
    return "expected arrays of metric, host, resolution, type, type_ids, subtype, subtype_ids, scale_by, aggregate"


def _resource(value: Any) -> bool:
    if type(value) is not list or len(value) != 3:
        return False
    host, threads, accelerators = value
    numbers = type(threads) is list and set(map(type, threads)) <= {int}
    return type(host) is str and numbers and (accelerators is None or _texts(accelerators))


def _resources(value: Any) -> str:
    if value is None or (type(value) is list and all(map(_resource, value))):
        return ""
    return "expected nil or arrays of host, threads and accelerators"


def _texts_or_none(value: Any) -> str:
    return "" if value is None or _texts(value) else "expected nil or an array of strings"


RULES: checks.Rules = {
    ("Fetch", "queries"): _queries,
    ("Fetch", "for_all_nodes"): _texts_or_none,
    ("CheckHealth", "hosts"): _texts_or_none,
    ("CheckHealth", "metrics"): _texts_or_none,
    ("Load", "resources"): _resources,
    ("Load", "metrics"): _texts_or_none,
    ("Load", "resolution"): checks.between(0, 2**31 - 1),
}
"""Checks beyond the type, by (message, field)."""
