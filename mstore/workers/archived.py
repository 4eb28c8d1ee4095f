"""How far the archive is, read by a helper process: its file system may hang, and the persister must not.

Lines of JSON on standard output, as helper.py says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mstore.archive.manifest import manifests
from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.persistence.files import ReadOnly
from mstore.workers import stacks
from mstore.workers.process import EXIT_FAILED, die_with_parent, ignore_signals, set_name

_WRONG_TOLD = 20
"""Manifests that cannot be read: more are of the same trouble."""


def take(root: Path) -> dict[str, Any]:
    """archived_to: cluster -> metric -> second; early: whether anything left memory early; wrong: sentences.

    raises StorageError
    """
    found, wrong = manifests(ReadOnly(), root)
    return {
        "archived_to": {one.cluster: one.archived_to for one in found},
        "early": any(one.early for one in found),
        "wrong": wrong[:_WRONG_TOLD],
    }


def main(argument: str) -> int:
    job = json.loads(argument)
    die_with_parent(job["parent_pid"])
    ignore_signals()
    set_name("mstore:archived", Path(job["store_dir"]))
    set_up_logging("archived")
    stacks.register(Path(job["store_dir"]), "archived", job["lock_inode"])
    try:
        line = {"done": take(Path(job["root"]))}
    except MstoreError as error:
        print(json.dumps({"failed": str(error)}), flush=True)
        return EXIT_FAILED
    print(json.dumps(line), flush=True)
    return 0
