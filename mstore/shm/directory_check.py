"""Every rule of the directory's structure: checked by tests after each step and by `mstore check`.

Valid iff
    1. published counts and used bytes agree, used <= committed <= reserved, no change is under way,
    2. every level but the root hangs below an earlier one, is linked exactly once in its parent's list, or
       not at all if it is empty, and its depth, cluster, n_children and n_series are what the links say;
       its name is a name, only hosts are protected,
    3. every metric belongs to a cluster, (cluster, name) once,
    4. every live series has a level and a metric of the same cluster and is linked exactly once in its
       level's list; free slots are not linked; live_series counts them; of one (level, metric) exactly one
       series has no later era,
    5. eras lead to each other: next and prev of live neighbours agree, ended iff a next era is named; none begins
       after `grids_changed_s` with another type or step than the era before,
    6. each hash table finds every entry: levels, metrics, newest eras, keys with a reference or a reason; and
       nothing else,
    7. a key with a reference leads to a live series of that generation, newest era, and is in that series'
       list once; type, kind and step are the series'.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from mstore import limits
from mstore.shm import layout

if TYPE_CHECKING:
    from mstore.shm.directory import _Described

KEYS_START = 16
ID_SPARE = 131_072
LOW = 0xFFFF_FFFF


def check(directory: _Described) -> list[str]:
    """The broken rules as sentences, none if all is well. The directory must be quiet."""
    state = _State(directory)
    faults: list[str] = []
    for rule in (_counts, _levels, _metrics, _series, _eras, _tables, _keys):
        faults += rule(state)
        if faults:  # later rules follow links that earlier ones vouch for
            break
    return faults


class _State:
    def __init__(self, directory: _Described) -> None:
        self.directory = directory
        self.counts = directory.counts()
        self.levels = directory.levels()
        self.series = directory.series_table()
        self.metrics = directory.metrics_table()
        self.live = self.series["flags"] & layout.SERIES_LIVE != 0
        self.ended = self.series["flags"] & layout.SERIES_ENDED != 0

    def entries(self) -> Iterator[tuple[int, Any, bytes]]:
        """(offset in the region, header, text) of every entry."""
        region = np.frombuffer(self.directory.region_bytes(layout.REGION_NAMES.index("keys")), np.uint8)
        at = KEYS_START
        while at < region.size:
            entry = region[at : at + layout.KEY.itemsize].view(layout.KEY)[0]
            start = at + layout.KEY.itemsize
            yield at, entry, region[start : start + int(entry["len"])].tobytes()
            at = start + (int(entry["len"]) + 7) // 8 * 8


def _counts(state: _State) -> Iterator[str]:
    counts = state.counts
    if counts["critical"] & 1:
        yield "a change is under way, or its writer died in it"
    sizes = {"levels": layout.LEVEL, "series": layout.SERIES, "metrics": layout.METRIC}
    for name, dtype in sizes.items():
        if counts[f"{name}_used"] != counts[f"n_{name}"] * dtype.itemsize:
            yield f"{counts[f'n_{name}']} {name} do not fill {counts[f'{name}_used']} bytes"
    for name in layout.REGION_NAMES:
        if counts[f"{name}_used"] > counts[f"{name}_committed"]:
            yield f"region {name} uses more than its {counts[f'{name}_committed']} committed bytes"
    if counts["live_series"] != int(state.live.sum()):
        yield f"live_series is {counts['live_series']}, {int(state.live.sum())} slots are live"


def _linked(first: int, next_of: Callable[[int], int], bound: int) -> list[int] | None:
    """Members of a list linked by value, 0 = end; None when it is longer than bound or leaves it."""
    found: list[int] = []
    while first:
        if len(found) > bound or first > bound:
            return None
        found.append(first)
        first = next_of(first)
    return found


def _levels(state: _State) -> Iterator[str]:
    levels = state.levels
    parents = levels["parent"]
    if np.any(parents[1:] >= np.arange(1, levels.size)):
        yield "a level hangs below a later one"
        return
    seen: Counter[int] = Counter()
    for level_id, level in enumerate(levels):
        children = _linked(
            int(level["first_child"]), lambda i: int(levels[i]["next_sibling"]), levels.size - 1
        )
        if children is None:
            yield f"the children of level {level_id} do not end"
            return
        seen.update(children)
        if len(children) != level["n_children"] or any(parents[child] != level_id for child in children):
            yield f"level {level_id} says {level['n_children']} children, its list holds {children[:8]}"
        yield from _level(state, level_id)
    empty = levels["flags"] & layout.LEVEL_EMPTY != 0
    if len(seen) != np.count_nonzero(~empty) - 1 or any(count != 1 for count in seen.values()):
        yield "not every level is linked exactly once"
    if any(empty[level_id] for level_id in seen) or np.any(levels["first_series"][empty]):
        yield "a level that is empty is linked, or holds series"
    if np.any(levels["depth"][levels["flags"] & layout.LEVEL_PROTECTED != 0] != 2):
        yield "a level is protected that is no host"
    names = {(level["parent"], level["type_len"], _text(state, level, "name")) for level in levels}
    if len(names) != levels.size:
        yield "two levels have the same parent and name"


def _text(state: _State, row: Any, field: str) -> bytes:
    return state.directory.text(int(row[field]), int(row[f"{field}_len"]))


def _is_name(text: bytes) -> bool:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        return False
    return 0 < len(text) <= limits.NAME_BYTES_MAX and not any(
        ord(c) < 32 or 127 <= ord(c) < 160 for c in decoded
    )


def _level(state: _State, level_id: int) -> Iterator[str]:
    if level_id == 0:
        return
    level = state.levels[level_id]
    above = state.levels[level["parent"]]
    cluster = level_id if level["parent"] == 0 else above["cluster"]
    if level["depth"] != above["depth"] + 1 or level["cluster"] != cluster or level["generation"] == 0:
        where = f"depth {level['depth']} and cluster {level['cluster']}"
        yield f"level {level_id} has {where} below level {level['parent']}"
    text = _text(state, level, "name")
    kind, own = text[: level["type_len"]], text[level["type_len"] :]
    if not _is_name(kind or b"-") or not _is_name(own or b"-") or not text:
        yield f"level {level_id} has the name {text!r}"


def _metrics(state: _State) -> Iterator[str]:
    names = set()
    for index, metric in enumerate(state.metrics):
        cluster = int(metric["cluster"])
        if not 0 < cluster < state.levels.size or state.levels[cluster]["depth"] != 1:
            yield f"metric {index} belongs to level {cluster}, which is no cluster"
        if metric["generation"] % 2 or metric["generation"] == 0:
            yield f"metric {index} is in the middle of a change"
        if not _is_name(_text(state, metric, "name")) or metric["type"] > 3 or metric["kind"] not in (1, 2):
            yield f"metric {index} has an impossible definition"
        if (metric["kind"] == layout.KIND_STAMPED) != (metric["step_s"] == 0):
            yield f"metric {index} has kind {metric['kind']} and step {metric['step_s']}"
        names.add((cluster, _text(state, metric, "name")))
    if len(names) != state.metrics.size:
        yield "two metrics have the same cluster and name"


def _series(state: _State) -> Iterator[str]:
    series, live = state.series, state.live
    if np.any(series["level"][~live] != layout.NO_LEVEL):
        yield "a slot that is not live belongs to a level"
    rows = series[live]
    bad = (rows["level"] == 0) | (rows["level"] >= state.levels.size) | (rows["metric"] >= state.metrics.size)
    if bad.any() or np.any(rows["generation"] == 0):
        yield "a live series has no level, no metric or no generation"
        return
    if np.any(state.metrics["cluster"][rows["metric"]] != state.levels["cluster"][rows["level"]]):
        yield "a series has the metric of another cluster"
    if np.any((rows["kind"] == layout.KIND_GRID) & (rows["step_s"] == 0)):
        yield "a grid series has no step"
    seen: Counter[int] = Counter()
    for level_id in np.flatnonzero((state.levels["first_series"] != 0) | (state.levels["n_series"] != 0)):
        level = state.levels[level_id]
        links = _linked(int(level["first_series"]), lambda i: int(series[i - 1]["next_series"]), series.size)
        if links is None or len(links) != level["n_series"]:
            yield f"level {level_id} says {level['n_series']} series, its list does not"
            return
        if any(series[link - 1]["level"] != level_id or not live[link - 1] for link in links):
            yield f"level {level_id} lists a series that is not its own or not live"
        seen.update(links)
    if len(seen) != int(live.sum()) or any(count != 1 for count in seen.values()):
        yield "not every live series is linked exactly once"


def _eras(state: _State) -> Iterator[str]:
    series, live, ended = state.series, state.live, state.ended
    newest = np.flatnonzero(live & ~ended)
    pairs = Counter(zip(series["level"][newest].tolist(), series["metric"][newest].tolist(), strict=True))
    if any(count != 1 for count in pairs.values()):
        yield "a level and metric have two newest eras"
    everyone = set(zip(series["level"][live].tolist(), series["metric"][live].tolist(), strict=True))
    if len(everyone) != len(pairs):
        yield "a level and metric have only ended eras"
    if np.any(ended[live] != (series["next_slot"][live] != 0)):
        yield "a series is ended without a next era, or has one without being ended"
    for slot in np.flatnonzero(live & (series["next_slot"] != 0)):
        row = series[slot]
        after = int(row["next_slot"]) - 1
        if after >= series.size or not live[after] or series[after]["generation"] != row["next_generation"]:
            yield f"the era after slot {slot} does not exist"
        elif (series[after]["prev_slot"], series[after]["prev_generation"]) != (slot + 1, row["generation"]):
            yield f"the era after slot {slot} does not lead back"
        elif (
            series[after]["kind"] == layout.KIND_GRID
            and series[after]["era_start"] > state.directory.grids_changed_s()
            and any(series[after][field] != row[field] for field in ("type", "step_s"))
        ):
            yield f"the era after slot {slot} has another grid, and grids_changed_s names no change that late"


def _table(state: _State, name: str) -> dict[int, int]:
    """{low half: position} of a table's words; raises nothing, duplicates show as a smaller count."""
    found = np.frombuffer(
        state.directory.table_bytes(layout.TABLE_NAMES.index(name)),
        np.uint64 if name == "keys" else np.uint32,
    )
    slots = found.astype(np.uint64)
    used = np.flatnonzero(slots > 1)
    low = LOW if name == "keys" else id_mask(state.counts["max_series"])
    return dict(zip((slots[used] & np.uint64(low)).tolist(), used.tolist(), strict=True))


