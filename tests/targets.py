"""What recovery can fill instead of a store: lists and dicts that say what they were given."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from mstore.shm import layout

Key = tuple[int, int, int]
Counts = tuple[int, int, int, int, int, int, int]


def each_entry(entries: bytes | memoryview) -> Iterator[tuple[Key, np.void, bytes]]:
    """((slot, generation, n), header, payload) of the chunks in a block of a snapshot."""
    at = 0
    while at < len(entries):
        header = np.frombuffer(entries, layout.CHUNK, 1, at)[0]
        n_bytes = int(header["reserved"])
        body = bytes(entries[at + layout.CHUNK.itemsize : at + layout.CHUNK.itemsize + n_bytes])
        yield (int(header["series"]), int(header["generation"]), int(header["n"])), header, body
        at += layout.CHUNK.itemsize + (n_bytes + 7) // 8 * 8


class LogOnly:
    """Hands log blocks to a function; there are no snapshots."""

    def __init__(self, apply: Callable[[memoryview], object]) -> None:
        self.apply = apply

    def define(self, records: memoryview) -> None:
        raise AssertionError("definitions of a snapshot")

    def load(self, entries: memoryview, expired_s: int, older_s: int) -> Counts:
        raise AssertionError("chunks of a snapshot")

    def forget(self, cluster: int) -> None:
        raise AssertionError("nothing was loaded")

    def prepare(self, n_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def room(self) -> int:
        return 1 << 60

    def clusters_with_series(self) -> set[int]:
        return set()

    def name_of(self, cluster: int) -> str:
        return f"cluster-{cluster}"

    def series_names(self, refs: Sequence[int]) -> str:
        return f"slots {', '.join(str(ref & 0xFFFF_FFFF) for ref in refs)}"


class Collected:
    """Keeps what snapshots gave. `cluster_of` tells which chunks to forget: slot -> cluster."""

    def __init__(self, cluster_of: dict[int, int] | None = None) -> None:
        self.cluster_of = cluster_of or {}
        self.definitions: list[bytes] = []
        self.chunks: dict[Key, bytes] = {}
        self.headers: dict[Key, np.void] = {}
        self.forgotten: list[int] = []
        self.room_bytes = 1 << 60

    def apply(self, records: memoryview) -> object:
        return None

    def define(self, records: memoryview) -> None:
        self.definitions.append(bytes(records))

    def foresee(self, record: memoryview) -> None:
        pass

    def load(self, entries: memoryview, expired_s: int, older_s: int) -> Counts:
        n_chunks = n_slots = 0
        for key, header, body in each_entry(entries):
            self.chunks[key], self.headers[key] = body, header
            n_chunks, n_slots = n_chunks + 1, n_slots + int(header["count"])
        return n_chunks, n_slots, 0, 0, 0, 0, 0

    def forget(self, cluster: int) -> None:
        self.forgotten.append(cluster)
        self.chunks = {
            key: body for key, body in self.chunks.items() if self.cluster_of.get(key[0], 0) != cluster
        }

    def prepare(self, n_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def room(self) -> int:
        return self.room_bytes

    def clusters_with_series(self) -> set[int]:
        return set(self.cluster_of.values())

    def name_of(self, cluster: int) -> str:
        return f"cluster-{cluster}"

    def series_names(self, refs: Sequence[int]) -> str:
        return f"slots {', '.join(str(ref & 0xFFFF_FFFF) for ref in refs)}"


class Recorded:
    """Keeps every call, in order, for a real store to repeat; blocks of the log apart."""

    def __init__(self, handed: list[tuple[Any, ...]], found: list[bytes]) -> None:
        self._handed = handed
        self._found = found

    def apply(self, records: memoryview) -> None:
        self._found.append(bytes(records))

    def define(self, records: memoryview) -> None:
        self._handed.append(("define", bytes(records)))

    def foresee(self, record: memoryview) -> None:
        self._handed.append(("foresee", bytes(record)))

    def load(self, entries: memoryview, expired_s: int, older_s: int) -> Counts:
        self._handed.append(("load", bytes(entries), expired_s, older_s))
        return 0, 0, 0, 0, 0, 0, 0

    def forget(self, cluster: int) -> None:
        self._handed.append(("forget", cluster))

    def prepare(self, n_bytes: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def room(self) -> int:
        return 1 << 60

    def clusters_with_series(self) -> set[int]:
        return set()

    def name_of(self, cluster: int) -> str:
        return f"cluster-{cluster}"

    def series_names(self, refs: Sequence[int]) -> str:
        return f"slots {', '.join(str(ref & 0xFFFF_FFFF) for ref in refs)}"
