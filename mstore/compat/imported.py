"""What an import found and did, and which files it need not look at again."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mstore.client.results import WriteResult
from mstore.compat.walk import Found, Skipped
from mstore.times import SECONDS_MAX, SECONDS_MIN


@dataclass(slots=True)
class Tally:
    """What the files hold of one cluster, within the range that is wanted."""

    hosts: set[str] = field(default_factory=set)
    n_files: int = 0
    n_series: int = 0
    n_samples: int = 0
    t_first: int = SECONDS_MAX
    t_last: int = SECONDS_MIN

    def count(self, host: str, times: NDArray[np.int64]) -> None:
        """Samples of one series, at least one."""
        self.hosts.add(host)
        self.n_samples += len(times)
        self.t_first = min(self.t_first, int(times.min()))
        self.t_last = max(self.t_last, int(times.max()))


@dataclass(slots=True)
class Report:
    """What an import did and what it left."""

    clusters: dict[str, Tally] = field(default_factory=lambda: defaultdict(Tally))
    result: WriteResult = field(default_factory=WriteResult)
    """What became of the samples, as the store says."""
    damaged: list[tuple[Path, str]] = field(default_factory=list)
    """Files that were not read, or not whole."""
    skipped: list[Skipped] = field(default_factory=list)
    n_done_before: int = 0
    """Files that an earlier run has imported."""
    n_exact: int = 0
    """Samples that were not written: the store holds exactly what the files have rounded."""
    unknown_metrics: Counter[str] = field(default_factory=Counter)
    """Samples of metrics that the store does not keep."""
    coarser: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    """(cluster, metric) -> (step of the files, longer step of the store): of several samples the last is kept."""

    @property
    def whole(self) -> bool:
        """Whether all that the files hold of the wanted range is in the store, or of a metric that it ignores."""
        return not (self.damaged or any(one.holds_data for one in self.skipped) or self.result.rejected)


class Journal:
    """Names of files that are imported, a line each: a second run passes over those that have not changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = set(path.read_text().splitlines()) if path.exists() else set()

    def __contains__(self, line: str) -> bool:
        return line in self._known

    def add(self, lines: Iterable[str]) -> None:
        """These files are in the store, acknowledged."""
        new = [line for line in lines if line not in self._known]
        self._known.update(new)
        with open(self._path, "a") as out:
            out.writelines(f"{line}\n" for line in new)

    @staticmethod
    def line(found: Found) -> str:
        """What tells the file in its present state; of one that is gone, its name."""
        try:
            status = found.path.stat()
        except OSError:
            return json.dumps([os.fspath(found.path)])
        return json.dumps([os.fspath(found.path), status.st_size, status.st_mtime_ns])
