"""Files of a DIR that may be removed, moved or become another store's while this process runs.

What is open may be written on: it is still this store's. But no name is made, changed or removed any more once DIR/lock
is not the file that was locked: it would make a removed DIR again, or be a file among another store's.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mstore.errors import StorageError
from mstore.persistence.files import Files, lock_path


class OwnedFiles(Files):
    """Every change of a name costs one stat more; names change by the segment and by the snapshot, not by the sample.

    Between the look and the change there is a moment, as ever with names. DIR itself, and what is above it, is never
    made, so at least a removed DIR stays removed.

    lock_inode  (st_dev, st_ino) of DIR/lock, which an ancestor of this process holds open: nobody else gets its number
    """

    def __init__(self, directory: Path, lock_inode: Sequence[int] | None) -> None:
        self._directory = directory
        self._lock = lock_path(directory)
        self._lock_inode = tuple(lock_inode or ())

    def lost(self) -> bool:
        """Whether DIR is no longer this store's. raises StorageError when that cannot be told"""
        found = self.status(self._lock)
        return found is None or found.inode != self._lock_inode

    def mkdir(self, path: Path) -> None:
        if path.is_dir():
            return
        self._refuse_if_lost(path)
        if path == self._directory:
            raise StorageError(f"{path} is gone: a running store does not make it again", path=str(path))
        super().mkdir(path)

    def create(self, path: Path, allocate_bytes: int = 0) -> int:
        self._refuse_if_lost(path)
        return super().create(path, allocate_bytes)

    def rename(self, source: Path, target: Path) -> None:
        self._refuse_if_lost(target)
        super().rename(source, target)

    def link(self, source: Path, target: Path) -> None:
        self._refuse_if_lost(target)
        super().link(source, target)

    def truncate(self, path: Path, n_bytes: int) -> None:
        self._refuse_if_lost(path)
        super().truncate(path, n_bytes)

    def unlink(self, path: Path) -> None:
        self._refuse_if_lost(path)
        super().unlink(path)

    def _refuse_if_lost(self, path: Path) -> None:
        if self.lost():
            raise StorageError(
                f"{path} is left alone: {self._lock} is not the file that this store locked, so {self._directory} is"
                " no longer its own",
                path=str(path),
            )
