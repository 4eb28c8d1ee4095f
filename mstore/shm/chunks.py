"""Chunks as arithmetic: time <-> slot, sizes, link words, and the rules a samples segment must keep.

    time (s)    anchor                                   anchor + 512 * step
                |  slot 0  |  slot 1  |   ...  | slot 511 |  slot 512 ...
                     ^ nominal time of slot 0 = anchor + step // 2
    chunk       |<------------- chunk 0 ---------------->|<-- chunk 1 ...

Slots and chunks before the anchor have negative numbers. The functions that walk links (`linked`,
`read_grid`, `read_rows`, `validate`) are for quiet segments; readers beside a writer use the gather kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore.errors import InvariantBroken
from mstore.shm import layout

I64 = np.dtype("<i8")
U64 = np.dtype("<u8")
TABLE_LOG2 = (3, 5, 7, 9, 11, 13, 15)
CHUNKS_SPANNED_MAX = 1 << TABLE_LOG2[-1]
"""Chunks between a series' oldest and newest, both included: 194 days at one sample a second."""

_OFFSET_MASK = (1 << layout.LINK_OFFSET_BITS) - 1
_CLASS_MASK = (1 << layout.LINK_CLASS_BITS) - 1
_CLASSES_OF_CHUNKS = 4
_DTYPES: dict[int, Any] = dict(layout.TYPE_DTYPES)


