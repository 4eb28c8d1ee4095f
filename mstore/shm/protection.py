"""PROTECT records: which hosts somebody protects from retention, and until when. docs/format/wal-definitions.md draws them.

    {u16 type 26, u8 source, u8 0, u32 length}  until_s i64, cluster_len u16, 0 u16, n_hosts u32
    the cluster's name, then each host's: u16 length and its bytes; zeros up to a multiple of 8

A record says of its hosts what holds from there on, whatever was said before; what it does not name stays. So records may
be applied again, and a dump taken while others follow is made exact by them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from mstore.errors import CorruptRecord
from mstore.limits import NAME_BYTES_MAX
from mstore.shm import layout

PROTECT = np.dtype([("until_s", "<i8"), ("cluster_len", "<u2"), ("zero", "<u2"), ("n_hosts", "<u4")])
FOR_GOOD_S = int(np.iinfo(np.int64).max)
"""Until somebody says otherwise."""
NOT_S = 0
"""As `until_s`: not protected by this source any more."""
_RECORD_BYTES = 64 << 10
_HEAD = layout.RECORD.itemsize + PROTECT.itemsize


class Source(IntEnum):
    """Who protects. A host is protected as long as one of them says so."""

    FILE = 1
    URL = 2
    COMMAND = 3


@dataclass(frozen=True, slots=True)
class Protected:
    """What one record says."""

    source: Source
    until_s: int
    """Unix seconds; FOR_GOOD_S, NOT_S."""
    cluster: str
    hosts: tuple[str, ...]


def encode(source: Source, until_s: int, cluster: str, hosts: Iterable[str]) -> bytes:
    """Concatenated records of about 64 KiB at most each; b"" without hosts."""
    return b"".join(
        _record(source, until_s, cluster.encode(), names)
        for names in _pieces(host.encode() for host in hosts)
    )


def _pieces(names: Iterable[bytes]) -> Iterator[list[bytes]]:
    piece: list[bytes] = []
    n_bytes = 0
    for name in names:
        if piece and n_bytes + len(name) + 2 > _RECORD_BYTES:
            yield piece
            piece, n_bytes = [], 0
        piece.append(name)
        n_bytes += len(name) + 2
    if piece:
        yield piece


def _record(source: Source, until_s: int, cluster: bytes, names: list[bytes]) -> bytes:
    text = cluster + b"".join(len(name).to_bytes(2, "little") + name for name in names)
    length = (_HEAD + len(text) + 7) // 8 * 8
    head = np.array((layout.REC_PROTECT, source, 0, length), layout.RECORD).tobytes()
    body = np.array((until_s, len(cluster), 0, len(names)), PROTECT).tobytes()
    return (head + body + text).ljust(length, b"\0")


def decode(record: memoryview) -> Protected:
    """One whole record. raises CorruptRecord when its parts do not fit"""
    if len(record) < _HEAD:
        raise CorruptRecord(f"PROTECT with {len(record)} bytes")
    head, body = np.frombuffer(record, layout.RECORD, 1)[0], np.frombuffer(record, PROTECT, 1, 8)[0]
    if int(head["vtype"]) not in list(Source):
        raise CorruptRecord(f"PROTECT of an unknown source {int(head['vtype'])}")
    at = _HEAD + int(body["cluster_len"])
    cluster = _name(record, _HEAD, at)
    hosts = []
    for _ in range(int(body["n_hosts"])):
        start = at + 2
        at = start + int.from_bytes(record[at:start], "little")
        hosts.append(_name(record, start, at))
    return Protected(Source(int(head["vtype"])), int(body["until_s"]), cluster, tuple(hosts))


def _name(record: memoryview, start: int, stop: int) -> str:
    if not start < stop <= len(record) or stop - start > NAME_BYTES_MAX:
        raise CorruptRecord(f"PROTECT: a name at {start}..{stop} of {len(record)} bytes")
    try:
        return bytes(record[start:stop]).decode()
    except UnicodeDecodeError as error:
        raise CorruptRecord(f"PROTECT: a name that is not UTF-8: {error}") from error


def record_type(records: memoryview) -> int:
    """Of the first record of a block of definitions: those of one block are all definitions, or all PROTECT."""
    return int.from_bytes(records[:2], "little")


def holds_protection(payload: memoryview) -> Iterator[memoryview]:
    """The PROTECT records among the records of type >= 16 in a payload; it ends at the first that makes no sense."""
    at = 0
    while at + layout.RECORD.itemsize <= len(payload):
        kind = int.from_bytes(payload[at : at + 2], "little")
        length = int.from_bytes(payload[at + 4 : at + 8], "little")
        if length < layout.RECORD.itemsize or length > len(payload) - at:
            return
        if kind == layout.REC_PROTECT:
            yield payload[at : at + length]
        at += length
