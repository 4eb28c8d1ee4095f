"""One life of the shared memory: its segments, doorbells and the note that tells others where they are."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import secrets
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

from mstore import paths
from mstore.config import Config
from mstore.kernels._ring import create_ring_words
from mstore.persistence.files import SPARE_SUFFIX, snapshot_dir, wal_dir
from mstore.shm import layout, segment
from mstore.shm.control import CONTROL_BYTES
from mstore.shm.directory import create_directory, directory_bytes
from mstore.shm.segment import Mapping
from mstore.workers.ownership import Inode, inode_of, unlink_own

log = logging.getLogger(__name__)

INSTANCE_NOTE, KEPT_NOTE = "instance.json", "kept.json"
"""In DIR/run: which segments a running store has, and which a stopped one has left for the next."""
_SAMPLES_BYTES_MIN = 64 << 20


@dataclass
class Incarnation:
    """Segments of one run; close() removes them all, unless they are kept."""

    instance: int
    mappings: dict[str, Mapping]
    doorbell_fd: int
    ack_fds: tuple[int, ...]
    note: Path
    note_inode: Inode | None = None
    """Of the note that this run wrote: the name may be another's by the end."""
    adopted: bool = False
    """The memory is that of a run before, and holds its data."""
    removed: set[str] = field(default_factory=set)
    """Names of segments that somebody took from /dev/shm: descriptors still lead to them."""

    @property
    def names(self) -> dict[str, str]:
        return {role: mapping.name for role, mapping in self.mappings.items()}

    @property
    def fds(self) -> dict[str, int]:
        """By role; for children to inherit."""
        return {role: mapping.fd for role, mapping in self.mappings.items()}

    def close(self, *, keep: bool = False) -> None:
        """Unmap everything here. keep: segments and note stay as they are, for a next life to adopt."""
        if not keep:
            unlink_own(self.note, self.note_inode)  # DIR may be another's by now; the segments are ours
        for mapping in self.mappings.values():
            if not keep:
                segment.unlink(mapping.name)
            mapping.close()
        for fd in (self.doorbell_fd, *self.ack_fds):
            os.close(fd)

    def shelve(self) -> bool:
        """The store ends and its memory stays: nobody must attach to what nobody writes any more.

        False when the note cannot be written: nobody would find the memory, so it must not be kept.
        """
        mend_note(self)
        try:
            self.note.replace(self.note.with_name(KEPT_NOTE))
        except OSError as error:
            log.error("the memory is not kept, the next start reads the log: %s: %s", self.note, error)
            return False
        return True


def remove_stale(store_dir: Path, but: Collection[str] = ()) -> list[str]:
    """Unlink what runs before left in /dev/shm. Only with DIR/lock held: nobody can be using it."""
    names = [name for name in segment.stale(segment.name_prefix(store_dir)) if name not in but]
    for name in names:
        segment.unlink(name)
    if not but:
        for note in (INSTANCE_NOTE, KEPT_NOTE):
            (paths.run_dir(store_dir) / note).unlink(missing_ok=True)
    if names:
        log.info("removed %d segments of a run before", len(names))
    return names


def create(store_dir: Path, config: Config, n_rings: int) -> Incarnation:
    """All segments of a new run, ready but for what the persister fills in.

    raises StoreFull, LayoutMismatch, StorageError; nothing is left behind then
    """
    instance = secrets.randbits(63) | 1
    made: dict[str, Mapping] = {}
    bells: list[int] = []

    def make(role: str, kind: int, n_bytes: int, commit: int | None = None) -> Mapping:
        made[role] = _make(store_dir, role, kind, n_bytes, instance, commit)
        return made[role]

    try:
        make("control", layout.SEG_CONTROL, CONTROL_BYTES)
        for k in range(n_rings):
            made[f"ring-{k}"] = make_ring(store_dir, f"ring-{k}", instance, config.ring_bytes)
        directory = make(
            "directory",
            layout.SEG_DIRECTORY,
            directory_bytes(config.max_series),
            commit=2 * layout.PAGE_BYTES,
        )
        create_directory(directory, config.max_series, secrets.randbits(63))
        make("samples", layout.SEG_SAMPLES, samples_bytes(config), commit=layout.SAMPLES_DATA)
        for _ in range(1 + n_rings):
            bells.append(os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC))
        for mapping in made.values():
            mapping.mark_ready()
    except BaseException:
        for mapping in made.values():
            segment.unlink(mapping.name)
            mapping.close()
        for fd in bells:
            os.close(fd)
        raise
    return Incarnation(instance, made, bells[0], tuple(bells[1:]), paths.run_dir(store_dir) / INSTANCE_NOTE)