@dataclass(frozen=True, slots=True)
class Grid:
    """The grid of a series: `anchor_s` is the start of slot 0, `step_s` the width of every slot."""

    anchor_s: int
    step_s: int

    @classmethod
    def of_first_sample(cls, t_s: int, step_s: int) -> Grid:
        """The grid whose slot 0 has `t_s` as its nominal time."""
        return cls(t_s - step_s // 2, step_s)

    def slot(self, t_s: int) -> int:
        return (t_s - self.anchor_s) // self.step_s

    def nominal_s(self, slot: int) -> int:
        return self.anchor_s + self.step_s // 2 + slot * self.step_s

    def place(self, t_s: int) -> tuple[int, int]:
        """(chunk number, place in the chunk) of a time."""
        return divmod(self.slot(t_s), layout.CHUNK_SLOTS)

    def chunk_start_s(self, n: int) -> int:
        return self.anchor_s + n * layout.CHUNK_SLOTS * self.step_s

    def chunk_end_s(self, n: int) -> int:
        """The first second after chunk n."""
        return self.chunk_start_s(n + 1)


@dataclass(frozen=True, slots=True)
class Link:
    """A link word taken apart. The stamp tells two links to the same place apart; it is never 0."""

    offset: int
    size_class: int
    stamp: int

    @classmethod
    def of(cls, word: int) -> Link:
        offset = (word & _OFFSET_MASK) << 6
        return cls(offset, word >> layout.LINK_OFFSET_BITS & _CLASS_MASK, word >> 40)

    @property
    def word(self) -> int:
        return self.offset >> 6 | self.size_class << layout.LINK_OFFSET_BITS | self.stamp << 40


def value_bytes(value_type: int) -> int:
    return 4 if value_type == layout.TYPE_F32 else 8


def grid_slots(size_class: int, value_type: int) -> int:
    """Slots that fit a chunk of class 0..3."""
    payload = layout.SIZE_CLASS_BYTES[size_class] - layout.CHUNK_HEADER_BYTES
    return min(payload // value_bytes(value_type), layout.CHUNK_SLOTS)


def stamped_rows(size_class: int, n_columns: int) -> int:
    """Rows that fit a chunk of class 0..3."""
    return (layout.SIZE_CLASS_BYTES[size_class] - layout.CHUNK_HEADER_BYTES) // (8 * (1 + n_columns))


def stamped_class(n: int, n_columns: int) -> int:
    """Size class of chunk n of a stamped series: the smallest for a row, then one larger each up to 4 KiB."""
    smallest = next(c for c in range(_CLASSES_OF_CHUNKS) if stamped_rows(c, n_columns))
    return min(smallest + n, layout.CLASS_FULL_8)


def table_class(log2: int) -> int:
    """Size class of a link table of 2**log2 words: 8, 32, 128 ... 32768."""
    assert log2 in TABLE_LOG2
    return layout.CLASS_TABLE_8 + TABLE_LOG2.index(log2)


def missing(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Which values stand for "no sample"."""
    found: NDArray[np.bool_] = (
        np.equal(values, layout.U64_MISSING) if values.dtype == U64 else np.isnan(values)
    )
    return found


# ---- walking links: quiet segments only ----


def linked(series: np.void, samples: NDArray[np.uint8]) -> list[tuple[int, Link]]:
    """(chunk number, link) of every chunk of one SERIES record, by number.

    samples   the whole segment, uint8
    raises    InvariantBroken for a link that leads outside
    """
    table = int(series["table"])
    if table:
        start, words = table >> 8, 1 << (table & 0xFF)
        _expect(start + 8 * words <= len(samples), "link table outside the segment", table=table)
        found = samples[start : start + 8 * words].view(U64)
    else:
        found = np.array([series["link0"]], U64)
    chunks = []
    for word in found[found != 0]:
        link = Link.of(int(word))
        _expect(link.size_class < _CLASSES_OF_CHUNKS, "a link to a chunk of a table's size", link=link)
        end = link.offset + layout.SIZE_CLASS_BYTES[link.size_class]
        _expect(
            link.offset >= layout.SAMPLES_DATA and end <= len(samples), "link outside the segment", link=link
        )
        chunks.append((int(header(samples, link)["n"]), link))
    return sorted(chunks, key=lambda chunk: chunk[0])


def header(samples: NDArray[np.uint8], link: Link) -> np.void:
    """The CHUNK header a link leads to."""
    view: np.void = samples[link.offset : link.offset + layout.CHUNK_HEADER_BYTES].view(layout.CHUNK)[0]
    return view


def payload(samples: NDArray[np.uint8], link: Link) -> NDArray[Any]:
    """A view of a chunk's values: value type [capacity], or uint64 [count, 1 + n_columns] for rows."""
    head = header(samples, link)
    start = link.offset + layout.CHUNK_HEADER_BYTES
    if head["kind"] == layout.KIND_STAMPED:
        width = 1 + int(head["n_columns"])
        return samples[start : start + 8 * width * int(head["count"])].view(U64).reshape(-1, width)
    dtype: np.dtype[Any] = _DTYPES[int(head["type"])]
    return samples[start : start + dtype.itemsize * int(head["capacity"])].view(dtype)


def read_grid(series: np.void, samples: NDArray[np.uint8]) -> dict[int, Any]:
    """slot -> value of every sample of a grid series."""
    found: dict[int, Any] = {}
    for n, link in linked(series, samples):
        values = payload(samples, link)
        for place in np.flatnonzero(~missing(values)):
            found[n * layout.CHUNK_SLOTS + int(place)] = values[place]
    return found


def read_rows(series: np.void, samples: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """All rows of a stamped series as they arrived: uint64 [rows, 1 + n_columns]; column 0 is the stamp."""
    rows = [payload(samples, link) for _, link in linked(series, samples)]
    return np.concatenate(rows) if rows else np.empty((0, 1 + int(series["n_columns"])), U64)


# ---- the rules ----


def _expect(holds: bool, rule: str, **details: Any) -> None:
    if not holds:
        shown = {key: value if isinstance(value, int) else str(value) for key, value in details.items()}
        raise InvariantBroken(
            f"samples segment: {rule} ({', '.join(f'{k} {v}' for k, v in shown.items())})", **shown
        )


def validate(series: NDArray[np.void], samples: NDArray[np.uint8], committed_bytes: int) -> dict[int, int]:
    """Check every rule that the shared part of the samples must keep; nobody may be writing.

    series            the published part of the series table, SERIES[n]
    samples           the segment, uint8
    committed_bytes   what its header says
    returns           chunks (and link tables) in use by size class
    raises            InvariantBroken naming the rule and the series
    """
    taken: dict[int, tuple[int, int]] = {}
    n_used = dict.fromkeys(range(len(layout.SIZE_CLASS_BYTES)), 0)

    def take(slot: int, offset: int, size_class: int) -> None:
        size = layout.SIZE_CLASS_BYTES[size_class]
        place = (offset - layout.SAMPLES_DATA) % layout.EXTENT_BYTES
        _expect(
            place % size == 0 and place + size <= layout.EXTENT_BYTES,
            "chunk out of place",
            slot=slot,
            offset=offset,
        )
        _expect(
            offset + size <= committed_bytes, "chunk beyond the committed bytes", slot=slot, offset=offset
        )
        _expect(
            offset not in taken,
            "chunk linked twice",
            slot=slot,
            offset=offset,
            other=taken.get(offset, (0, 0))[0],
        )
        taken[offset] = slot, size_class
        n_used[size_class] += 1

    for slot in np.flatnonzero(series["flags"] & layout.SERIES_LIVE).tolist():
        _validate_series(slot, series[slot], samples, take)
    classes: dict[int, int] = {}
    for offset, (slot, size_class) in taken.items():
        extent = (offset - layout.SAMPLES_DATA) // layout.EXTENT_BYTES
        same = classes.setdefault(extent, size_class)
        _expect(same == size_class, "an extent with chunks of two classes", slot=slot, extent=extent)
    return n_used


def _validate_series(slot: int, series: np.void, samples: NDArray[np.uint8], take: Any) -> None:
    table = int(series["table"])
    if table:
        _expect(
            (table & 0xFF) in TABLE_LOG2,
            "link table of no known size",
            slot=slot,
            table=table,
        )
        _expect(int(series["link0"]) == 0, "link0 beside a link table", slot=slot)
        take(slot, table >> 8, table_class(table & 0xFF))
    chunks = linked(series, samples)
    numbers = [n for n, _ in chunks]
    _expect(len(set(numbers)) == len(numbers), "two chunks of one number", slot=slot)
    _expect(len(numbers) == series["n_chunks"], "count of chunks", slot=slot, linked=len(numbers))
    if numbers:
        _expect(
            numbers[0] == series["first_n"] and numbers[-1] == series["last_n"],
            "first and last chunk",
            slot=slot,
        )
    words = {link.word for _, link in chunks}
    _expect(
        series["cur_link"] == 0 or int(series["cur_link"]) in words, "current chunk is not linked", slot=slot
    )
    for n, link in chunks:
        take(slot, link.offset, link.size_class)
        _expect(link.stamp != 0, "link without a stamp", slot=slot, n=n)
        _validate_chunk(slot, series, n, link, samples)


def _validate_chunk(slot: int, series: np.void, n: int, link: Link, samples: NDArray[np.uint8]) -> None:
    head = header(samples, link)
    own = head["series"] == slot and head["generation"] == series["generation"]
    _expect(own, "chunk of another series", slot=slot, n=n, owner=int(head["series"]))
    _expect(head["size_class"] == link.size_class, "link and chunk disagree on the size", slot=slot, n=n)
    same = all(head[field] == series[field] for field in ("kind", "type", "step_s"))
    _expect(same, "chunk of another kind, type or step", slot=slot, n=n)
    if head["kind"] == layout.KIND_GRID:
        _expect(head["anchor_s"] == series["anchor_s"], "chunk of another grid", slot=slot, n=n)
        _expect(
            head["capacity"] == grid_slots(link.size_class, int(head["type"])), "capacity", slot=slot, n=n
        )
        _expect(
            n == 0 or head["capacity"] == layout.CHUNK_SLOTS,
            "small chunk that is not the first",
            slot=slot,
            n=n,
        )
        return
    _expect(head["n_columns"] == series["n_columns"], "chunk of other columns", slot=slot, n=n)
    _expect(
        head["capacity"] == stamped_rows(link.size_class, int(head["n_columns"])), "capacity", slot=slot, n=n
    )
    _expect(head["count"] <= head["capacity"] and head["seq"] % 2 == 0, "count or sequence", slot=slot, n=n)
    stamps = payload(samples, link)[:, 0].astype(I64)
    if len(stamps):
        _expect(
            stamps.min() == head["anchor_s"] and stamps.max() == head["t_max_ms"],
            "range of stamps",
            slot=slot,
            n=n,
        )
        ordered = bool((np.diff(stamps) > 0).all())
        _expect(
            ordered or bool(head["flags"] & layout.CHUNK_UNORDERED),
            "unordered rows without the flag",
            slot=slot,
            n=n,
        )
        _expect(len(np.unique(stamps)) == len(stamps), "two rows of one stamp", slot=slot, n=n)
