"""Create, attach and unlink one shared-memory segment: alone in knowing multiprocessing.shared_memory.

Who may do what:

    supervisor          create(), mark_ready(), unlink()
    its workers         attach(), writable for what they write
    attached clients    attach(), read-only

What the standard library does that a store must not suffer, and what is done instead:

- A resource tracker process deletes every registered segment when its creator is killed, and before Python
  3.13 also when any process that only attached exits. So a segment is never registered: creation passes
  track=False, or, where that does not exist, keeps the registration from happening (undoing it afterwards
  would leave a window, and a tracker process for nothing). Attaching is os.open and mmap, no SharedMemory.
- SharedMemory maps read-write always. Readers here map PROT_READ: they cannot damage the store.
- It only truncates to size; touching a page that /dev/shm has no room for is then SIGBUS. Here pages are
  allocated before anybody touches them (what grows: kernels/backing.h), and a full /dev/shm is StoreFull.

Nothing here needs more than the standard library but the header's layout and the kernels' handle.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import mmap
import os
import re
import sys
import threading
import uuid
from collections.abc import Iterator
from multiprocessing import shared_memory
from pathlib import Path
from types import SimpleNamespace, TracebackType

from mstore import clock
from mstore.errors import (
    LayoutMismatch,
    NotPermitted,
    StorageError,
    StoreFull,
    Unavailable,
    UnsupportedPlatform,
)
from mstore.kernels._ring import load_u32, load_u64, store_u32, store_u64
from mstore.kernels._segment import Segment
from mstore.shm import layout

SHM_DIR = Path("/dev/shm")
SEGMENT_MODE = 0o640

_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,199}")
_KINDS = {
    layout.SEG_CONTROL: "control",
    layout.SEG_DIRECTORY: "directory",
    layout.SEG_SAMPLES: "samples",
    layout.SEG_RING: "ring",
}

_untracked_lock = threading.Lock()


def boot_id() -> bytes:
    """16 bytes that differ after every boot: shared memory of another boot cannot be ours."""
    try:
        return uuid.UUID(_BOOT_ID_PATH.read_text().strip()).bytes
    except (OSError, ValueError) as error:
        raise UnsupportedPlatform(f"cannot read {_BOOT_ID_PATH}: shared memory needs Linux") from error


def name_prefix(store_dir: Path) -> str:
    """What the names of all segments of the store in `store_dir` begin with; one per real path."""
    return "mstore-" + hashlib.sha256(os.fsencode(os.path.realpath(store_dir))).hexdigest()[:12]


def huge_pages(mounts: Path = Path("/proc/self/mountinfo")) -> str:
    """What /dev/shm was mounted with: "advise", "within_size" or "always" give pages of 2 MiB, "never" none."""
    found = "never"
    with contextlib.suppress(OSError):
        for line in mounts.read_text().splitlines():
            # .. mount point, options .. - type, source (it may be empty), options of the file system
            before, _, after = line.partition(" - ")
            if before.split()[4] == str(SHM_DIR):  # the last one mounted there hides the others
                options = dict(one.partition("=")[::2] for one in after.split()[-1].split(","))
                found = options.get("huge", "never")
    return found


def stale(prefix: str) -> list[str]:
    """Names of the segments under `prefix`, sorted; only the holder of DIR/lock knows if they are in use."""
    return sorted(path.name for path in SHM_DIR.iterdir() if path.name.startswith(prefix))


def unlink(name: str) -> None:
    """Remove the name; mappings live on until their processes close them. A missing name is no error."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(_path(name))


