"""One life of the shared memory: its segments, doorbells and the note that tells others where they are."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from mstore import paths
from mstore.config import Config
from mstore.kernels._ring import create_ring_words
from mstore.shm import layout, segment
from mstore.shm.control import CONTROL_BYTES
from mstore.shm.directory import create_directory, directory_bytes
from mstore.shm.segment import Mapping

log = logging.getLogger(__name__)

_SAMPLES_BYTES_MIN = 64 << 20


@dataclass
class Incarnation:
    """Segments of one run; close() removes them all."""

    instance: int
    mappings: dict[str, Mapping]
    doorbell_fd: int
    ack_fds: tuple[int, ...]
    note: Path

    @property
    def names(self) -> dict[str, str]:
        return {role: mapping.name for role, mapping in self.mappings.items()}

    def close(self) -> None:
        with contextlib.suppress(OSError):  # DIR may be gone; the segments go all the same
            self.note.unlink(missing_ok=True)
        for mapping in self.mappings.values():
            segment.unlink(mapping.name)
            mapping.close()
        for fd in (self.doorbell_fd, *self.ack_fds):
            os.close(fd)


def remove_stale(store_dir: Path) -> list[str]:
    """Unlink what a killed run left in /dev/shm. Only with DIR/lock held: nobody can be using it."""
    names = segment.stale(segment.name_prefix(store_dir))
    for name in names:
        segment.unlink(name)
    if names:
        log.info("removed %d segments of a run that was killed", len(names))
    return names


def create(store_dir: Path, config: Config, n_rings: int) -> Incarnation:
    """All segments of a new run, ready but for what the persister fills in.

    raises StoreFull, LayoutMismatch, StorageError; nothing is left behind then
    """
    instance = secrets.randbits(63) | 1
    prefix = f"{segment.name_prefix(store_dir)}-{instance & 0xFFFFFFFF:08x}"
    group = store_dir.stat().st_gid
    made: dict[str, Mapping] = {}
    bells: list[int] = []

    def make(role: str, kind: int, n_bytes: int, commit: int | None = None) -> Mapping:
        made[role] = segment.create(
            f"{prefix}-{role}", kind, n_bytes, instance, commit_bytes=commit, group=group
        )
        return made[role]

    try:
        make("control", layout.SEG_CONTROL, CONTROL_BYTES)
        for k in range(n_rings):
            ring = make(f"ring-{k}", layout.SEG_RING, layout.RING_DATA + config.ring_bytes)
            create_ring_words(ring.segment, config.ring_bytes)
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
    note = paths.run_dir(store_dir) / "instance.json"
    return Incarnation(instance, made, bells[0], tuple(bells[1:]), note)


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


def give_to_group(path: Path, store_dir: Path) -> None:
    """Let the group that may enter DIR use `path`, whatever this process's own group is.

    Not an error where the system refuses: the owner is served all the same.
    """
    with contextlib.suppress(PermissionError):
        os.chown(path, -1, store_dir.stat().st_gid)
