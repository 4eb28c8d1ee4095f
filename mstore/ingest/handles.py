"""The series a columns connection has opened: handle -> reference, and the path to ask again with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.errors import LimitExceeded, UnknownHandle
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

U64 = NDArray[np.uint64]


class HandleTable:
    """Handles 0, 1, 2, ... of one connection.

    A handle outlives what it names: when a series was removed meanwhile, its generation no longer matches and
    stale() names the handles whose paths have to be interned again before a sample is encoded.
    """

    def __init__(self) -> None:
        self._refs: U64 = np.zeros(64, dtype=np.uint64)
        self._types: NDArray[np.uint8] = np.zeros(64, dtype=np.uint8)
        self._kinds: NDArray[np.uint8] = np.zeros(64, dtype=np.uint8)
        self._paths: list[list[str]] = []
        self._specs: list[Any] = []

    def __len__(self) -> int:
        return len(self._paths)

    def add(
        self, paths: list[list[str]], specs: list[Any] | None, refs: U64, types: bytes, kinds: bytes
    ) -> U64:
        """New handles for `paths`; uint64[n] handle numbers. raises LimitExceeded beyond the connection's bound."""
        first, n = len(self._paths), len(paths)
        if first + n > limits.HANDLES_PER_CONNECTION_MAX:
            raise LimitExceeded(
                f"{first + n} handles on one connection; at most {limits.HANDLES_PER_CONNECTION_MAX}",
                limit=limits.HANDLES_PER_CONNECTION_MAX,
            )
        while first + n > len(self._refs):
            for name in ("_refs", "_types", "_kinds"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros_like(old)]))
        self._refs[first : first + n] = refs
        self._types[first : first + n] = np.frombuffer(types, dtype=np.uint8)
        self._kinds[first : first + n] = np.frombuffer(kinds, dtype=np.uint8)
        self._paths += paths
        self._specs += specs if specs is not None else [None] * n
        return np.arange(first, first + n, dtype=np.uint64)

    def renew(self, handles: NDArray[np.uint32], refs: U64, types: bytes, kinds: bytes) -> None:
        self._refs[handles] = refs
        self._types[handles] = np.frombuffer(types, dtype=np.uint8)
        self._kinds[handles] = np.frombuffer(kinds, dtype=np.uint8)

    def check(self, handles: NDArray[np.uint32], vtype: int | None, kind: int) -> None:
        """raises UnknownHandle for a handle never opened or of another kind or value type."""
        if len(handles) and int(handles.max()) >= len(self._paths):
            raise UnknownHandle(
                f"handle {int(handles.max())} was never opened on this connection ({len(self._paths)} are): send Open first",
                handle=int(handles.max()),
            )
        wrong = self._kinds[handles] != kind
        if vtype is not None:
            wrong |= self._types[handles] != vtype
        if wrong.any():
            handle = int(handles[wrong.argmax()])
            have = layout.TYPE_NAMES.get(int(self._types[handle]), "?")
            raise UnknownHandle(
                f"handle {handle} is a {'grid' if self._kinds[handle] == layout.KIND_GRID else 'stamped'} series of {have};"
                f" the frame holds {layout.TYPE_NAMES.get(vtype or 0, 'rows')}",
                handle=handle,
            )

    def refs(self, handles: NDArray[np.uint32]) -> U64:
        refs: U64 = self._refs[handles]
        return refs

    def stale(self, handles: NDArray[np.uint32], directory: DirectoryReader) -> NDArray[np.uint32]:
        """The handles whose series was removed since they were opened (its slot has another generation)."""
        refs = self._refs[handles]
        generations = directory.series_table()["generation"]
        slots = (refs & np.uint64(0xFFFF_FFFF)).astype(np.int64)
        # Reference 0 is a series not made yet; its generation 0 matches no slot.
        inside = slots < len(generations)
        current = np.zeros(len(slots), dtype=bool)
        current[inside] = generations[slots[inside]] == refs[inside] >> np.uint64(32)
        gone: NDArray[np.uint32] = handles[~current]
        return gone

    def paths(self, handles: NDArray[np.uint32]) -> tuple[list[list[str]], list[Any]]:
        return [self._paths[i] for i in handles.tolist()], [self._specs[i] for i in handles.tolist()]
