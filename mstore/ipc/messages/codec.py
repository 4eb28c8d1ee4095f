"""The msgpack codec of the messages.

A body is a msgpack array of the message's fields in the order of the dataclass, without the last ones that are as
they are by default: most questions say a quarter of what they could. Bulk columns are raw little-endian bytes in `bin`
fields.

Decoding copies no bulk: in a message that consists of numbers and `bin` fields only, these fields are views
of the body and live as long as it.
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from operator import attrgetter
from typing import Any, Final, TypeVar

import msgpack

from mstore import limits
from mstore.errors import ProtocolError, UnknownMessage
from mstore.ipc import checks, framing
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message
from mstore.ipc.messages.tags import NAME_OF, home

# Bins of at least this many bytes go to the socket as they are; smaller ones are copied into the frame.
BULK_BYTES_MIN = 65_536
# Array elements a body may announce: msgpack allocates 8 bytes for each before it has seen any.
ITEMS_MAX = 65_536
# A packer begins with so much memory and takes more as it needs it; its own default is as large as many a mapping.
_PACK_BYTES = 4096

_DEADLINE: Final = checks.between(0, 0xFFFF_FFFF)

M = TypeVar("M", bound=Message)


class _Codec:
    """What encode and decode need to know of one class, worked out once."""

    __slots__ = ("bulk", "checks", "cls", "defaults", "good", "many", "n_required", "names", "rest", "values")

    def __init__(self, cls: type[Message], rules: checks.Rules) -> None:
        found = fields(cls)
        self.cls = cls
        self.many = cls.MANY
        self.names = tuple(one.name for one in found)
        self.n_required = sum(one.default is MISSING and one.default_factory is MISSING for one in found)
        self.defaults = tuple(one.default for one in found)
        self.rest = self.defaults[self.n_required :]
        types = [str(one.type) for one in found]
        self.bulk = "Bin" in types and all(one in ("Bin", "int", "str") for one in types)
        self.checks = tuple(
            _DEADLINE
            if name == "deadline_ms"
            else rules.get((cls.__name__, name)) or checks.BY_ANNOTATION[kind]
            for name, kind in zip(self.names, types, strict=True)
        )
        self.good = tuple(checks.GOOD_TYPES.get(check, frozenset()) for check in self.checks)
        getter = attrgetter(*self.names)
        self.values: Any = getter if len(self.names) > 1 else lambda message: (getter(message),)


class _Codecs(dict[int, _Codec]):
    """By tag: worked out when the first message of the tag is sent, or comes in."""

    def __missing__(self, tag: int) -> _Codec:
        name = NAME_OF.get(tag)
        if name is None:
            raise UnknownMessage(f"no message has tag {tag}", tag=tag)
        module = home(name)
        codec = self[tag] = _Codec(getattr(module, name), module.RULES)
        return codec


_BY_TAG: Final = _Codecs()


def encode_body(message: Message) -> bytes:
    """The body of a message's frame.

    raises ProtocolError for a field that cannot be sent (not UTF-8, not plain data, beyond 64 bits).
    """
    return _pack(message, _said(_BY_TAG[message.TAG], message))


def encode(message: Message, request_id: int = 0) -> bytes:
    """The frame of a message in one piece."""
    body = _pack(message, _said(_BY_TAG[message.TAG], message))
    return framing.header(message.TAG, len(body), request_id) + body


def encode_parts(message: Message, request_id: int = 0) -> list[Bin]:
    """The frame of a message as buffers for sendmsg, in order; large bins are passed on, not copied."""
    codec = _BY_TAG[message.TAG]
    if not codec.bulk:
        return [encode(message, request_id)]
    values = _said(codec, message)
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
    codec = _BY_TAG[tag]
    values = checks.split_bulk(body) if codec.bulk else None
    return _checked(codec, _unpack(codec, body) if values is None else values)


def fields_of(message: Message) -> list[Any]:
    """The fields of a message in their order, without the last ones that are as they are by default."""
    return list(_said(_BY_TAG[message.TAG], message))


def of_fields(cls: type[M], values: list[Any]) -> M:
    """The message of these fields, as decode() checks them. raises ProtocolError"""
    found = _checked(_BY_TAG[cls.TAG], values)
    assert isinstance(found, cls)
    return found


def _said(codec: _Codec, message: Message) -> tuple[Any, ...]:
    values: tuple[Any, ...] = codec.values(message)
    n = codec.n_required
    if values[n:] != codec.rest:  # one comparison for the many that say no more than they must
        n = len(values)
        while values[n - 1] == codec.defaults[n - 1]:
            n -= 1
    return values[:n]


def _checked(codec: _Codec, values: list[Any]) -> Message:
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
        packed: bytes = msgpack.Packer(buf_size=_PACK_BYTES).pack(value)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProtocolError(f"{type(message).__name__} cannot be sent: {error}") from error
    return packed


assert limits.FRAME_BYTES_MAX <= limits.CONTROL_FRAME_BYTES_MAX < 2**32
