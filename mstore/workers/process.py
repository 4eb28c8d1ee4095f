"""The shell every child process wears: its place in the family, signals, loop, log."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import uvloop

from mstore import faults
from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.workers import stacks
from mstore.workers.scarce import told
from mstore.workers.spec import WorkerSpec

_PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 3
EXIT_FAILED = 4
SUPERVISORS_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""They reach a whole foreground group or control group; only the supervisor decides what they mean."""

log = logging.getLogger(__name__)


def die_with_parent(parent_pid: int) -> None:
    """End when the parent ends; the check closes the gap in which it ended before the request."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(EXIT_ORPHANED)


def ignore_signals() -> None:
    """Leave SUPERVISORS_SIGNALS to the supervisor; it started this process with them blocked, so none got through."""
    for number in SUPERVISORS_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SUPERVISORS_SIGNALS)


def hold_standard_descriptors() -> None:
    """Open /dev/null as 0, 1 and 2 where they are closed.

    Else the lock, a segment or a log file gets one of these numbers: a child's own standard input would take its
    place, and what a library prints to standard error would be written into it.
    """
    for fd in (0, 1, 2):
        try:
            os.fstat(fd)
        except OSError:
            nothing = os.open(os.devnull, os.O_RDWR)
            if nothing == fd:
                os.set_inheritable(fd, True)
            else:
                os.dup2(nothing, fd)
                os.close(nothing)


def _end_on_error(name: str, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
    """An error that no callback expected: the process's state is unknown, a successor's is not."""
    loop.default_exception_handler(context)
    if context.get("exception") is not None and ("handle" in context or "protocol" in context):
        log.error("%s ends after an unexpected error in a callback", name)
        logging.shutdown()
        os._exit(EXIT_FAILED)


def set_name(name: str, store_dir: Path | None = None) -> None:
    """What top shows for the main thread (15 bytes); with `store_dir` also what ps shows as the command line."""
    ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)
    faults.name_process(name)
    if store_dir is not None:
        _set_command_line(f"{name.replace(':', ': ')} {store_dir}")


def _set_command_line(text: str) -> None:
    """Of a process that was forked, and would else show the command line of another. Cut where that was shorter."""
    try:
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return
    start, end = int(fields[45]), int(fields[46])  # arg_start and arg_end: the strings as exec laid them
    if end - start > 1:  # the last byte stays 0: else the environment behind it would be shown, too
        ctypes.memmove(start, os.fsencode(text)[: end - start - 1].ljust(end - start, b"\0"), end - start)


def run_worker(main: Callable[[WorkerSpec], Coroutine[Any, Any, None]], argument: str) -> NoReturn:
    """What a forked process becomes. argument: a WorkerSpec as JSON"""
    spec = WorkerSpec.from_json(argument)
    die_with_parent(spec.parent_pid)
    ignore_signals()
    for fd in (spec.channel_fd, spec.doorbell_fd, *spec.ack_fds, *spec.follow_fds, spec.config_fd):
        os.set_inheritable(fd, False)  # DIR/lock alone goes on to a helper
    name = spec.kind if spec.kind == "persister" else f"{spec.kind}-{spec.index}"
    set_name(f"mstore:{name}", spec.directory)
    set_up_logging(name)
    stacks.register(spec.directory, name, spec.lock_inode)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            if spec.kind == "persister":
                # It writes what all others read: half a change must end in a renewal, never go on.
                runner.get_loop().set_exception_handler(partial(_end_on_error, name))
            runner.run(main(spec))
    except MstoreError as error:
        log.error("%s: %s", type(error).__name__, error)
        os._exit(EXIT_FAILED)
    except Exception as error:
        if why := told(error):
            log.error("it cannot go on: %s", why)
        else:
            log.exception("%s ends after an unexpected error", name)
        os._exit(EXIT_FAILED)
    # Mappings with live views cannot be closed; leave them to the kernel instead of to interpreter shutdown.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
