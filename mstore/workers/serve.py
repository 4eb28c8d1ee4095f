"""`mstore serve`: everything that is checked and taken before the supervisor runs."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import uvloop

from mstore.log import set_up_logging
from mstore.persistence import files, store_lock
from mstore.workers import scarce, stacks
from mstore.workers.births import Nursery, reap_all
from mstore.workers.ownership import inode_of, is_still
from mstore.workers.process import hold_standard_descriptors, set_name
from mstore.workers.settings import Settings
from mstore.workers.startup import check_platform, prepare_dir
from mstore.workers.supervisor import Supervisor
from mstore.workers.systemd import Service

log = logging.getLogger(__name__)

_ORPHANS_S_MAX = 5.0


def serve(
    store_dir: Path,
    config_path: Path | None,
    ingest_workers: int | None,
    query_workers: int | None,
    *,
    keep_memory: bool = False,
    strict: bool = False,
) -> int:
    """Run a store in the foreground until it is stopped; the exit status. raises MstoreError when it cannot start.

    strict  damaged files are a reason not to start
    """
    check_platform()
    hold_standard_descriptors()
    set_up_logging("supervisor")
    service = Service.from_environment(os.environ)
    scarce.raise_limits()
    workers = ingest_workers, query_workers
    settings = Settings(config_path, workers, keep_memory=keep_memory, strict=strict, store_dir=store_dir)
    for warning in settings.current.warnings:
        log.warning("%s", warning)
    scarce.refuse_too_few(*settings.current.worker_counts(os.cpu_count() or 1))
    store_dir = prepare_dir(store_dir)
    nursery = Nursery.fork("nursery", store_dir)  # before the lock: it is only for those who use DIR
    try:
        return _run_locked(store_dir, settings, service, nursery)
    finally:
        nursery.close()
        reap_all(_ORPHANS_S_MAX)


def _run_locked(store_dir: Path, settings: Settings, service: Service, nursery: Nursery) -> int:
    lock_fd = store_lock.lock(store_dir)
    try:
        set_name("mstore")
        stacks.register(store_dir, "supervisor", inode_of(lock_fd))
        files.remove_leftovers(files.Files(), store_dir)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(Supervisor(store_dir, settings, lock_fd, service, nursery).run())
    finally:
        if is_still(files.lock_path(store_dir), lock_fd):  # else they are those of the store that came after
            stacks.remove(store_dir)
        os.close(lock_fd)
