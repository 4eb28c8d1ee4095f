"""Where a store has begun archives: so that an empty mount point is not taken for a place to begin one anew.

    DIR/archives.json    ["/data/archive", ...]    directories in which a pass has ended well

An archive on a file system that is not mounted looks like none. A pass would fill the disk below the mount point, and
hide it when the file system comes back.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path

from mstore.archive import names
from mstore.errors import ArchiveError, StorageError
from mstore.persistence.files import Files, archives_begun_path

log = logging.getLogger(__name__)


def gone(files: Files, store_dir: Path, root: Path) -> str:
    """What is wrong when the store has begun an archive at `root` and there is none now; else "". raises StorageError"""
    if str(root) not in _begun(files, store_dir) or files.status(names.manifest_dir(root)) is not None:
        return ""
    return f"there is no archive at {root}, where this store has written one: is its file system mounted?"


def refuse_if_gone(files: Files, store_dir: Path, root: Path) -> None:
    """raises ArchiveError when the archive at `root` is gone; StorageError"""
    if why := gone(files, store_dir, root):
        raise ArchiveError(
            f"{why} To begin another one there, remove {archives_begun_path(store_dir)}", path=str(root)
        )


def note_begun(files: Files, store_dir: Path, root: Path) -> None:
    """A pass has ended well at `root`, also where that cannot be noted: the next pass tries again."""
    try:
        begun = _begun(files, store_dir)
        if str(root) not in begun:
            files.replace(archives_begun_path(store_dir), json.dumps([*begun, str(root)]).encode())
    except StorageError as error:
        log.error("it cannot be noted that there is an archive at %s: %s", root, error)


def _begun(files: Files, store_dir: Path) -> list[str]:
    path = archives_begun_path(store_dir)
    if files.status(path) is None:
        return []
    try:
        found = json.loads(files.read(path))
    except ValueError:
        found = None
    if not isinstance(found, list):
        raise StorageError(f"{path} is no list of directories: repair or remove it", path=str(path))
    return list(map(str, found))
