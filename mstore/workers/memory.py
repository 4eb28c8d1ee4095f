"""A child's view of the shared segments: what it maps, and how.

They come as descriptors from the supervisor: a worker that is replaced finds them when their names are gone, too.
"""

from __future__ import annotations

from mstore.shm import layout, segment
from mstore.shm.segment import Mapping
from mstore.workers.spec import WorkerSpec

_KINDS = {"control": layout.SEG_CONTROL, "directory": layout.SEG_DIRECTORY, "samples": layout.SEG_SAMPLES}


def attach(spec: WorkerSpec, role: str, *, writable: bool = False) -> Mapping:
    """Map the segment of one role (control, directory, samples, ring-K), read-only unless asked otherwise."""
    kind = _KINDS.get(role, layout.SEG_RING)
    fd = spec.segment_fds.get(role)
    return segment.attach(spec.segments[role], kind, spec.instance, writable=writable, fd=fd)


def ring_roles(spec: WorkerSpec) -> list[str]:
    """ring-0, ring-1, ... in order."""
    return sorted(
        (role for role in spec.segments if role.startswith("ring-")), key=lambda role: int(role[5:])
    )
