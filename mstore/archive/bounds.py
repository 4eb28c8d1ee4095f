"""The archive stays within its bytes: beyond, whole days go, the oldest first, of whatever cluster.

A day leaves the manifest before its files go, so no reader is led to what is not there; files that a deletion which
was ended half way has left lie before the manifest's first day, and the next pass removes them.
"""

from __future__ import annotations

import logging
from pathlib import Path

from mstore import faults
from mstore.archive import names
from mstore.archive.manifest import Manifest, manifests, write_manifest
from mstore.archive.mending import remove_if_empty
from mstore.persistence.files import Files

log = logging.getLogger(__name__)


def keep_within(files: Files, root: Path, max_bytes: int) -> int:
    """Delete the oldest days until the archive has at most max_bytes (0 = no bound); how many went.

    The newest day stays, however large it is: it is still being written. Call with the archive's lock held.
    raises  StorageError
    """
    if not max_bytes:
        return 0
    found, _ = manifests(files, root)
    whole = sum(one.n_bytes() for one in found)
    days = sorted({part.day for one in found for part in one.parts})
    n_deleted = 0
    for day in days[:-1]:
        if whole <= max_bytes:
            break
        freed = sum(_delete(files, root, one, day) for one in found)
        whole -= freed
        n_deleted += 1
        log.warning("archive: %s is deleted, %d bytes: max_bytes = %d", names.day_text(day), freed, max_bytes)
    if whole > max_bytes:
        log.warning("archive: its newest day alone has %d bytes, more than max_bytes = %d", whole, max_bytes)
    return n_deleted


def _delete(files: Files, root: Path, manifest: Manifest, day: int) -> int:
    """Delete one day of one cluster; its bytes."""
    gone = [part for part in manifest.parts if part.day == day]
    if not gone:
        return 0
    manifest.parts = [part for part in manifest.parts if part.day != day]
    manifest.first_day = max(manifest.first_day, day + 1)
    write_manifest(files, root, manifest)
    faults.hit("archive.day_unnamed")
    for table in (names.SAMPLES, *names.TABLES):
        folder = names.day_dir(root, manifest.cluster, day, table)
        for part in gone:
            files.unlink(names.part_path(root, manifest.cluster, day, part.number, table))
        remove_if_empty(folder)
    return sum(part.n_bytes for part in gone)
