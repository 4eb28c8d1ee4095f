"""The tables of a directory segment, and the chunks of a samples segment.

directory   words and regions, then levels, metrics, series that are live, keys
samples     the chunks that the directory beside it links, series by series; without one, what looks like a
            chunk in each extent, which may be one that was given back
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mstore.persistence.dump.items import Item, Shown
from mstore.persistence.dump.memory import Cut, Source
from mstore.persistence.dump.names import Names
from mstore.persistence.dump.records import KINDS, ORIGINS, VALUE_TYPES, reference, text
from mstore.persistence.dump.snapshots import chunk_item
from mstore.shm import layout
from mstore.shm.chunks import Link, grid_slots, stamped_rows
from mstore.shm.directory import KEYS_START

_ROWS = 4096
_CHUNK_CLASSES = 4
_FLAGS = ((layout.SERIES_LIVE, "live"), (layout.SERIES_ENDED, "ended"), (layout.SERIES_REMOVING, "removing"))
_FIRST = -(1 << 63)


@dataclass(frozen=True, slots=True)
class Directory:
    """Where a directory segment has what, by its words."""

    source: Source
    words: np.void

    @classmethod
    def of(cls, source: Source) -> Directory:
        return cls(source, source.rows(layout.DIRECTORY_AT, layout.DIRECTORY)[0])

    def region(self, name: str) -> dict[str, int]:
        row = self.words["regions"][layout.REGION_NAMES.index(name)]
        return {field: int(row[field]) for field in ("offset", "reserved", "committed", "used")}

    def table(self, name: str, dtype: np.dtype[Any]) -> Iterator[tuple[int, int, np.void]]:
        """(number, offset, row) of each published entry."""
        start = self.region(name)["offset"]
        n = int(self.words[f"n_{name}"])
        for first in range(0, n, _ROWS):
            at = start + first * dtype.itemsize
            for index, row in enumerate(self.source.rows(at, dtype, min(_ROWS, n - first))):
                yield first + index, at + index * dtype.itemsize, row

    def text(self, row: np.void, field: str) -> str:
        return text(self.source.bytes(int(row[field]), int(row[f"{field}_len"])))


def directory_items(source: Source, shown: Shown, names: Names) -> Iterator[Item]:
    directory = Directory.of(source)
    words = directory.words
    # The seed of the hashes stays secret: names that collide could be chosen by it.
    told = (
        "generation",
        "max_series",
        "n_levels",
        "n_series",
        "n_metrics",
        "n_keys",
        "live_series",
        "critical",
    )
    wrong = "a change is under way, or its writer died in it" if words["critical"] & 1 else ""
    yield Item("words", layout.DIRECTORY_AT, {name: int(words[name]) for name in told}, wrong=wrong)
    for place, name in enumerate(layout.REGION_NAMES):
        region = directory.region(name)
        sound = region["used"] <= region["committed"] <= region["reserved"]
        inside = region["offset"] + region["reserved"] <= source.size
        at = layout.DIRECTORY_AT + place * layout.REGION.itemsize
        fault = "" if sound and inside else "used, committed, reserved or its place cannot be right"
        yield Item("region", at, {"name": name, **region}, wrong=fault)
    for part in (_levels, _metrics, _series, _keys):
        try:
            yield from part(directory, shown, names)
        except Cut as error:
            yield Item("gap", layout.DIRECTORY_AT, {"holds": part.__name__.strip("_")}, wrong=str(error))


def _levels(directory: Directory, shown: Shown, names: Names) -> Iterator[Item]:
    for number, at, row in directory.table("levels", layout.LEVEL):
        name = directory.text(row, "name")
        names.level(number, int(row["parent"]), name)
        shown.count("level")
        if shown.takes("level"):
            told = (
                "parent",
                "depth",
                "cluster",
                "first_child",
                "next_sibling",
                "first_series",
                "n_series",
                "n_children",
            )
            fields = {"id": number, "name": names.of_level(number)} | {
                field: int(row[field]) for field in told
            }
            yield Item("level", at, fields, 2)


def _metrics(directory: Directory, shown: Shown, names: Names) -> Iterator[Item]:
    for number, at, row in directory.table("metrics", layout.METRIC):
        fields = {
            "index": number, "cluster": int(row["cluster"]), "name": directory.text(row, "name"),
            "unit": directory.text(row, "unit"), "kind": KINDS.get(int(row["kind"]), int(row["kind"])),
            "step_s": int(row["step_s"]), "value_type": VALUE_TYPES.get(int(row["type"]), int(row["type"])),
            "aggregation": layout.AGG_NAMES.get(int(row["aggregation"]), int(row["aggregation"])),
            "n_columns": int(row["n_columns"]), "columns": directory.text(row, "columns"),
            "origin": ORIGINS.get(int(row["origin"]), int(row["origin"])), "retention_s": int(row["retention_s"]),
        }  # fmt: skip
        names.learn(layout.REC_METRIC, fields)
        shown.count("metric")
        if shown.takes("metric"):
            yield Item("metric", at, fields, 2)


def _series(directory: Directory, shown: Shown, names: Names) -> Iterator[Item]:
    for slot, at, row in directory.table("series", layout.SERIES):
        flags = int(row["flags"])
        if not flags & layout.SERIES_LIVE:
            shown.count("free_slot")
            continue
        generation = int(row["generation"])
        names.series(slot, generation, int(row["level"]), int(row["metric"]), int(row["type"]))
        shown.count("series")
        if not shown.takes("series"):
            continue
        start = int(row["era_start"])
        told = ("level", "metric", "step_s", "anchor_s", "last_t", "n_chunks", "first_n", "last_n")
        yield Item(
            "series", at,
            {
                "slot": slot, "generation": generation, "name": names.of_series(slot, generation),
                "kind": KINDS.get(int(row["kind"]), int(row["kind"])),
                "value_type": VALUE_TYPES.get(int(row["type"]), int(row["type"])),
                "n_columns": int(row["n_columns"]), "flags": " ".join(name for bit, name in _FLAGS if flags & bit),
                **{field: int(row[field]) for field in told}, "era_start": None if start == _FIRST else start,
                "prev": reference(int(row["prev_generation"]) << 32 | int(row["prev_slot"])),
                "next": reference(int(row["next_generation"]) << 32 | int(row["next_slot"])),
                "link": f"{int(row['link0']):#x}", "table": f"{int(row['table']):#x}",
            }, 2,
        )  # fmt: skip


def _keys(directory: Directory, shown: Shown, names: Names) -> Iterator[Item]:
    region = directory.region("keys")
    at, stop = region["offset"] + KEYS_START, region["offset"] + region["used"]
    while at + layout.KEY.itemsize <= stop:
        row = directory.source.rows(at, layout.KEY)[0]
        length = int(row["len"])
        shown.count("key")
        if shown.takes("key"):
            ref = int(row["ref"])
            ignored = ref & layout.IGNORE_SLOT == layout.IGNORE_SLOT
            key = text(directory.source.bytes(at + layout.KEY.itemsize, length))
            series = f"ignored, reason {ref >> 56}" if ignored else reference(ref)
            told = {"key": key, "series": series, "default_cluster": int(row["default_cluster"])}
            yield Item("key", at, {"index": int(row["index"]), **told}, 2)
        at += layout.KEY.itemsize + (length + 7) // 8 * 8


def linked_chunks(directory: Directory, samples: Source, shown: Shown, names: Names) -> Iterator[Item]:
    """The chunks of a samples segment that its directory leads to, by series."""
    for slot, at, row in directory.table("series", layout.SERIES):
        if not int(row["flags"]) & layout.SERIES_LIVE:
            continue
        try:
            links = _links(row, samples)
        except Cut as error:
            yield Item("gap", at, {"slot": slot, "of": "directory"}, 2, f"link table: {error}")
            continue
        for word in links:
            shown.count("chunk")
            yield from _linked(Link.of(word), slot, int(row["generation"]), samples, shown, names)


def _links(row: np.void, samples: Source) -> list[int]:
    table = int(row["table"])
    if not table:
        return [int(row["link0"])] if row["link0"] else []
    words = samples.rows(table >> 8, np.dtype("u8"), 1 << min(table & 0xFF, 40))
    return [int(word) for word in words[words != 0]]


def _linked(
    link: Link, slot: int, generation: int, samples: Source, shown: Shown, names: Names
) -> Iterator[Item]:
    try:
        head = samples.rows(link.offset, layout.CHUNK)[0]
        if link.size_class >= _CHUNK_CLASSES:
            raise Cut(f"a link to a chunk of size class {link.size_class}")
        whole = memoryview(samples.bytes(link.offset, layout.SIZE_CLASS_BYTES[link.size_class]))
    except Cut as error:
        yield Item("gap", link.offset, {"slot": slot}, 2, str(error))
        return
    wrong = ""
    if (head["series"], head["generation"]) != (slot, generation):
        wrong = f"linked by {slot}.{generation}: given back meanwhile, or damaged"
    if wrong or shown.takes("chunk"):
        item = chunk_item(head, _used(head, whole), link.offset, names)
        yield Item(item.what, item.at, item.fields, 2, item.wrong or wrong)


def _used(head: np.void, whole: memoryview) -> memoryview:
    """The bytes of a chunk's values: all of its slots, or the rows there are."""
    start = layout.CHUNK.itemsize
    if head["kind"] == layout.KIND_STAMPED:
        return whole[start : start + 8 * (1 + int(head["n_columns"])) * int(head["count"])]
    width = 4 if head["type"] == layout.TYPE_F32 else 8
    return whole[start : start + width * int(head["capacity"])]


