"""How far the archive is, read by a helper process: its file system may hang, and the persister must not.

Where an archive is read and not written any more no pass keeps it within its bytes: this does, at a start and a reload.

Lines of JSON on standard output, as helper.py says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mstore.archive import names
from mstore.archive.manifest import manifests
from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.persistence.files import Files, ReadOnly
from mstore.persistence.owned_files import OwnedFiles
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name

_WRONG_TOLD = 20
"""Manifests that cannot be read: more are of the same trouble."""


def take(files: Files, root: Path, max_bytes: int) -> dict[str, Any]:
    """archived_to: cluster -> metric -> second; early: whether anything left memory early; wrong: sentences.

    max_bytes  beyond, the oldest days are deleted first; 0 = no bound, or one that is a pass's concern
    raises     StorageError
    """
    untouched = _keep_within(files, root, max_bytes) if max_bytes else []
    found, wrong = manifests(ReadOnly(), root)
    wrong = untouched + wrong
    return {
        "archived_to": {one.cluster: one.archived_to for one in found},
        "early": any(one.early for one in found),
        "wrong": wrong[:_WRONG_TOLD],
    }


def _keep_within(files: Files, root: Path, max_bytes: int) -> list[str]:
    """Why the archive could not be kept within its bytes; empty when it was."""
    if files.status(names.manifest_dir(root)) is None:
        return []
    # With these comes pyarrow, which neither a start nor a nursery need wait for.
    from mstore.archive.bounds import keep_within
    from mstore.archive.passes import locked

    try:
        with locked(files, root):
            keep_within(files, root, max_bytes)
    except MstoreError as error:
        return [f"it is not kept within max_bytes: {error.message}"]
    return []


def main(argument: str) -> int:
    job = json.loads(argument)
    die_with_parent(job["parent_pid"])
    ignore_signals()
    set_name("mstore:archived", Path(job["store_dir"]))
    set_up_logging("archived")
    stacks.register(Path(job["store_dir"]), "archived", job["lock_inode"])
    try:
        files = OwnedFiles(Path(job["store_dir"]), job["lock_inode"])
        line = {"done": take(files, Path(job["root"]), job["max_bytes"])}
    except MstoreError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return EXIT_FAILED
    print(json.dumps(line), flush=True)
    return 0
