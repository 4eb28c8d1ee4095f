"""Whose file a path names now: a name can be removed and made again by others while this process runs."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

Inode = tuple[int, int]
"""(st_dev, st_ino). A number is not used again while somebody holds the file open or its socket bound."""


def inode_of(path: Path | str | int) -> Inode | None:
    """Of what a path names, or of an open file; None when there is nothing. raises OSError when that cannot be told"""
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino


def is_still(path: Path | str, fd: int) -> bool:
    """Whether a name is still that of the open file `fd`; False when that cannot be told."""
    with contextlib.suppress(OSError):
        return inode_of(path) == inode_of(fd)
    return False


def unlink_own(path: Path | str, own: Inode | None) -> None:
    """Remove a name if it is still that of the file `own`; another's is left alone.

    Between the look and the removal there is a moment; whoever holds DIR/lock is alone in it.
    """
    with contextlib.suppress(OSError):
        if own is not None and inode_of(path) == own:
            os.unlink(path)
