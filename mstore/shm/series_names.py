"""References of series as people know them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from mstore.shm.directory import DirectoryReader, DirectoryWriter

_NAMED_MAX = 3
_LOOKED_AT_MAX = 10_000


def series_names(directory: DirectoryReader | DirectoryWriter, refs: Sequence[int]) -> str:
    """ "fritz (f0101 cpu_load, f0102 cpu_load, f0103 cpu_load, ...)"; "" when none of them is known.

    refs  generation << 32 | slot; of very many only the first are looked at
    """
    table = directory.series_table()
    clusters: set[str] = set()
    names: list[str] = []
    for ref in islice(refs, _LOOKED_AT_MAX):
        slot = ref & 0xFFFF_FFFF
        if slot >= len(table) or int(table[slot]["generation"]) != ref >> 32:
            continue
        path = directory.path(int(table[slot]["level"]), directory.metric(int(table[slot]["metric"])).name)
        clusters.add(path.cluster)
        if len(names) <= _NAMED_MAX:
            below = [type_ + id_ for type_, id_ in path.levels()]
            names.append(" ".join([*below, path.metric]))
    if not names:
        return ""
    told = names if len(refs) <= _NAMED_MAX else [*names[:_NAMED_MAX], "..."]
    return f"{', '.join(sorted(clusters))} ({', '.join(told)})"
