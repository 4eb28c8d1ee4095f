"""The messages of the protocol: one frozen dataclass and one tag each, and their msgpack codec.

A body is a msgpack array of the message's fields in the order of the dataclass. Bulk columns are raw
little-endian bytes in `bin` fields. docs/format/ipc.md says what each message means.

Growth without a new version: new fields are added at the end and have defaults. A decoder fills in missing
fields that have defaults and passes over fields beyond those it knows. Everything else (unknown tag, wrong
type, value out of its range, too few fields) is a ProtocolError: nothing is guessed.

Decoding copies no bulk: in a message that consists of numbers and `bin` fields only, these fields are views
of the body and live as long as it.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from operator import attrgetter
from typing import Any, ClassVar, Final, TypeVar, dataclass_transform

import msgpack

from mstore import limits
from mstore.errors import MstoreError, ProtocolError, UnknownMessage, from_wire
from mstore.ipc import checks, framing
from mstore.ipc.checks import Bin

VERSION: Final = 1
"""The newest protocol version of this code; OLDEST_VERSION is the oldest it still speaks."""
OLDEST_VERSION: Final = 1

ROLES: Final = ("ingest", "query", "control", "worker")
ACKS: Final = ("durable", "memory")
PRECISIONS: Final = ("", "auto", "s", "ms", "us", "ns")
"""Unit of timestamps; "auto": told apart by magnitude; "": in Hello the same, in Lines that of Hello."""

MEMORY: Final = ("", "keep", "free")
"""What a stop or a restart does with the shared memory."""

HANDLE_NONE: Final = 0xFFFF_FFFF
"""In Opened.handles: this series cannot be written as things are; Opened.errors says why."""

TYPE_F32, TYPE_F64, TYPE_U64 = 1, 2, 3
"""Numbers of the value types in Opened.types and Columns.type."""
TYPE_BYTES: Final = {TYPE_F32: 4, TYPE_F64: 8, TYPE_U64: 8}

# Bins of at least this many bytes go to the socket as they are; smaller ones are copied into the frame.
BULK_BYTES_MIN = 65_536
# Array elements a body may announce: msgpack allocates 8 bytes for each before it has seen any.
ITEMS_MAX = 65_536


C = TypeVar("C")


@dataclass_transform(frozen_default=True)
def _message(cls: type[C]) -> type[C]:
    """A slotted dataclass that nobody changes: the type checker sees to it.

    At run time it is not frozen, because that makes a Query five times as dear to make as it is so.
    """
    return dataclass(slots=True, unsafe_hash=True)(cls)


@_message
class Message:
    """Base of all. TAG: the frame's tag. MANY: arrays of more than ITEMS_MAX elements are allowed."""

    TAG: ClassVar[int]
    MANY: ClassVar[bool] = False


# --- connection


@_message
class Hello(Message):
    """First frame of a client; `role` is one of ROLES, `ack` of ACKS, `precision` of PRECISIONS."""

    TAG: ClassVar[int] = 1
    version: int
    role: str
    ack: str = "durable"
    cluster: str = ""
    precision: str = ""
    client: str = ""
    deadline_ms: int = 0


@_message
class Welcome(Message):
    """The answer to Hello. `instance` changes with every fresh start of the store."""

    TAG: ClassVar[int] = 2
    version: int
    instance: int
    limits: dict[str, int]
    ack: str
    shard_map: list[Any] = field(default_factory=list)
    server: str = ""


# --- writing


@_message
class Lines(Message):
    """Line protocol; whole lines, the last one needs no newline. `precision` "": that of Hello."""

    TAG: ClassVar[int] = 3
    data: Bin
    precision: str = ""
    deadline_ms: int = 0


@_message
class Written(Message):
    """The acknowledgement of a write; `reasons` counts rejected and ignored by model.Reason.public."""

    TAG: ClassVar[int] = 4
    written: int
    rejected: int
    ignored: int
    reasons: dict[str, int]
    durable: bool


@_message
class Open(Message):
    """Handles for series: [cluster, host, metric, type, type_id, subtype, subtype_id] each, "" for none.

    specs: None, or one element for each series: None, or, for a metric that is not defined yet,
    [step_s, aggregation, type, unit, [[column, type], ...]].
    """

    TAG: ClassVar[int] = 5
    MANY: ClassVar[bool] = True
    series: list[list[str]]
    specs: list[Any] | None = None
    deadline_ms: int = 0


