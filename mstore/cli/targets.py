"""Whether what a command is to write can be written: looked at before the store is asked, which may take minutes.

A look only: a disk that is full, or what somebody changes meanwhile, is still an error when the file is written.
"""

from __future__ import annotations

import os
from pathlib import Path

from mstore.errors import StorageError


def refuse_unwritable(file: Path, *, whole: bool = True) -> None:
    """raises StorageError where no such file can be made or written

    whole   it appears whole under its name, in place of what is there; else a file that is there is written to
    """
    if file.is_dir():
        raise StorageError(f"{file} is a directory: name a file", path=str(file))
    if not whole and file.exists():
        if not os.access(file, os.W_OK):
            raise StorageError(f"{file} may not be written to: name another file", path=str(file))
        return
    if not file.parent.is_dir():
        raise StorageError(f"{file.parent} is no directory: make it first", path=str(file))
    _refuse_closed(file.parent, file)


def refuse_unwritable_directory(directory: Path) -> None:
    """raises StorageError where there is no such directory that may be written in, and none can be made"""
    there = next(one for one in (directory, *directory.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        raise StorageError(f"{there} is no directory: name another", path=str(directory))
    _refuse_closed(there, directory)


def _refuse_closed(folder: Path, path: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{folder} may not be written in: name another directory", path=str(path))