class Mapping:
    """One segment, mapped once in this process.

    name      of the file in /dev/shm
    fd        kept open to give it more memory while the mapping is writable; -1 when it is read-only
    buffer    the whole segment as bytes; read-only when the mapping is
    segment   the same for kernels
    """

    def __init__(self, name: str, fd: int, mapped: mmap.mmap, *, writable: bool) -> None:
        self.name = name
        self.fd = fd
        self.writable = writable
        self.segment = Segment(mapped, writable)
        self.buffer = memoryview(mapped)
        self._mapped: mmap.mmap | None = mapped

    def __enter__(self) -> Mapping:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = "closed" if self._mapped is None else "writable" if self.writable else "read-only"
        return f"<Mapping {self.name} {state}>"

    @property
    def committed_bytes(self) -> int:
        """Bytes from the start of the segment that are allocated and safe to touch."""
        return load_u64(self.segment, _offset("committed_bytes"))

    def commit(self, upto_bytes: int) -> None:
        """Allocate the pages from the segment's start up to `upto_bytes`; StoreFull changes nothing."""
        now = self.committed_bytes
        if upto_bytes <= now:
            return
        if not self.writable or upto_bytes > len(self.buffer):
            raise ValueError(f"cannot commit {upto_bytes} bytes of {self!r} of {len(self.buffer)} bytes")
        _allocate(self.fd, self.name, now, upto_bytes)
        store_u64(self.segment, _offset("committed_bytes"), upto_bytes)

    def mark_ready(self) -> None:
        """Say that everything in the segment is initialised: the last store of its creator."""
        # SYNC POINT (release) ready: whoever sees it sees all that was written before.
        store_u32(self.segment, _offset("ready"), 1)

    def close(self) -> None:
        """Unmap if nobody looks at the memory any more, and close the descriptor. Safe to call twice.

        Arrays, Segments and views that still exist keep the mapping: a view must never dangle. It goes with
        the last of them, at the latest with the process.
        """
        if self._mapped is None:
            return
        mapped, self._mapped = self._mapped, None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
        del self.segment
        with contextlib.suppress(BufferError):
            self.buffer.release()
            mapped.close()


def create(
    name: str,
    kind: int,
    reserved_bytes: int,
    instance: int,
    *,
    commit_bytes: int | None = None,
    group: int | None = None,
) -> Mapping:
    """Make a new segment: header filled in, all else zeros, `ready` left to Mapping.mark_ready().

    reserved_bytes  length of the file and of every mapping of it; costs address space only
    commit_bytes    how much of it gets memory now; None = all
    group           gid that may read it, where the system lets us give it away; None = the creator's
    raises          StoreFull when /dev/shm has no room, StorageError when the name exists; no file is left
    """
    commit_bytes = reserved_bytes if commit_bytes is None else commit_bytes
    if not layout.PAGE_BYTES <= commit_bytes <= reserved_bytes:
        raise ValueError(
            f"not {layout.PAGE_BYTES} <= commit_bytes {commit_bytes} <= reserved_bytes {reserved_bytes}"
        )
    path = _path(name)
    _create_file(name, reserved_bytes)
    fd = -1
    try:
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        _allocate(fd, name, 0, commit_bytes)
        os.fchmod(fd, SEGMENT_MODE)
        if group is not None:
            with contextlib.suppress(
                PermissionError
            ):  # not a group of ours: the owner is served all the same
                os.fchown(fd, -1, group)
        mapping = Mapping(name, fd, mmap.mmap(fd, reserved_bytes), writable=True)
    except BaseException as error:
        unlink(name)
        if fd >= 0:
            os.close(fd)
        if isinstance(error, OSError) and not isinstance(error, StorageError):
            raise _refused(f"create segment {name}", error) from error
        raise
    _write_header(mapping, kind, instance, commit_bytes)
    return mapping


def attach(
    name: str, kind: int, instance: int | None, *, writable: bool = False, fd: int | None = None
) -> Mapping:
    """Map an existing segment after checking that it is exactly what this process expects.

    instance  of the store in DIR; None accepts any (tools that look at leftovers)
    fd        a descriptor of it that was handed over, ours from now on: the name may be gone. None: open the name
    raises    Unavailable when there is no such segment, NotPermitted, LayoutMismatch naming what differs,
              StorageError for anything else the system refuses
    """
    if fd is None:
        fd = _open(name, writable=writable)
    kept = False
    try:
        length = os.fstat(fd).st_size
        if length < layout.PAGE_BYTES:
            raise LayoutMismatch(f"segment {name} has {length} bytes: not a segment of mstore", name=name)
        prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
        mapped = mmap.mmap(fd, length, mmap.MAP_SHARED, prot)
        mapping = Mapping(name, fd if writable else -1, mapped, writable=writable)
        kept = writable
        try:
            _check_header(mapping, kind, instance)
        except BaseException:
            mapping.close()
            raise
        return mapping
    finally:
        if not kept:
            os.close(fd)


def is_there(name: str, fd: int) -> bool:
    """Whether a name is still that of the open segment `fd`: else nobody can attach by it."""
    try:
        return os.path.samestat(os.stat(_path(name)), os.fstat(fd))
    except FileNotFoundError:
        return False


