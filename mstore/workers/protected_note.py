"""Who is protected, beside memory that is kept: DIR/run/protected, the table as PROTECT records behind a line that names
the memory it belongs to.

Level flags in memory say which hosts are protected, not by whom and until when, nor anything of hosts that have no level
yet. A start over kept memory takes the table from here, then applies the log behind what was applied; without it the
memory is not used. It is replaced whenever the table changes, after the change is in the log and before it counts as
applied. No fdatasync: memory does not outlive the boot either.
"""

from __future__ import annotations

import contextlib
import json
import logging
from pathlib import Path

from mstore.apply.protection import Protection
from mstore.errors import CorruptRecord, StorageError
from mstore.persistence.files import TMP_SUFFIX, Files, run_dir
from mstore.shm.protection import holds_protection

log = logging.getLogger(__name__)


def path_of(directory: Path) -> Path:
    return run_dir(directory) / "protected"


def write(files: Files, directory: Path, instance: int, protection: Protection) -> None:
    """Replace the note. raises StorageError: then there is none, since an older one would be wrong"""
    records = b"".join(protection.records())
    head = json.dumps({"instance": instance, "bytes": len(records)}).encode() + b"\n"
    path = path_of(directory)
    tmp = path.with_name(path.name + TMP_SUFFIX)
    try:
        files.unlink(tmp)
        fd = files.create(tmp)
        try:
            files.pwritev(fd, [head, records], 0)
        finally:
            files.close(fd)
        files.rename(tmp, path)
    except StorageError:
        with contextlib.suppress(StorageError):
            files.unlink(path)
        raise


def write_if_possible(files: Files, directory: Path, instance: int, protection: Protection) -> None:
    """As write(); without the note everything goes on, but a start over this memory reads the files instead."""
    try:
        write(files, directory, instance, protection)
    except StorageError as error:
        log.warning("memory could not be kept now, for DIR/run/protected cannot be written: %s", error)


def read(directory: Path, instance: int, protection: Protection) -> str:
    """Fill the table with what the note of this memory says; "" or why that cannot be."""
    try:
        head, _, records = path_of(directory).read_bytes().partition(b"\n")
        said = json.loads(head)
        if (said["instance"], said["bytes"]) != (instance, len(records)):
            return f"{path_of(directory)} is of other memory, or not whole"
        protection.forget()
        for record in holds_protection(memoryview(records)):
            protection.apply(record)
    except FileNotFoundError:
        return f"{path_of(directory)} was removed by somebody just before the store, or its persister, ended"
    except (OSError, ValueError, KeyError, TypeError, CorruptRecord) as error:
        return f"{path_of(directory)} cannot be read: {error}"
    return ""
