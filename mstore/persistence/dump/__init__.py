"""Any file of a store as a list of items: log segments, snapshots, shared memory; for people and for programs.

    dump_file(path, choice, names)    one file, whatever it is
    store_files(directory)            all files of a store, in an order in which names are known before they are used

Everything is read by what the store itself reads with, every checksum and rule is checked on the way, and what does
not fit is an item with the reason and the place where reading goes on. Nothing is written, nothing is locked: the
files of a running store are read as they are.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

from mstore.errors import MstoreError, StorageError
from mstore.persistence.dump.items import Choice, Item, Shown
from mstore.persistence.dump.log import log_items
from mstore.persistence.dump.memory import Cut, Source, control_items, header_item, ring_items
from mstore.persistence.dump.names import Names
from mstore.persistence.dump.records import TYPE_NAMES
from mstore.persistence.dump.snapshots import snapshot_items
from mstore.persistence.dump.tables import Directory, directory_items, linked_chunks, loose_chunks
from mstore.persistence.files import (
    SPARE_SUFFIX,
    TMP_SUFFIX,
    WAL_SUFFIX,
    Files,
    generation_of,
    number_of,
    snapshot_dir,
    wal_dir,
)
from mstore.persistence.snapshot import list_snapshots
from mstore.shm import layout
from mstore.shm.segment import SHM_DIR, name_prefix, stale

__all__ = ["RECORD_NAMES", "Choice", "Item", "Names", "dump_file", "find", "store_files"]

RECORD_NAMES = frozenset([*TYPE_NAMES.values(), "block", "chunk", "worker"])
"""What can be chosen to be shown."""

LOG, SNAPSHOT, SEGMENT = "log segment", "snapshot", "shared memory"
_MAGICS = ((b"MSTWAL01", LOG), (b"MS01", SNAPSHOT), (layout.MAGIC.to_bytes(8, "little"), SEGMENT))


def find(name: str) -> Path:
    """The path of a file, or of a segment by its name in /dev/shm."""
    path = Path(name)
    shared = SHM_DIR / name
    return shared if "/" not in name and not path.exists() and shared.exists() else path


def store_files(directory: Path) -> list[Path]:
    """Snapshots, oldest first, each with its definitions before its chunks; the log; shared memory."""
    files = Files()
    folder = snapshot_dir(directory)
    found: list[Path] = []
    parts = sorted(
        (one[0], one[1], not name.endswith(".definitions"), name)
        for name in files.list(folder) if (one := generation_of(name))
    )  # fmt: skip
    for log_seq, manifest in reversed(list_snapshots(files, folder)):
        found.append(manifest)
        found += [folder / name for seq, _, _, name in parts if seq == log_seq]
    found += [folder / name for *_, name in parts if folder / name not in found]
    log = wal_dir(directory)
    found += [log / name for name in files.list(log) if number_of(name, WAL_SUFFIX) is not None]
    segments = stale(name_prefix(directory))
    # Names come first here as well.
    found += [
        SHM_DIR / name for name in sorted(segments, key=lambda name: (not name.endswith("-directory"), name))
    ]
    return found


def dump_file(path: Path, choice: Choice, names: Names) -> Iterator[Item]:
    """The items of one file: first what it is, last a summary. Damage is an item and no end.

    choice   what is shown; everything is read and checked
    names    of series, learnt from what was dumped before; grows
    raises   StorageError when the file cannot be read at all
    """
    files = Files()
    shown = Shown(choice)
    size, begin = _look(files, path)
    kind = _kind(path, begin)
    if not size or not kind:
        yield Item("file", 0, {"path": str(path), "bytes": size}, 0, "empty" if not size else _FOREIGN)
        return
    yield Item("file", 0, {"path": str(path), "holds": kind, "bytes": size}, 0)
    for item in _items(kind, path, files, shown, names):
        shown.n_wrong += bool(item.wrong)
        yield item
    yield shown.end(size)


_FOREIGN = "not a file of mstore: neither a log segment nor a snapshot nor a segment of shared memory"


def _look(files: Files, path: Path) -> tuple[int, bytes]:
    """(length, first bytes) of a regular file."""
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise StorageError(f"cannot open {path}: {reason}", path=str(path)) from error
    if stat.S_ISDIR(status.st_mode):
        raise StorageError(f"{path} is a directory: --dir {path} dumps all files of a store", path=str(path))
    if not stat.S_ISREG(status.st_mode):
        raise StorageError(f"{path} is no regular file: expected a file of a store", path=str(path))
    fd = files.open(path)
    try:
        return status.st_size, files.pread(fd, 16, 0)
    finally:
        files.close(fd)


def _kind(path: Path, begin: bytes) -> str:
    """What a file is by its first bytes; by its name where these are damaged."""
    for magic, kind in _MAGICS:
        if begin.startswith(magic):
            return kind
    name = path.name.removesuffix(TMP_SUFFIX)
    if name.endswith((WAL_SUFFIX, SPARE_SUFFIX)):
        return LOG
    if name.endswith((".snapshot", ".definitions", ".chunks")):
        return SNAPSHOT
    return SEGMENT if name.startswith("mstore-") else ""


def _items(kind: str, path: Path, files: Files, shown: Shown, names: Names) -> Iterator[Item]:
    if kind == LOG:
        return log_items(memoryview(files.read(path)), path, files, shown, names)
    if kind == SNAPSHOT:
        return snapshot_items(path, files, shown, names)
    return _segment_items(path, files, shown, names)


def _segment_items(path: Path, files: Files, shown: Shown, names: Names) -> Iterator[Item]:
    fd = files.open(path)
    try:
        size = files.size(fd)
        whole = Source(files, fd, size)
        try:
            item, kind = header_item(whole, size)
            yield item
            if kind:
                # A directory has memory region by region; elsewhere there is none behind the committed bytes.
                bound = size if kind == layout.SEG_DIRECTORY else item.fields["committed_bytes"]
                source = Source(files, fd, min(size, bound))
                yield from _contents(kind, path, source, files, shown, names)
        except Cut as error:
            yield Item("gap", 0, {}, wrong=str(error))
    finally:
        files.close(fd)


def _contents(
    kind: int, path: Path, source: Source, files: Files, shown: Shown, names: Names
) -> Iterator[Item]:
    if kind == layout.SEG_CONTROL:
        yield from control_items(source, shown)
    elif kind == layout.SEG_RING:
        yield from ring_items(source, shown, names)
    elif kind == layout.SEG_DIRECTORY:
        yield from directory_items(source, shown, names)
    else:
        yield from _samples_items(path, source, files, shown, names)


def _samples_items(path: Path, source: Source, files: Files, shown: Shown, names: Names) -> Iterator[Item]:
    """Chunks by way of the directory beside this segment, or as they lie there."""
    beside = path.with_name(path.name.removesuffix("samples") + "directory")
    if beside == path or not beside.is_file():
        yield Item(
            "note",
            layout.SAMPLES_DATA,
            {"text": f"no {beside.name} beside it: what looks like a chunk is shown"},
        )
        yield from loose_chunks(source, shown, names)
        return
    fd = files.open(beside)
    try:
        size = files.size(fd)
        item, kind = header_item(Source(files, fd, size), size)
        if kind != layout.SEG_DIRECTORY:
            raise Cut(f"{beside.name} is no directory: {item.wrong}")
        directory = Directory.of(Source(files, fd, size))
        unshown = Shown(Choice(types=frozenset(["none"])))
        for _ in directory_items(directory.source, unshown, names):
            pass  # the names are what is wanted
        yield from linked_chunks(directory, source, shown, names)
    except MstoreError as error:
        raise Cut(error.message) from error
    finally:
        files.close(fd)