def loose_chunks(samples: Source, shown: Shown, names: Names) -> Iterator[Item]:
    """What looks like a chunk, extent by extent; nothing but its header says so."""
    for at in range(layout.SAMPLES_DATA, samples.size, layout.EXTENT_BYTES):
        content = memoryview(samples.bytes(at, min(layout.EXTENT_BYTES, samples.size - at)))
        found = max((_of_class(content, size_class) for size_class in range(_CHUNK_CLASSES)), key=len)
        for place, head in found:
            shown.count("chunk")
            if shown.takes("chunk"):
                whole = content[place : place + layout.SIZE_CLASS_BYTES[int(head["size_class"])]]
                yield chunk_item(head, _used(head, whole), at + place, names)


def _of_class(content: memoryview, size_class: int) -> list[tuple[int, np.void]]:
    """(place, header) of the chunks of this size that an extent may hold."""
    size = layout.SIZE_CLASS_BYTES[size_class]
    found = []
    for place in range(0, len(content) - size + 1, size):
        head = np.frombuffer(content, layout.CHUNK, 1, place)[0]
        if head["generation"] == 0 or head["size_class"] != size_class:
            continue
        if head["kind"] == layout.KIND_GRID and head["type"] in layout.TYPE_DTYPES:
            capacity = grid_slots(size_class, int(head["type"]))
        elif head["kind"] == layout.KIND_STAMPED and 1 <= head["n_columns"] <= 63:
            capacity = stamped_rows(size_class, int(head["n_columns"]))
        else:
            continue
        if head["capacity"] == capacity:
            found.append((place, head))
    return found