def id_mask(max_series: int) -> int:
    """The bits of a 4-byte slot that hold id + 2; the others are the hash's."""
    return int((1 << max(16, (2 * max_series + ID_SPARE).bit_length())) - 1)


def _tables(state: _State) -> Iterator[str]:
    find = state.directory
    words = _table(state, "levels")
    if set(words) != set(range(3, state.levels.size + 2)):
        yield "the level table does not hold every level once"
    for level_id in range(1, state.levels.size):
        level = state.levels[level_id]
        text = _text(state, level, "name")
        expected = -1 if level["flags"] & layout.LEVEL_EMPTY and level["depth"] > 1 else level_id
        if (
            find.find_level(int(level["parent"]), text[: level["type_len"]], text[level["type_len"] :])
            != expected
        ):
            yield f"level {level_id} is not found by its name"
    if set(_table(state, "metrics")) != set(range(2, state.metrics.size + 2)):
        yield "the metric table does not hold every metric once"
    for index, metric in enumerate(state.metrics):
        if find.find_metric(int(metric["cluster"]), _text(state, metric, "name")) != index:
            yield f"metric {index} is not found by its name"
    newest = np.flatnonzero(state.live & ~state.ended)
    if set(_table(state, "series")) != set((newest + 2).tolist()):
        yield "the series table does not hold every newest era once"
    for slot in newest.tolist():
        if find.find_series(int(state.series[slot]["level"]), int(state.series[slot]["metric"])) != slot:
            yield f"series {slot} is not found by its level and metric"


