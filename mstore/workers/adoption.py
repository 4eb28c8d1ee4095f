"""Memory that was kept: found at a start, checked, and used again instead of being filled from the files.

    mstore restart, a stop that keeps memory, kill -9      the segments stay in /dev/shm, and the note that names
                                                           them in DIR/run: instance.json, after a stop kept.json

Memory is adopted iff

    1. all segments are there, named after this directory, of this layout, this boot and one instance
    2. it was filled: `applied` is not 0
    3. the directory is not in the middle of a change: `critical` is even
    4. the configuration still fits: max_series, the length of samples, memory_cap
    5. the log goes with it: its newest segment is the one that the memory names, no block up to `written` is missing;
       or there is no log any more, and all that was written is applied: then the memory is the only copy
    6. every link leads into memory of its own, among the chunks that its series says it has; to the newest one's header

1 to 4 are checked here, by the supervisor with DIR/lock held: all processes of the run before are gone, and nothing
changes underneath. 5 and 6 are the persister's (opening.py), who reads log and links anyway. Whatever fails, the store is
filled from its files instead and says why: memory is a shortcut, the log is the truth.
"""

from __future__ import annotations

import os
from pathlib import Path

from mstore.config import Config
from mstore.errors import MstoreError
from mstore.kernels._ring import RingReader
from mstore.limits import WORKERS_MAX
from mstore.paths import run_dir
from mstore.shm import layout, segment
from mstore.shm.control import Control
from mstore.shm.directory import DirectoryReader, directory_bytes
from mstore.shm.note import read_note
from mstore.shm.segment import Mapping
from mstore.workers import incarnation
from mstore.workers.incarnation import INSTANCE_NOTE, KEPT_NOTE, Incarnation


class NotAdopted(MstoreError):
    """Memory was kept and cannot be used; the message says why."""


def find(store_dir: Path, config: Config, n_rings: int) -> Incarnation | None:
    """The memory that the run before left in a state that may be used; None when there is none.

    Call with DIR/lock held. raises NotAdopted; what was kept is left as it is then
    """
    for name in (INSTANCE_NOTE, KEPT_NOTE):
        note = run_dir(store_dir) / name
        if note.exists():
            break
    else:
        return None
    mappings: dict[str, Mapping] = {}
    try:
        instance, names = read_note(note)
        prefix = segment.name_prefix(store_dir)
        for role, segment_name in names.items():
            if not segment_name.startswith(prefix):
                raise NotAdopted(f"{note} names {segment_name}, which is another directory's")
            mappings[role] = segment.attach(segment_name, _kind(role), instance, writable=True)
        _check(mappings, config)
        _settle_rings(store_dir, mappings, instance, config.ring_bytes, n_rings)
    except BaseException as error:
        for mapping in mappings.values():
            mapping.close()
        if isinstance(error, NotAdopted) or not isinstance(error, (MstoreError, OSError, ValueError)):
            raise
        raise NotAdopted(str(error)) from error
    _release_workers(Control(mappings["control"]))
    bells = [os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC) for _ in range(1 + n_rings)]
    return Incarnation(
        instance, mappings, bells[0], tuple(bells[1:]), run_dir(store_dir) / INSTANCE_NOTE, adopted=True
    )


def misfit(mappings: dict[str, Mapping], config: Config) -> str:
    """Why this memory cannot serve under `config`, "" when it can. Rings may differ: they are made again."""
    directory = mappings["directory"]
    counts = DirectoryReader(directory.segment).counts()
    if counts["max_series"] != config.max_series or len(directory.buffer) != directory_bytes(
        config.max_series
    ):
        return f"max_series was {counts['max_series']} and is {config.max_series}"
    reserved, wanted = len(mappings["samples"].buffer), incarnation.samples_bytes(config)
    if reserved != wanted:
        return f"memory_cap or the size of /dev/shm has changed: {reserved} bytes are reserved for samples, not {wanted}"
    held = sum(_held_bytes(role, mapping) for role, mapping in mappings.items())
    if config.memory_cap_bytes and held > config.memory_cap_bytes:
        return f"the memory holds {held} bytes, memory_cap is {config.memory_cap_bytes}"
    return ""


def _held_bytes(role: str, mapping: Mapping) -> int:
    if role != "directory":
        return mapping.committed_bytes
    counts = DirectoryReader(mapping.segment).counts()
    return 2 * layout.PAGE_BYTES + sum(counts[f"{name}_committed"] for name in layout.REGION_NAMES)


def _kind(role: str) -> int:
    kinds = {"control": layout.SEG_CONTROL, "directory": layout.SEG_DIRECTORY, "samples": layout.SEG_SAMPLES}
    return kinds.get(role, layout.SEG_RING)


def _check(mappings: dict[str, Mapping], config: Config) -> None:
    if missing := {"control", "directory", "samples", "ring-0"} - set(mappings):
        raise NotAdopted(f"the note names no {sorted(missing)[0]}")
    if not Control(mappings["control"]).applied:
        raise NotAdopted("the run before ended before its memory was filled")
    if DirectoryReader(mappings["directory"].segment).counts()["critical"] & 1:
        raise NotAdopted("the run before ended in the middle of a change of the directory")
    if reason := misfit(mappings, config):
        raise NotAdopted(reason)


def _settle_rings(
    store_dir: Path, mappings: dict[str, Mapping], instance: int, ring_bytes: int, n_rings: int
) -> None:
    """Exactly n_rings rings of the configured size; those that change are made again, empty, where they stood.

    What a ring held beyond the log was never acknowledged at any level, so it may go; its positions go on.
    """
    roles = {role for role in mappings if role.startswith("ring-")}
    for k in range(max(n_rings, len(roles))):
        role = f"ring-{k}"
        old = mappings.get(role)
        if old is not None and k < n_rings and RingReader(old.segment).ring_bytes() == ring_bytes:
            continue
        position = RingReader(old.segment).head() if old is not None else 0
        if old is not None:
            segment.unlink(old.name)
            mappings.pop(role).close()
        if k < n_rings:
            mappings[role] = incarnation.make_ring(store_dir, role, instance, ring_bytes, position)
            mappings[role].mark_ready()


def _release_workers(control: Control) -> None:
    """All workers of the run before are dead: nobody may wait for their epochs."""
    for number in range(WORKERS_MAX):
        control.worker(number).release()
