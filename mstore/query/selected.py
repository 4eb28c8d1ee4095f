"""What a selector means in a directory: levels, and all that hangs below them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from mstore.limits import PATH_DEPTH_MAX
from mstore.query.budget import Work
from mstore.selector import Selector
from mstore.shm.directory import DirectoryReader, DirectoryWriter

_NAMES = 1024
"""Looked at in one piece: some milliseconds."""


def levels_of(directory: DirectoryReader | DirectoryWriter, selector: Selector) -> Work[list[int]]:
    """Ids of the levels that a selector names, each once; levels that hold nothing are not there."""
    at, n_names = [0], 0
    for step in selector.steps:
        found = []
        for level in at:
            for child in directory.children(level):
                if step.matches(directory.level(child).name):
                    found.append(child)
                n_names += 1
                if n_names % _NAMES == 0:
                    yield
        at = found
    return at


def below(
    directory: DirectoryReader | DirectoryWriter, selectors: Iterable[Selector], exclude: Iterable[Selector]
) -> Work[NDArray[np.bool_]]:
    """bool[n_levels]: what the selectors name and all levels below, without what `exclude` names and all below that."""
    chosen, left_out = [], []
    for selector in selectors:
        chosen += yield from levels_of(directory, selector)
    for selector in exclude:
        left_out += yield from levels_of(directory, selector)
    return subtrees(directory, chosen) & ~subtrees(directory, left_out)


def subtrees(
    directory: DirectoryReader | DirectoryWriter, levels: Sequence[int] | NDArray[np.uint32]
) -> NDArray[np.bool_]:
    """bool[n_levels]: these levels and all below them."""
    table = directory.levels()
    found = np.zeros(len(table), bool)
    found[levels] = True
    depths, parents = table["depth"], table["parent"]
    for depth in range(2, PATH_DEPTH_MAX + 1):
        at = np.flatnonzero(depths == depth)
        found[at] |= found[parents[at]]
    return found


def of_series(
    directory: DirectoryReader | DirectoryWriter, levels: NDArray[np.bool_], rows: slice
) -> NDArray[np.bool_]:
    """bool[n]: which of some rows of the series table are live and belong to these levels."""
    at = directory.series_table()["level"][rows]
    known = at < len(levels)  # a free slot's is none, and a level may be newer than the choice
    found = np.zeros(len(at), bool)
    found[known] = levels[at[known]]
    return found
