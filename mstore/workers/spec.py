"""What the supervisor tells a child process: one JSON argument, and the file descriptors that go with it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """Everything a child needs to find its place. File descriptors have the numbers there that they have here."""

    kind: str
    """persister, ingest or query."""
    index: int
    """Among the workers of its kind; also the ring of an ingest worker."""
    slot: int
    """Row of the worker table in the control segment."""
    store_dir: str
    config_fd: int
    """memfd of the configuration that the supervisor accepted (settings.take)."""
    instance: int
    segments: dict[str, str]
    """control, directory, samples, ring-0 ... -> name in /dev/shm."""
    channel_fd: int
    """Socket pair to the supervisor: connections to serve come down, readiness goes up."""
    doorbell_fd: int
    """eventfd: something was published into a ring (written by ingest workers, read by the persister)."""
    ack_fds: tuple[int, ...]
    """eventfd of each ingest worker: a position has moved."""
    follow_fds: tuple[int, ...]
    """eventfd of each query worker, in the order of their slots: a block is applied, and somebody there follows."""
    parent_pid: int
    adopt: bool = False
    """Memory was kept: the persister takes it as it is instead of filling it from the files."""
    segment_fds: dict[str, int] = field(default_factory=dict)
    """By role, as in `segments`: descriptors of them, inherited. Without one the name is opened."""
    strict: bool = False
    """The persister reads no damaged files: it refuses to start instead."""
    lock_inode: tuple[int, int] | None = None
    """(st_dev, st_ino) of DIR/lock as the supervisor took it: where it is another file, DIR is no longer this store's."""
    lock_fd: int = -1
    """DIR/lock, inherited: held as long as anybody of this run lives, helpers too."""

    store_started_s: int = 0
    """When the supervisor started, Unix seconds: since then the store counts."""

    @property
    def directory(self) -> Path:
        return Path(self.store_dir)

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> WorkerSpec:
        fields = json.loads(text)
        fields["ack_fds"] = tuple(fields["ack_fds"])
        fields["follow_fds"] = tuple(fields["follow_fds"])
        if fields["lock_inode"]:
            fields["lock_inode"] = tuple(fields["lock_inode"])
        return cls(**fields)