def _open(name: str, *, writable: bool) -> int:
    try:
        return os.open(_path(name), (os.O_RDWR if writable else os.O_RDONLY) | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError as error:
        raise Unavailable(f"no segment {name}: the store is not running", name=name) from error
    except PermissionError as error:
        raise NotPermitted(f"segment {name} may not be opened by this user", name=name) from error
    except OSError as error:
        raise _refused(f"open segment {name}", error) from error


def _path(name: str) -> Path:
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} cannot be the name of a segment")
    return SHM_DIR / name


def _create_file(name: str, length: int) -> None:
    """A new file of `length` zeros in /dev/shm that no resource tracker knows."""
    try:
        if sys.version_info >= (3, 13):
            shared_memory.SharedMemory(name, create=True, size=length, track=False).close()
        else:
            with _untracked_lock, _no_tracker():
                shared_memory.SharedMemory(name, create=True, size=length).close()
    except FileExistsError as error:
        raise StorageError(f"segment {name} exists: is another store running?", errno=errno.EEXIST) from error
    except OSError as error:
        raise _refused(f"create segment {name} of {length} bytes", error) from error


def _refused(what: str, error: OSError) -> StorageError:
    return StorageError(f"cannot {what}: {error.strerror}", errno=error.errno or 0)


@contextlib.contextmanager
def _no_tracker() -> Iterator[None]:
    """Let SharedMemory meet a tracker that does nothing; for Python before 3.13, under a lock."""
    real = vars(shared_memory)["resource_tracker"]
    nothing = SimpleNamespace(register=lambda name, kind: None, unregister=lambda name, kind: None)
    vars(shared_memory)["resource_tracker"] = nothing
    try:
        yield
    finally:
        vars(shared_memory)["resource_tracker"] = real


def _allocate(fd: int, name: str, start: int, stop: int) -> None:
    """Give the bytes start..stop of the file memory; raises StoreFull."""
    try:
        os.posix_fallocate(fd, start, stop - start)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM):
            raise _refused(f"allocate memory for segment {name}", error) from error
        room = os.statvfs(SHM_DIR)
        raise StoreFull(
            f"no room in {SHM_DIR} for {stop - start} more bytes of segment {name}: "
            f"{room.f_bavail * room.f_frsize} bytes are free; free some or enlarge it",
            name=name,
            wanted_bytes=stop - start,
        ) from error


def _offset(field: str) -> int:
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    return int(fields[field][1])


def _place(field: str) -> slice:
    fields = layout.SEGMENT_HEADER.fields
    assert fields is not None
    return slice(fields[field][1], fields[field][1] + fields[field][0].itemsize)


def _expected(kind: int, instance: int, length: int) -> dict[str, int]:
    return {
        "magic": layout.MAGIC,
        "kind": kind,
        "layout_version": layout.LAYOUT_VERSION,
        "fingerprint": layout.FINGERPRINT,
        "instance": instance,
        "boot_id": int.from_bytes(boot_id(), sys.byteorder),
        "reserved_bytes": length,
    }


def _write_header(mapping: Mapping, kind: int, instance: int, commit_bytes: int) -> None:
    fields = _expected(kind, instance, len(mapping.buffer))
    for field, value in {**fields, "created_ns": clock.now_ns(), "committed_bytes": commit_bytes}.items():
        place = _place(field)
        mapping.buffer[place] = value.to_bytes(place.stop - place.start, sys.byteorder)


def _check_header(mapping: Mapping, kind: int, instance: int | None) -> None:
    # SYNC POINT (acquire) ready: what its creator wrote before is visible.
    ready = load_u32(mapping.segment, _offset("ready"))
    found = {name: int.from_bytes(mapping.buffer[_place(name)], sys.byteorder) for name in _expected(0, 0, 0)}
    expected = _expected(kind, found["instance"] if instance is None else instance, len(mapping.buffer))
    for field, value in expected.items():
        if found[field] != value:
            raise LayoutMismatch(
                f"segment {mapping.name}: {_tell(field, found[field])}, expected {_tell(field, value)}",
                name=mapping.name,
                field=field,
            )
    if ready != 1:
        message = f"segment {mapping.name} is not ready: its creator has not finished"
        raise LayoutMismatch(message, name=mapping.name, field="ready")


def _tell(field: str, value: int) -> str:
    if field == "kind":
        return f"kind {_KINDS.get(value, value)}"
    return f"{field} {value:#x}" if field in ("magic", "fingerprint", "boot_id") else f"{field} {value}"