@_message
class Opened(Message):
    """handles u32[n] (HANDLE_NONE = refused), types u8[n]; errors: [index, reason] of the refused."""

    TAG: ClassVar[int] = 6
    MANY: ClassVar[bool] = True
    handles: Bin
    types: Bin
    errors: list[list[Any]]


@_message
class Columns(Message):
    """Grid samples: handles u32[n], times i64[m] in seconds, values[m][n] of `type` (1 f32, 2 f64, 3 u64)."""

    TAG: ClassVar[int] = 7
    handles: Bin
    times: Bin
    values: Bin
    type: int
    deadline_ms: int = 0


@_message
class Rows(Message):
    """Rows of one stamped series with k columns: stamps i64[m] in ms, values[m][k] of 8 bytes each."""

    TAG: ClassVar[int] = 8
    handle: int
    stamps: Bin
    values: Bin
    deadline_ms: int = 0


# --- asking


@_message
class Query(Message):
    """Samples of one metric in [start, end), Unix seconds. A list of ids asks for a list of series."""

    TAG: ClassVar[int] = 16
    MANY: ClassVar[bool] = True
    cluster: str
    host: str
    metric: str
    start: int
    end: int
    type: str | None = None
    type_ids: str | list[str] | None = None
    subtype: str | None = None
    subtype_ids: str | list[str] | None = None
    aggregate: bool = False
    resolution: int = 0
    deadline_ms: int = 0


@_message
class Answer(Message):
    """`many`: the question asked for a list. An entry of `series` is
    [meta dict, values bin, dtype, start, step, coverage bin | None, stamps bin | None].
    """

    TAG: ClassVar[int] = 17
    MANY: ClassVar[bool] = True
    many: bool
    series: list[list[Any]]


@_message
class Children(Message):
    """Names of the levels below `path` (level names from the cluster down; [] = the clusters) -> Names."""

    TAG: ClassVar[int] = 18
    path: list[str]
    deadline_ms: int = 0


@_message
class Paths(Message):
    """All paths of `depth` levels (1 = clusters, 2 = hosts, ...) -> Names with a list of names for each."""

    TAG: ClassVar[int] = 19
    depth: int
    deadline_ms: int = 0


@_message
class Names(Message):
    TAG: ClassVar[int] = 20
    MANY: ClassVar[bool] = True
    names: list[Any]


@_message
class Metrics(Message):
    TAG: ClassVar[int] = 21
    cluster: str | None = None
    deadline_ms: int = 0


@_message
class MetricList(Message):
    """A dict a metric: cluster, name, step_s, aggregation, type, unit, columns [[name, type], ...]."""

    TAG: ClassVar[int] = 22
    MANY: ClassVar[bool] = True
    metrics: list[dict[str, Any]]


@_message
class Info(Message):
    TAG: ClassVar[int] = 23
    deadline_ms: int = 0


@_message
class InfoReply(Message):
    TAG: ClassVar[int] = 24
    info: dict[str, Any]


@_message
class Cancel(Message):
    """Forget request `target` of this connection. Has no answer of its own; a request that had not
    finished is answered by Error `cancelled`."""

    TAG: ClassVar[int] = 25
    target: int


@_message
class Ping(Message):
    TAG: ClassVar[int] = 26
    deadline_ms: int = 0


@_message
class Done(Message):
    TAG: ClassVar[int] = 27
    details: dict[str, Any] = field(default_factory=dict)


@_message
class Error(Message):
    """A request failed; `code` is that of a class of mstore.errors. Request id 0: the connection failed."""

    TAG: ClassVar[int] = 31
    code: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, error: MstoreError) -> Error:
        return cls(error.code, error.message, plain(error.details))

    def exception(self) -> MstoreError:
        return from_wire(self.code, self.message, self.details)


# --- between the store's own processes, on the control socket


@_message
class Intern(Message):
    """Key i is keys[offsets[i]:offsets[i + 1]]; offsets i64[n + 1], times i64[n] -> Interned."""

    TAG: ClassVar[int] = 40
    cluster: Bin
    keys: Bin
    offsets: Bin
    times: Bin
    deadline_ms: int = 0


@_message
class Interned(Message):
    """refs u64[n] (or ignore words), types u8[n], kinds u8[n]."""

    TAG: ClassVar[int] = 41
    refs: Bin
    types: Bin
    kinds: Bin


