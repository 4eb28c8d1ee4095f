"""How the persister's memory is filled when it starts: read back from the files, or adopted as it was left.

    cold   empty segments  <- newest snapshots, then the log behind them
    warm   kept segments   <- the log behind the last block that was applied; mostly nothing

Both end with the same log: everything read is durable, and the next block has the next sequence. The rules of adoption
are those of adoption.py; the two that need log and links are checked here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence
from functools import partial

from mstore import clock
from mstore.apply.pool import Pool
from mstore.config import Config, longest_s
from mstore.errors import CorruptRecord, StorageError, StoreFull, UnknownMessage
from mstore.kernels._ring import RingReader
from mstore.kernels._samples import Samples
from mstore.kernels._segment import Segment
from mstore.persistence.files import Files
from mstore.persistence.recovery import (
    Report,
    has_log,
    keep_details,
    look_at_refused_memory,
    newest_log_id,
    recover,
    refuse_memory,
    resume,
    resume_without_log,
    take_notes,
)
from mstore.shm.control import Control
from mstore.shm.directory import DirectoryWriter
from mstore.workers import protected_note
from mstore.workers.adoption import NotAdopted
from mstore.workers.definitions import kept_from_s
from mstore.workers.progress import RecoveryProgress
from mstore.workers.spec import WorkerSpec

log = logging.getLogger(__name__)


def open_samples(spec: WorkerSpec, directory: Segment, samples: Segment, fd: int) -> Samples:
    """The writer of samples, over empty memory or over what was kept. raises NotAdopted"""
    try:
        return Samples(directory, samples, fd, 0, not spec.adopt)
    except ValueError as error:
        raise NotAdopted(f"the samples are damaged: {error}") from error


def told(spec: WorkerSpec, report: Report, seconds: float) -> str:
    """How the memory was filled, as one line, which is logged, as is what is damaged."""
    for fault in report.faults():
        log.error("part of the log or of a snapshot is %s", fault)
    how = "memory adopted" if spec.adopt else "recovered"
    text = f"{how} in {seconds:.2f} s: {report.summary()}"
    log.info("%s", text)
    return text


def fill(
    spec: WorkerSpec,
    files: Files,
    control: Control,
    directory: DirectoryWriter,
    pool: Pool,
    rings: Sequence[RingReader],
    config: Config,
    tell: Callable[[str], None],
) -> Report:
    """Bring directory and samples to where the log ends.

    config  says which chunks of the snapshots are too old
    tell    given a sentence now and then
    raises  NotAdopted, StorageError, CorruptRecord, StoreFull
    """
    progress = RecoveryProgress(control.worker(spec.slot), tell)
    if spec.adopt:
        try:
            report = _warm(spec, files, control, directory, pool, rings)
        except NotAdopted as reason:
            refuse_memory(files, spec.directory, max(control.applied, control.written), str(reason))
            raise
    else:
        # With an archive nothing is too old: what no pass has archived yet is there for the first one.
        bounded = not config.archive.writes
        longest = longest_s(config.retentions_s()) if bounded else 0
        read_back = partial(recover, strict=spec.strict, retention_s=longest, progress=progress)
        report = pool.recover(
            lambda target: read_back(files, spec.directory, target),
            (lambda: kept_from_s(directory, config, clock.now_s())) if bounded else None,
        )
        look_at_refused_memory(files, spec.directory, report)
    progress.end()
    directory.publish()
    directory.hide_empty_levels()
    pool.protection.expire()
    protected_note.write_if_possible(files, spec.directory, spec.instance, pool.protection)
    control.applied = report.next_seq - 1
    report.notes += take_notes(files, spec.directory)
    with contextlib.suppress(StorageError):  # a full disk is no reason not to start
        keep_details(files, spec.directory, report.details())
    return report


def _warm(
    spec: WorkerSpec,
    files: Files,
    control: Control,
    directory: DirectoryWriter,
    pool: Pool,
    rings: Sequence[RingReader],
) -> Report:
    """What the log holds behind `applied` is applied, again where that was begun: it is idempotent."""
    gone = not has_log(files, spec.directory) and control.applied == control.written
    if not gone and (found := newest_log_id(files, spec.directory)) != control.log_id:
        raise NotAdopted(
            f"the log in {spec.directory} is not the one this memory was filled from"
            f" (its newest segment is {found:#x}, expected {control.log_id:#x})"
        )
    if missing := protected_note.read(spec.directory, spec.instance, pool.protection):
        raise NotAdopted(f"who is protected is not known: {missing}")
    applied, durable, written = control.applied, control.durable, control.written
    directory.show_removing()
    if gone:
        control.worker(spec.slot).set("unprotected_seq", applied)  # the file watch sees to a snapshot
        report = resume_without_log(files, spec.directory, applied)
        _settle(rings, report.positions)
        return report
    try:
        report = pool.recover(
            lambda target: resume(files, spec.directory, applied, durable, apply=target.apply)
        )
    except (CorruptRecord, UnknownMessage, StoreFull) as error:
        raise NotAdopted(f"what the log holds cannot be applied to this memory: {error}") from error
    if report.finish is not None:
        raise NotAdopted(f"what the log holds cannot be made durable: {report.in_full()}")
    # Definitions and evictions are in memory before they count as applied: so the log must hold all that was written.
    if report.damaged or report.log.last_seq < max(applied, written):
        raise NotAdopted(
            f"the log does not hold what this memory holds up to block {max(applied, written)}: {report.in_full()}"
        )
    _settle(rings, report.positions)
    return report


def _settle(rings: Sequence[RingReader], positions: dict[int, int]) -> None:
    """Each ring goes on where its last block in the log ends. All of the log is durable by now."""
    for index, ring in enumerate(rings):
        position = max(ring.drained(), positions.get(index, 0))
        if position > ring.head():
            raise NotAdopted(f"ring {index} ends at {ring.head()}, the log has drained it to {position}")
        ring.set_drained(position)
        ring.set_durable(position)
