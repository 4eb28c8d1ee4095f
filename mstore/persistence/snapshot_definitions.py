"""Definitions when those of every generation are damaged: the sound blocks of all of them, joined.

A definition names its id or slot, and one that is known already, or overtaken, changes nothing. So blocks of several
generations can be applied one after the other as long as parents come first: levels by id, metrics by index, then
series, then keys. What builds on a definition that no block has is left out. Who is protected comes last, the newest
generation's word at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from mstore.errors import CorruptRecord
from mstore.persistence.files import Files
from mstore.persistence.snapshot_files import DEFINITIONS, Gap, read_sound_blocks
from mstore.persistence.snapshot_manifest import Manifest
from mstore.persistence.tally import records
from mstore.shm import layout

_ORDER = (
    layout.REC_LEVEL, layout.REC_METRIC, layout.REC_SERIES, layout.REC_REMOVE, layout.REC_KEY, layout.REC_PROTECT,
)  # fmt: skip
_BY_NUMBER = (layout.REC_LEVEL, layout.REC_METRIC)


class _Piece(NamedTuple):
    kind: int
    first: int
    """Id or index of its first record; levels and metrics have no gaps. Of PROTECT: the generation's sequence."""
    payload: memoryview


def sound_pieces(files: Files, manifests: Sequence[Manifest]) -> list[memoryview]:
    """Every sound block of definitions in these generations, in the order in which they can be applied."""
    found: list[_Piece] = []
    for manifest in manifests:
        for part in manifest.parts_of_definitions():
            gaps: list[Gap] = []
            for block in read_sound_blocks(files, manifest.path_of(part), manifest.expect(part), gaps):
                if block.kind == DEFINITIONS and len(block.payload) > layout.RECORD.itemsize:
                    found.append(_piece(block.payload, manifest.log_seq))
    return [piece.payload for piece in sorted(found, key=lambda piece: piece[:2])]


def _piece(payload: memoryview, log_seq: int) -> _Piece:
    """A block holds records of one type, series and removals together."""
    kind = int.from_bytes(payload[:2], "little")
    body = layout.RECORD.itemsize
    first = int.from_bytes(payload[body : body + 4], "little") if kind in _BY_NUMBER else 0
    if kind == layout.REC_PROTECT:
        first = log_seq
    return _Piece(_ORDER.index(kind) if kind in _ORDER else len(_ORDER), first, payload)


def define_pieces(define: Callable[[memoryview], object], pieces: Sequence[memoryview]) -> int:
    """Hand each piece to `define`, record by record where something it builds on is missing; the bytes defined."""
    n_bytes = 0
    for payload in pieces:
        try:
            define(payload)
            n_bytes += len(payload)
        except CorruptRecord:
            n_bytes += _define_singly(define, payload)
    return n_bytes


def _define_singly(define: Callable[[memoryview], object], payload: memoryview) -> int:
    n_bytes = 0
    for record in records(payload):
        try:
            define(payload[record.start : record.stop])
        except CorruptRecord:
            continue
        n_bytes += record.stop - record.start
    return n_bytes