@_message
class InternPaths(Message):
    """As Open, with times i64[n] -> Interned."""

    TAG: ClassVar[int] = 42
    MANY: ClassVar[bool] = True
    paths: list[list[str]]
    times: Bin
    specs: list[Any] | None = None
    deadline_ms: int = 0


@_message
class Stop(Message):
    """End the store. `memory`: what happens to it, one of MEMORY; "" = as configured (keep_memory)."""

    TAG: ClassVar[int] = 44
    deadline_ms: int = 0
    memory: str = ""


@_message
class Restart(Message):
    """End all processes but the supervisor, and start them again; "" keeps the memory where that is possible."""

    TAG: ClassVar[int] = 45
    deadline_ms: int = 0
    memory: str = ""


@_message
class Reload(Message):
    TAG: ClassVar[int] = 46
    deadline_ms: int = 0


@_message
class Snapshot(Message):
    TAG: ClassVar[int] = 47
    deadline_ms: int = 0


@_message
class Hold(Message):
    """Give up nothing of the log while this connection is open, for limit_s at most -> Done {hold, seq}:
    what was acknowledged before is at or before block seq, and durable."""

    TAG: ClassVar[int] = 49
    limit_s: int
    deadline_ms: int = 0


@_message
class States(Message):
    """What every process has to say of itself -> Done {name: state}; one that does not answer in time is missing."""

    TAG: ClassVar[int] = 50
    deadline_ms: int = 0


# Rules beyond the type, by (message, field).
_RULES: dict[tuple[str, str], checks.Check] = {
    ("Hello", "role"): checks.one_of(*ROLES),
    ("Hello", "ack"): checks.one_of(*ACKS),
    ("Hello", "precision"): checks.one_of(*PRECISIONS),
    ("Hello", "version"): checks.between(1, 0xFFFF),
    ("Welcome", "version"): checks.between(1, 0xFFFF),
    ("Welcome", "ack"): checks.one_of(*ACKS),
    ("Lines", "precision"): checks.one_of(*PRECISIONS),
    ("Stop", "memory"): checks.one_of(*MEMORY),
    ("Restart", "memory"): checks.one_of(*MEMORY),
    ("Hold", "limit_s"): checks.between(1, limits.HOLD_S_MAX),
    ("Open", "series"): checks.paths,
    ("Open", "specs"): checks.specs,
    ("InternPaths", "paths"): checks.paths,
    ("InternPaths", "specs"): checks.specs,
    ("Opened", "errors"): checks.open_errors,
    ("Columns", "type"): checks.between(1, 3),
    ("Rows", "handle"): checks.between(0, 0xFFFF_FFFF),
    ("Paths", "depth"): checks.between(0, limits.PATH_DEPTH_MAX),
    ("Query", "resolution"): checks.between(0, 2**31 - 1),
    ("Query", "start"): checks.between(-(2**62), 2**62),
    ("Query", "end"): checks.between(-(2**62), 2**62),
    ("Answer", "series"): checks.answer_entries,
}


class _Codec:
    """What encode and decode need to know of one class, worked out once."""

    __slots__ = ("bulk", "checks", "cls", "good", "many", "n_required", "names", "values")

    def __init__(self, cls: type[Message]) -> None:
        found = fields(cls)
        self.cls = cls
        self.many = cls.MANY
        self.names = tuple(one.name for one in found)
        self.n_required = sum(one.default is MISSING and one.default_factory is MISSING for one in found)
        types = [str(one.type) for one in found]
        self.bulk = "Bin" in types and all(one in ("Bin", "int", "str") for one in types)
        self.checks = tuple(self._check(cls.__name__, one.name, str(one.type)) for one in found)
        self.good = tuple(checks.GOOD_TYPES.get(check, frozenset()) for check in self.checks)
        getter = attrgetter(*self.names)
        self.values: Any = getter if len(self.names) > 1 else lambda message: (getter(message),)

    @staticmethod
    def _check(cls_name: str, name: str, annotation: str) -> checks.Check:
        if name == "deadline_ms":
            return checks.between(0, 0xFFFF_FFFF)
        return _RULES.get((cls_name, name)) or checks.BY_ANNOTATION[annotation]