def make_ring(store_dir: Path, role: str, instance: int, ring_bytes: int, position: int = 0) -> Mapping:
    """An empty ring whose positions begin at `position`, ready but for the mark."""
    ring = _make(store_dir, role, layout.SEG_RING, layout.RING_DATA + ring_bytes, instance)
    create_ring_words(ring.segment, ring_bytes, position)
    return ring


def _make(
    store_dir: Path, role: str, kind: int, n_bytes: int, instance: int, commit: int | None = None
) -> Mapping:
    name = f"{segment.name_prefix(store_dir)}-{instance & 0xFFFFFFFF:08x}-{role}"
    return segment.create(name, kind, n_bytes, instance, commit_bytes=commit, group=store_dir.stat().st_gid)


def samples_bytes(config: Config) -> int:
    """Address space reserved for samples: the cap, or all that /dev/shm could ever hold."""
    shm = os.statvfs(segment.SHM_DIR)
    whole = shm.f_blocks * shm.f_frsize
    wanted = min(config.memory_cap_bytes, whole) if config.memory_cap_bytes else whole
    return max(wanted, _SAMPLES_BYTES_MIN) // layout.EXTENT_BYTES * layout.EXTENT_BYTES + layout.SAMPLES_DATA


def publish_note(incarnation: Incarnation) -> None:
    """DIR/run/instance.json: where attached clients find the segments. Appears whole or not at all."""
    text = json.dumps({"instance": incarnation.instance, "pid": os.getpid(), "segments": incarnation.names})
    temporary = incarnation.note.with_suffix(".tmp")
    temporary.write_text(text)
    temporary.chmod(0o640)
    give_to_group(temporary, incarnation.note.parent.parent)
    temporary.replace(incarnation.note)
    incarnation.note_inode = inode_of(incarnation.note)
    incarnation.note.with_name(KEPT_NOTE).unlink(missing_ok=True)


def publish_note_if_room(incarnation: Incarnation) -> None:
    """As publish_note; on a full disk the store serves its sockets, and mend_note() comes back to it."""
    try:
        publish_note(incarnation)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        log.error("cannot write %s, programs cannot attach until it is there: %s", incarnation.note, error)


def mend_note(incarnation: Incarnation) -> None:
    """Write the note again when somebody removed it; tried again at the next call when that cannot be."""
    try:
        if inode_of(incarnation.note) is None:
            publish_note(incarnation)
            log.warning("%s was removed by somebody and is made again", incarnation.note)
    except OSError as error:
        log.error("cannot write %s again: %s", incarnation.note, error)


def look_at_names(life: Incarnation) -> list[str]:
    """Segments that have lost their names since the last look. A name cannot be given back to a file without one."""
    gone = [
        mapping.name for mapping in life.mappings.values() if not segment.is_there(mapping.name, mapping.fd)
    ]
    news = [name for name in gone if name not in life.removed]
    life.removed |= set(news)
    return news


def cost_of_reading(store_dir: Path) -> str:
    """What a start without the memory has to read, for people."""
    told = []
    for what, folder in (("of log", wal_dir(store_dir)), ("of snapshots", snapshot_dir(store_dir))):
        n_bytes = 0
        for path in folder.glob("*"):
            with contextlib.suppress(OSError):
                n_bytes += path.stat().st_blocks * 512 if path.suffix != SPARE_SUFFIX else 0
        told.append(f"{n_bytes / 1e6:,.0f} MB {what}")
    return f"up to {' and '.join(told)}"


def give_to_group(path: Path, store_dir: Path) -> None:
    """Let the group that may enter DIR use `path`, whatever this process's own group is.

    Not an error where the system refuses: the owner is served all the same.
    """
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, store_dir.stat().st_gid)
