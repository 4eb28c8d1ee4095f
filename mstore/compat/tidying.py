"""Exports that are too old, removed: only files of the form that exports write, wherever else nothing is touched."""

from __future__ import annotations

import contextlib
from pathlib import Path

from mstore.compat.walk import PARQUET, walk
from mstore.persistence.files import Files


def remove_older(files: Files, directory: Path, form: str, before: int) -> int:
    """Remove checkpoints, or tables, of windows that began before a Unix second, and directories left empty.

    returns  how many files. raises StorageError
    """
    if not directory.is_dir():
        return 0
    found, _ = walk(directory)
    n = 0
    for one in found:
        if one.kind == form and (one.host or form == PARQUET) and one.start < before:
            files.unlink(one.path)
            n += 1
            with contextlib.suppress(OSError):  # others are there
                one.path.parent.rmdir()
    return n