MESSAGES: Final[tuple[type[Message], ...]] = tuple(
    one
    for one in list(globals().values())
    if isinstance(one, type) and issubclass(one, Message) and one is not Message
)
_BY_TAG: Final = {cls.TAG: _Codec(cls) for cls in MESSAGES}
TAGS: Final = frozenset(_BY_TAG)
"""All tags: what a FrameDecoder may be told to accept."""

assert len(TAGS) == len(MESSAGES)


def encode_body(message: Message) -> bytes:
    """The body of a message's frame.

    raises ProtocolError for a field that cannot be sent (not UTF-8, not plain data, beyond 64 bits).
    """
    return _pack(message, _BY_TAG[message.TAG].values(message))


def encode(message: Message, request_id: int = 0) -> bytes:
    """The frame of a message in one piece."""
    body = _pack(message, _BY_TAG[message.TAG].values(message))
    return framing.header(message.TAG, len(body), request_id) + body


def encode_parts(message: Message, request_id: int = 0) -> list[Bin]:
    """The frame of a message as buffers for sendmsg, in order; large bins are passed on, not copied."""
    codec = _BY_TAG[message.TAG]
    if not codec.bulk:
        return [encode(message, request_id)]
    values = codec.values(message)
    if not any(type(one) is not int and len(one) >= BULK_BYTES_MIN for one in values):
        return [encode(message, request_id)]
    parts: list[Bin] = []
    small = bytearray(framing.HEADER_BYTES)
    small.append(0x90 | len(values))
    for value in values:
        if isinstance(value, int | str) or len(value) < BULK_BYTES_MIN:
            small += _pack(message, value)
            continue
        view = checks.as_bytes_view(value)
        small += b"\xc6" + len(view).to_bytes(4, "big")
        parts += (small, view)
        small = bytearray()
    if small:
        parts.append(small)
    length = sum(map(len, parts)) - framing.HEADER_BYTES
    head = parts[0]
    assert isinstance(head, bytearray)
    head[: framing.HEADER_BYTES] = framing.header(message.TAG, length, request_id)
    return parts


def decode(tag: int, body: framing.Buffer) -> Message:
    """The message in a frame's body.

    raises UnknownMessage for a tag without a message, ProtocolError (naming message and field) for anything
    that is not exactly such a message.
    """
    codec = _BY_TAG.get(tag)
    if codec is None:
        raise UnknownMessage(f"no message has tag {tag}", tag=tag)
    values = checks.split_bulk(body) if codec.bulk else None
    if values is None:
        values = _unpack(codec, body)
    name = codec.cls.__name__
    if len(values) < codec.n_required:
        raise ProtocolError(f"{name}: {len(values)} fields, expected at least {codec.n_required}")
    for value, good, check, field_name in zip(values, codec.good, codec.checks, codec.names, strict=False):
        if type(value) not in good and (wrong := check(value)):
            raise ProtocolError(f"{name}.{field_name}: {wrong}")
    return codec.cls(*values[: len(codec.names)])


def decode_frame(frame: framing.Frame) -> Message:
    return decode(frame.tag, frame.body)


def _unpack(codec: _Codec, body: framing.Buffer) -> list[Any]:
    items_max = len(body) // 2 + 16
    if not codec.many:
        items_max = min(items_max, ITEMS_MAX)
    try:
        values = msgpack.unpackb(
            body, max_array_len=items_max, max_map_len=min(items_max, ITEMS_MAX), ext_hook=_no_extensions
        )
    except _UNPACK_ERRORS as error:
        raise ProtocolError(f"{codec.cls.__name__}: not a msgpack array of its fields ({error})") from error
    if type(values) is not list:
        raise ProtocolError(f"{codec.cls.__name__}: not an array of its fields")
    return values


_UNPACK_ERRORS = (ValueError, TypeError, OverflowError, MemoryError, RecursionError, msgpack.UnpackException)


def _no_extensions(code: int, _body: bytes) -> Any:
    raise ValueError(f"extension type {code} is not part of the protocol")


def _pack(message: Message, value: Any) -> bytes:
    try:
        packed: bytes = msgpack.packb(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error
    return packed


def plain(value: Any) -> Any:
    """A value as msgpack can carry it: containers of plain values stay, anything else becomes text."""
    if value is None or type(value) in (bool, int, float, str, bytes):
        return value
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(one) for one in value]
    return str(value)


assert limits.FRAME_BYTES_MAX <= limits.CONTROL_FRAME_BYTES_MAX < 2**32
