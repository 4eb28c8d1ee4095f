"""A follower of its own: python -m benchmarks.follower DIR SELECTOR N_SERIES N_SAMPLES HOSTS. It reads all that arrives.

Prints a line when it knows all series that it follows, and one of JSON when so many samples have come or were told to be
missed, or when nothing has come for a while. HOSTS, with commas: it notes when their samples came.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

import mstore
from benchmarks.load import METRIC
from mstore.client.following import UNKNOWN_MISSED, FollowBatch
from mstore.client.sync_following import Follow

QUIET_S = 30.0
READY_S_MAX = 60.0


@dataclass
class Received:
    """What has come to one follower.

    missed      samples that it was told it has missed; -1: it was told that nobody knows how many
    hundredths  sum of the values, in hundredths: exact
    arrivals    [host, time of the samples in Unix seconds, monotonic seconds when the last of them came]
    cpu_s       processor time of the follower's process meanwhile
    """

    seen: int = 0
    missed: int = 0
    hundredths: int = 0
    arrivals: list[tuple[str, int, float]] = field(default_factory=list)
    cpu_s: float = 0.0

    def take(self, batch: FollowBatch) -> None:
        if UNKNOWN_MISSED in (batch.missed, self.missed):
            self.missed = UNKNOWN_MISSED
        else:
            self.missed += batch.missed
        self.seen += len(batch)
        self.hundredths += int(np.rint(batch.words.view(np.float64) * 100).sum())


class Watch:
    """Notes when samples of some hosts came."""

    def __init__(self, follow: Follow, hosts: list[str]) -> None:
        number = {host: i for i, host in enumerate(hosts)}
        self._hosts = hosts
        self._of_series = np.array([number.get(series.host, -1) for series in follow.series])
        self._came_s: dict[tuple[int, int], float] = {}

    def look(self, batch: FollowBatch, now_s: float) -> None:
        host = self._of_series[batch.index]
        watched = np.flatnonzero(host >= 0)
        if len(watched):
            pairs = np.stack([host[watched], batch.times_ms[watched] // 1000], axis=1)
            for i, second in np.unique(pairs, axis=0).tolist():
                self._came_s[i, second] = now_s

    def arrivals(self) -> list[tuple[str, int, float]]:
        return [(self._hosts[i], second, came_s) for (i, second), came_s in self._came_s.items()]


def receive(follow: Follow, n_samples: int, hosts: list[str]) -> Received:
    """Read until all are accounted for."""
    found, watch, began_s = Received(), Watch(follow, hosts), time.process_time()
    while UNKNOWN_MISSED < found.missed < n_samples - found.seen:
        batch = follow.next(QUIET_S)
        if batch is None:
            break
        watch.look(batch, time.monotonic())
        found.take(batch)
    found.arrivals, found.cpu_s = watch.arrivals(), time.process_time() - began_s
    return found


def main(directory: Path, selector: str, n_series: int, n_samples: int, hosts: list[str]) -> None:
    with mstore.connect(directory, timeout=60) as client, client.follow(selector, METRIC) as follow:
        until_s = time.monotonic() + READY_S_MAX
        while len(follow.series) < n_series:
            assert follow.next(0.05) is None, "nothing is written yet"
            assert time.monotonic() < until_s, f"{len(follow.series)} series of {n_series} were announced"
        print("following", flush=True)
        print(json.dumps(asdict(receive(follow, n_samples, hosts))), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5].split(","))
