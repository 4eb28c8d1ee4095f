"""A disk in memory that records what is done to it, and the images a crash may leave of it.

    Disk (a Files object)  --operations-->  Journal  --prefix, choice of survivors-->  Image

What a power cut may do to operations that were not synced:
  - contents: of the writes to a file since its last fdatasync every sector (512 bytes) shows any version between
    the durable one and the newest; or whole pages (4096 bytes) do; or a prefix of the writes, the last one torn
  - length: the durable one, the newest one, or what the surviving writes need; the gap reads as zeros
  - names: of the creations, renames and removals in a directory since its last fsync any subset, or a prefix
A failed fdatasync makes a part of its writes durable, forgets the others, and reports once: the next one
succeeds and means nothing, as on Linux. A kill loses nothing: the page cache lives.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mstore.errors import StorageError
from mstore.persistence.files import Files, FileStatus

SECTOR = 512
PAGE = 4096

Fault = Callable[[str, "Disk"], str]
"""(operation, disk) -> "" or what goes wrong: EIO, ENOSPC, EDQUOT, short (half is written, then ENOSPC)."""

ERRNO = {"EIO": errno.EIO, "ENOSPC": errno.ENOSPC, "EDQUOT": errno.EDQUOT, "short": errno.ENOSPC}


@dataclass(slots=True)
class Inode:
    durable: bytearray = field(default_factory=bytearray)
    cached: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    """Writes since the last fdatasync, oldest first."""

    def copy(self) -> Inode:
        return Inode(bytearray(self.durable), bytearray(self.cached), list(self.pending))


Change = tuple[Path, int | None, Path | None]
"""(name, inode it leads to or None when it was removed, name that went with it)"""


@dataclass(slots=True)
class State:
    """Everything that counts: what programs see, what is durable, and what lies between."""

    inodes: dict[int, Inode] = field(default_factory=dict)
    names: dict[Path, int] = field(default_factory=dict)
    durable_names: dict[Path, int] = field(default_factory=dict)
    changes: dict[Path, list[Change]] = field(default_factory=dict)

    def copy(self) -> State:
        return State(
            {number: inode.copy() for number, inode in self.inodes.items()},
            dict(self.names),
            dict(self.durable_names),
            {folder: list(changes) for folder, changes in self.changes.items()},
        )

    def apply(self, operation: tuple[Any, ...], rng: random.Random) -> None:
        getattr(self, f"_{operation[0]}")(*operation[1:], rng)

    def _create(self, path: Path, number: int, n_bytes: int, _rng: random.Random) -> None:
        self.inodes[number] = Inode(cached=bytearray(n_bytes))
        self.names[path] = number
        self._changed((path, number, None))

    def _write(self, number: int, offset: int, content: bytes, _rng: random.Random) -> None:
        inode = self.inodes[number]
        _overwrite(inode.cached, offset, content)
        inode.pending.append((offset, content))

    def _sync(self, number: int, _rng: random.Random) -> None:
        inode = self.inodes[number]
        for offset, content in inode.pending:
            _overwrite(inode.durable, offset, content)
        inode.durable.extend(bytes(len(inode.cached) - len(inode.durable)))
        inode.pending.clear()

    def _fail_sync(self, number: int, rng: random.Random) -> None:
        inode = self.inodes[number]
        inode.durable = _surviving(inode, rng)
        inode.pending.clear()

    def _sync_names(self, folder: Path, _rng: random.Random) -> None:
        for change in self.changes.pop(folder, []):
            _rename(self.durable_names, change)

    def _rename(self, source: Path, target: Path, _rng: random.Random) -> None:
        number = self.names.pop(source)
        self.names[target] = number
        self._changed((target, number, source))

    def _unlink(self, path: Path, _rng: random.Random) -> None:
        del self.names[path]
        self._changed((path, None, None))

    def _mark(self, _what: str, _value: int, _rng: random.Random) -> None:
        """Nothing happens on the disk; the journal says how far the store is."""

    def _changed(self, change: Change) -> None:
        self.changes.setdefault(change[0].parent, []).append(change)

    def after_power_cut(self, rng: random.Random) -> State:
        """One of the disks that a power cut at this moment may leave."""
        names = dict(self.durable_names)
        for changes in self.changes.values():
            for change in _kept_changes(changes, rng):
                _rename(names, change)
        state = State(names=names, durable_names=dict(names))
        for number in set(names.values()):
            content = _surviving(self.inodes[number], rng)
            state.inodes[number] = Inode(content, bytearray(content))
        return state

    def fingerprint(self) -> int:
        """Equal for images that hold the same files."""
        return hash(tuple((path, bytes(self.inodes[n].cached)) for path, n in sorted(self.names.items())))


def _kept_changes(changes: list[Change], rng: random.Random) -> list[Change]:
    how = rng.randrange(4)
    if how == 0:
        return []
    if how == 1:
        return changes
    if how == 2:
        return changes[: rng.randint(0, len(changes))]
    return [change for change in changes if rng.random() < 0.5]


def _rename(names: dict[Path, int], change: Change) -> None:
    target, number, source = change
    if source is not None:
        names.pop(source, None)
    if number is None:
        names.pop(target, None)
    else:
        names[target] = number


def _overwrite(content: bytearray, offset: int, new: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(new)] = new


def _pieces(offset: int, content: bytes, unit: int) -> list[tuple[int, bytes]]:
    """A write cut at multiples of `unit` of the file."""
    found = []
    stop = offset + len(content)
    at = offset
    while at < stop:
        end = min(stop, (at // unit + 1) * unit)
        found.append((at, content[at - offset : end - offset]))
        at = end
    return found


def _surviving(inode: Inode, rng: random.Random) -> bytearray:
    """One of the contents that the file may have when nothing pending is synced any more."""
    content = bytearray(inode.durable)
    pending = inode.pending
    how = rng.randrange(5) if pending else 0
    if how == 1:  # everything
        for offset, new in pending:
            _overwrite(content, offset, new)
    elif how == 2:  # a prefix, its last write torn
        cut = rng.randint(0, len(pending) - 1)
        for offset, new in pending[:cut]:
            _overwrite(content, offset, new)
        pieces = _pieces(*pending[cut], SECTOR)
        for offset, new in pieces[: rng.randint(0, len(pieces))]:
            _overwrite(content, offset, new)
    elif how >= 3:  # every sector, or page, has a version of its own
        unit = SECTOR if how == 3 else PAGE
        versions: dict[int, list[tuple[int, bytes]]] = {}
        for offset, new in pending:
            for piece in _pieces(offset, new, unit):
                versions.setdefault(piece[0] // unit, []).append(piece)
        for _, pieces in sorted(versions.items()):
            for offset, new in pieces[: rng.choice((0, len(pieces), rng.randint(0, len(pieces))))]:
                _overwrite(content, offset, new)
    if rng.random() < 0.5:
        content.extend(bytes(max(0, len(inode.cached) - len(content))))
    return content


class Disk(Files):
    """Files in memory. `journal` has every operation in order, and the marks that tests put between them."""

    def __init__(self, state: State | None = None, fault: Fault | None = None, seed: int = 0) -> None:
        self.base = (state or State()).copy()
        self.state = self.base.copy()
        self.journal: list[tuple[Any, ...]] = []
        self.fault = fault
        self.rng = random.Random(seed)
        self._fds: dict[int, int | Path] = {}
        self._next_fd = 10
        self._next_inode = max(self.state.inodes, default=0) + 1
        self.n_calls = 0
        self.between: Callable[[], None] | None = None
        """Called after each operation while another process works: what the others do meanwhile."""

    def forget_descriptors(self) -> None:
        """The process is gone."""
        self._fds.clear()

    def mark(self, what: str, value: int) -> None:
        self.journal.append(("mark", what, value))

    def _do(self, *operation: Any) -> None:
        self.journal.append(operation)
        self.state.apply(operation, self.rng)
        if self.between:
            between, self.between = self.between, None
            try:
                between()
            finally:
                self.between = between

    def _call(self, name: str) -> str:
        """Every call comes through here: counted, and failed when the test says so."""
        self.n_calls += 1
        what = self.fault(name, self) if self.fault else ""
        if what and what != "short":
            self._refuse(name, what)
        return what

    def _refuse(self, name: str, what: str) -> None:
        raise StorageError(f"injected {what} in {name}", errno=ERRNO[what])

    def _inode(self, fd: int) -> Inode:
        return self.state.inodes[self._number(fd)]

    def _number(self, fd: int) -> int:
        number = self._fds[fd]
        assert isinstance(number, int)
        return number

    def _open(self, what: int | Path) -> int:
        self._next_fd += 1
        self._fds[self._next_fd] = what
        return self._next_fd

    def n_open(self) -> int:
        return len(self._fds)

    def mkdir(self, path: Path) -> None:
        """Directories are there: making them is the business of the first start only."""

    def list(self, path: Path) -> list[str]:
        self._call("list")
        return sorted(name.name for name in self.state.names if name.parent == path)

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        if self._call("create"):
            self._refuse("create", "short")
        assert path not in self.state.names, path
        number = self._next_inode
        self._next_inode += 1
        self._do("create", path, number, allocate_bytes)
        return self._open(number)

    def open(self, path: Path, *, writable: bool = False) -> int:
        self._call("open")
        return self._open(self.state.names[path])

    def close(self, fd: int) -> None:
        self._fds.pop(fd, None)

    def size(self, fd: int) -> int:
        self._call("size")
        return len(self._inode(fd).cached)

    def status(self, path: Path) -> FileStatus | None:
        number = self.state.names.get(path)
        return None if number is None else FileStatus((0, number), len(self.state.inodes[number].cached), 0)

    def status_of(self, fd: int) -> FileStatus:
        number = self._number(fd)
        return FileStatus((0, number), len(self.state.inodes[number].cached), 0)

    def pwritev(self, fd: int, buffers: Sequence[bytes | bytearray | memoryview], offset: int) -> None:
        content = b"".join(bytes(buffer) for buffer in buffers)
        short = self._call("pwritev")
        if short:
            content = content[: len(content) // 2]
        self._do("write", self._number(fd), offset, content)
        if short:
            self._refuse("pwritev", short)

    def prewrite(self, fd: int, start: int, stop: int) -> None:
        short = self._call("prewrite")
        self._do("write", self._number(fd), start, bytes((stop - start) // (2 if short else 1)))
        if short:
            self._refuse("prewrite", short)
        self._do("sync", self._number(fd))

    def pread(self, fd: int, n_bytes: int, offset: int) -> bytes:
        self._call("pread")
        return bytes(self._inode(fd).cached[offset : offset + n_bytes])

    def read(self, path: Path) -> bytes:
        self._call("read")
        return bytes(self.state.inodes[self.state.names[path]].cached)

    def fdatasync(self, fd: int) -> None:
        self.n_calls += 1
        what = self.fault("fdatasync", self) if self.fault else ""
        self._do("fail_sync" if what else "sync", self._number(fd))
        if what:
            self._refuse("fdatasync", what)

    def open_dir(self, path: Path) -> int:
        self._call("open_dir")
        return self._open(path)

    def fsync(self, fd: int) -> None:
        if self._call("fsync"):
            self._refuse("fsync", "short")
        folder = self._fds[fd]
        assert isinstance(folder, Path)
        self._do("sync_names", folder)

    def rename(self, source: Path, target: Path) -> None:
        if self._call("rename"):
            self._refuse("rename", "short")
        self._do("rename", source, target)

    def unlink(self, path: Path) -> None:
        if self._call("unlink"):
            self._refuse("unlink", "short")
        if path in self.state.names:
            self._do("unlink", path)