def _keys(state: _State) -> Iterator[str]:
    series = state.series
    words = set(_table(state, "keys"))
    heads = {at >> 3: entry for at, entry, _ in state.entries()}
    expected, count = set(), 0
    for at, entry, text in state.entries():
        count += 1
        ref, slot = int(entry["ref"]), int(entry["ref"]) & LOW
        if entry["index"] != count:
            yield f"key {text!r} has index {entry['index']}, it is entry {count}"
        published = 0 if slot == layout.IGNORE_SLOT and ref >> 56 == 0 else ref
        if at >> 3 in words and state.directory.lookup_key(text, int(entry["default_cluster"])) != published:
            yield f"key {text!r} is not found"
        if slot == layout.IGNORE_SLOT:
            continue
        expected.add(at >> 3)
        if slot >= series.size or not state.live[slot] or series[slot]["generation"] != ref >> 32:
            yield f"key {text!r} leads to a series that is not live"
        elif state.ended[slot]:
            yield f"key {text!r} leads to an ended era"
        elif any(entry[field] != series[slot][field] for field in ("type", "kind", "step_s")):
            yield f"key {text!r} disagrees with its series"
    if count != state.counts["n_keys"]:
        yield f"n_keys is {state.counts['n_keys']}, the region holds {count}"
    if expected - words or words - set(heads):
        yield "the key table does not hold exactly the region's keys"
    seen: Counter[int] = Counter()
    for slot in np.flatnonzero(state.live).tolist():
        links = _linked(int(series[slot]["first_key"]), lambda i: int(heads[i - 1]["next_key"]), 1 << 32)
        if links is None or any(int(heads[link - 1]["ref"]) & LOW not in (slot, LOW) for link in links):
            yield f"the keys of series {slot} are not its own"
            return
        seen.update(link - 1 for link in links)
    if not expected <= set(seen) or any(number != 1 for number in seen.values()):
        yield "not every key is in its series' list exactly once"
