"""`mstore backup`: a copy that a store can serve, made beside a running store or of a stopped one.

    running   control.sock: Hold -> the log gives up nothing, all acknowledged before is durable at block S
              copy up to S (persistence/backup.py); the hold ends with the connection
    stopped   DIR/lock, then copy all that a start would find

The copying is done here, in the command's own process, by reading files: the store's processes do nothing but hold.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from mstore import __version__, clock, paths
from mstore.client.session import Session
from mstore.errors import MstoreError, StorageError, StoreLocked
from mstore.ipc import messages as m
from mstore.ipc.transport import run
from mstore.limits import HOLD_S_DEFAULT
from mstore.persistence import backup as persistence
from mstore.persistence.files import Files, quarantine_dir, snapshot_dir, wal_dir
from mstore.persistence.snapshot import list_snapshots
from mstore.workers.look import lock_quietly


@dataclass(frozen=True, slots=True)
class Backup:
    """What was made, for the report."""

    target: str
    running: bool
    seq: int
    """Everything up to this block of the log is in it."""
    snapshot_seq: int
    n_bytes: int
    n_series: int
    """Of the snapshot; what was first seen behind it is in the log."""
    n_chunks: int
    n_slots: int
    """Of these chunks, up to the last sample of each; some may have none."""
    n_blocks: int
    """Of the log."""
    n_log_samples: int
    """In these blocks, as they were sent: one that was sent again, or is in the snapshot as well, counts once more."""
    seconds: float
    warnings: list[str]


def backup(store_dir: Path, target: Path, *, limit_s: int = HOLD_S_DEFAULT) -> Backup:
    """Copy the store in `store_dir` to `target`; everything acknowledged as durable before is in it.

    limit_s  how long a running store holds its log for it
    raises   StorageError, CorruptRecord, NotPermitted, Unavailable; nothing is left at `target` then
    """
    began = clock.monotonic_s()
    target = target.absolute()
    if not any(path.is_dir() for path in (wal_dir(store_dir), snapshot_dir(store_dir))):
        raise StorageError(
            f"{store_dir} holds neither a log nor snapshots: there is no store in it", path=str(store_dir)
        )
    persistence.refuse_used(target)
    if target.resolve().is_relative_to(store_dir.resolve()):
        raise StorageError(
            f"{target} is inside the store it would copy: choose another place", path=str(target)
        )
    _refuse_without_room(store_dir, target)
    with _still(store_dir, limit_s) as upto_seq:
        copied = persistence.copy_store(
            Files(), store_dir, target, upto_seq, pause_s=persistence.PAUSE_S if upto_seq is not None else 0.0
        )
    warnings = [f"skipped a damaged snapshot: {text}" for text in copied.skipped]
    if quarantine_dir(store_dir).is_dir() and any(quarantine_dir(store_dir).iterdir()):
        warnings.append(f"{quarantine_dir(store_dir)} holds damaged bytes of earlier; they are not copied")
    return Backup(
        str(target), upto_seq is not None, copied.seq, copied.snapshot_seq, copied.n_bytes,
        copied.n_series, copied.n_chunks, copied.n_slots, copied.n_blocks, copied.log.n_samples,
        clock.monotonic_s() - began, warnings,
    )  # fmt: skip


@contextlib.contextmanager
def _still(store_dir: Path, limit_s: int) -> Iterator[int | None]:
    """Keep what is copied in place; the sequence to copy up to, None = all of a stopped store."""
    try:
        lock_fd = lock_quietly(store_dir)
    except StoreLocked:
        session, seq = _hold(store_dir, limit_s)
        try:
            yield seq
        finally:
            session.forget()
        return
    try:
        yield None
    finally:
        if lock_fd >= 0:
            os.close(lock_fd)


def _hold(store_dir: Path, limit_s: int) -> tuple[Session, int]:
    """A connection that holds the log as long as it is open, and the block that is durable with all before it."""
    path = paths.socket_path(store_dir, "control")
    session = Session(path, m.Hello(m.VERSION, "control", client=f"mstore backup {__version__}"))
    try:
        done = run(session.exchange(m.Hold(limit_s), clock.monotonic_s() + 60.0))
    except BaseException:
        session.forget()
        raise
    if not isinstance(done, m.Done):
        session.forget()
        raise MstoreError(f"Hold was answered by {type(done).__name__}")
    return session, int(done.details["seq"])


def _refuse_without_room(store_dir: Path, target: Path) -> None:
    """Say so now instead of after an hour. The log's share is not known before it is read: snapshots are the most."""
    files = Files()
    folder = snapshot_dir(store_dir)
    newest = next(iter(list_snapshots(files, folder)), None)
    if newest is None:
        return
    prefix = f"{newest[0]:016x}."
    needed = 0
    for name in files.list(folder):
        if name.startswith(prefix):
            with contextlib.suppress(FileNotFoundError):  # retired meanwhile
                needed += (folder / name).stat().st_size
    room = os.statvfs(target.parent)
    if (free := room.f_bavail * room.f_frsize) < needed:
        raise StorageError(
            f"no backup: the newest snapshot alone has {needed:,} bytes, {target.parent} has {free:,} free",
            path=str(target),
        )
