"""The series a columns connection has opened: handle -> reference, and the path to ask again with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.errors import UnknownHandle
from mstore.kernels._columns import same, stale
from mstore.shm import layout
from mstore.shm.directory import DirectoryReader

U64 = NDArray[np.uint64]
_SLOT = np.uint64(0xFFFF_FFFF)
_FRAMES_KEPT = 8
"""Sets of handles remembered as in order: as many as a client cuts a tick into, by value type and by size."""


@dataclass(slots=True)
class Frame:
    """The handles of a frame that were all in order when they were looked at: mostly those of the next frame, too."""

    handles: NDArray[np.uint32]
    refs: U64
    """Not to be changed."""
    vtype: int | None
    kind: int
    lapses: int
    """Of the directory, before the look."""


class HandleTable:
    """Handles 0, 1, 2, ... of one connection.

    A handle outlives what it names: when a series was removed meanwhile, its generation no longer matches and
    stale() names the handles whose paths have to be interned again before a sample is encoded.

    To look at every series for each frame would cost most of a worker's time: the persister has just written those
    cache lines. So a frame whose handles were in order is kept, and as long as the directory counts no lapse of any
    series since, a frame of the same handles needs no look.
    """

    def __init__(self) -> None:
        self._refs: U64 = np.zeros(64, dtype=np.uint64)
        self._types: NDArray[np.uint8] = np.zeros(64, dtype=np.uint8)
        self._kinds: NDArray[np.uint8] = np.zeros(64, dtype=np.uint8)
        self._paths: list[list[str]] = []
        self._specs: list[Any] = []
        self._frames: dict[tuple[int, int, int], Frame] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def add(
        self, paths: list[list[str]], specs: list[Any] | None, refs: U64, types: bytes, kinds: bytes
    ) -> U64:
        """New handles for `paths`; uint64[n] handle numbers. One that is refused (an ignore word) is used up, too."""
        first, n = len(self._paths), len(paths)
        assert first + n <= limits.HANDLES_PER_CONNECTION_MAX, "the caller keeps the bound"
        size = len(self._refs)
        while first + n > size:
            size *= 2
        if size > len(self._refs):
            for name in ("_refs", "_types", "_kinds"):
                old = getattr(self, name)
                setattr(self, name, np.concatenate([old, np.zeros(size - len(old), old.dtype)]))
        self._refs[first : first + n] = _made(refs)
        self._types[first : first + n] = np.frombuffer(types, dtype=np.uint8)
        self._kinds[first : first + n] = np.frombuffer(kinds, dtype=np.uint8)
        self._paths += paths
        self._specs += specs if specs is not None else [None] * n
        return np.arange(first, first + n, dtype=np.uint64)

    def renew(self, handles: NDArray[np.uint32], refs: U64, types: bytes, kinds: bytes) -> None:
        """What the handles stand for now. One that is refused stays what it was, to be asked for again."""
        self._frames.clear()
        self._refs[handles] = _made(refs)
        made = refs & _SLOT != layout.IGNORE_SLOT
        self._types[handles[made]] = np.frombuffer(types, dtype=np.uint8)[made]
        self._kinds[handles[made]] = np.frombuffer(kinds, dtype=np.uint8)[made]

    def check(self, handles: NDArray[np.uint32], vtype: int | None, kind: int) -> None:
        """raises UnknownHandle for a handle never opened, refused, or of another kind or value type."""
        if len(handles) and int(handles.max()) >= len(self._paths):
            raise UnknownHandle(
                f"handle {int(handles.max())} was never opened on this connection ({len(self._paths)} are): send Open first",
                handle=int(handles.max()),
            )
        where = _index(handles)
        wrong = self._kinds[where] != kind
        if vtype is not None:
            wrong |= self._types[where] != vtype
        if wrong.any():
            handle = int(handles[wrong.argmax()])
            raise UnknownHandle(
                f"handle {handle} is {self._described(handle)}; the frame holds"
                f" {layout.TYPE_NAMES.get(vtype or 0, 'rows')}",
                handle=handle,
            )

    def _described(self, handle: int) -> str:
        kind, type_name = (
            int(self._kinds[handle]),
            layout.TYPE_NAMES.get(int(self._types[handle]), "several types"),
        )
        if kind == layout.KIND_GRID:
            return f"a grid series of {type_name}"
        return (
            f"a stamped series of {type_name}"
            if kind == layout.KIND_STAMPED
            else "of a series that was refused"
        )

    def refs(self, handles: NDArray[np.uint32]) -> U64:
        where = _index(handles)
        refs: U64 = self._refs[where].copy() if isinstance(where, slice) else self._refs[where]
        return refs

    def stale(self, handles: NDArray[np.uint32], directory: DirectoryReader) -> NDArray[np.intp]:
        """Where in `handles` the series is not there: not made yet, removed, being removed, or continued by a new era.

        A new era may have another value type: asking again tells the client, who would otherwise send numbers that
        no longer fit.

        Called within the worker's epoch: a removal that began before is seen here, one that begins after waits
        for the epoch to pass.
        """
        return self._look(self.refs(handles), directory)

    def _look(self, refs: U64, directory: DirectoryReader) -> NDArray[np.intp]:
        return stale(refs, directory.series_table().view(np.uint64)[:: layout.SERIES.itemsize // 8])

    def known(self, handles: NDArray[np.uint32], vtype: int | None, kind: int) -> Frame | None:
        """A frame of exactly these handles, which check() has passed for this kind and value type; None: check them."""
        frame = self._frames.get(_key(handles)) if len(handles) else None
        if frame is None or (frame.vtype, frame.kind) != (vtype, kind) or not same(frame.handles, handles):
            return None
        return frame

    def look(
        self, handles: NDArray[np.uint32], vtype: int | None, kind: int, directory: DirectoryReader
    ) -> tuple[U64, NDArray[np.intp]]:
        """(references, not to be changed; stale()), within the worker's epoch, of handles that check() has passed."""
        # SYNC POINT (acquire) lapses: the count is read before the series are looked at. A series that lapses after
        # its look is counted later than this.
        lapses = directory.lapses()
        refs = self.refs(handles)
        found = self._look(refs, directory)
        if len(handles) and not len(found):
            refs.flags.writeable = False
            self._keep(Frame(handles.copy(), refs, vtype, kind, lapses))
        return refs, found

    def _keep(self, frame: Frame) -> None:
        """Within bounds: a few frames, and in all of them no more than twice the handles there are."""
        key = _key(frame.handles)
        self._frames.pop(key, None)
        n = sum(len(kept.handles) for kept in self._frames.values()) + len(frame.handles)
        while self._frames and (len(self._frames) >= _FRAMES_KEPT or n > 2 * len(self)):
            n -= len(self._frames.pop(next(iter(self._frames))).handles)
        self._frames[key] = frame

    def paths(self, handles: NDArray[np.uint32]) -> tuple[list[list[str]], list[Any]]:
        return [self._paths[i] for i in handles.tolist()], [self._specs[i] for i in handles.tolist()]


def _key(handles: NDArray[np.uint32]) -> tuple[int, int, int]:
    return len(handles), int(handles[0]), int(handles[-1])


def _made(refs: U64) -> U64:
    """References with 0 in place of ignore words: series that are not there."""
    return np.where(refs & _SLOT == layout.IGNORE_SLOT, np.uint64(0), refs)


def _index(numbers: NDArray[Any]) -> NDArray[Any] | slice:
    """As a slice when the numbers are consecutive, which those of a whole frame mostly are: many times faster."""
    if len(numbers) < 2 or int(numbers[-1]) - int(numbers[0]) != len(numbers) - 1:
        return numbers
    if not (numbers[1:] - numbers[:-1] == 1).all():
        return numbers
    return slice(int(numbers[0]), int(numbers[-1]) + 1)
