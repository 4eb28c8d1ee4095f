"""The shell every child process wears: its place in the family, signals, loop, log."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from mstore.errors import MstoreError
from mstore.log import set_up_logging
from mstore.workers.spec import WorkerSpec

_PR_SET_PDEATHSIG = 1
EXIT_ORPHANED = 3
EXIT_FAILED = 4

log = logging.getLogger(__name__)


def die_with_parent(parent_pid: int) -> None:
    """End when the parent ends; the check closes the gap in which it ended before the request."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(EXIT_ORPHANED)


def set_name(name: str) -> None:
    """What ps and top show for the main thread (15 bytes)."""
    ctypes.CDLL(None).prctl(15, name.encode()[:15], 0, 0, 0)


def run_worker(main: Callable[[WorkerSpec], Coroutine[Any, Any, None]]) -> None:
    """Entry of every `python -m mstore.workers.KIND SPEC`: never returns."""
    spec = WorkerSpec.from_json(sys.argv[1])
    die_with_parent(spec.parent_pid)
    # Ctrl-C reaches the whole foreground group; only the supervisor decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    name = spec.kind if spec.kind == "persister" else f"{spec.kind}-{spec.index}"
    set_name(f"mstore:{name}")
    set_up_logging(name)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(main(spec))
    except MstoreError as error:
        log.error("%s: %s", type(error).__name__, error)
        os._exit(EXIT_FAILED)
    except Exception:
        log.exception("%s ends after an unexpected error", name)
        os._exit(EXIT_FAILED)
    # Mappings with live views cannot be closed; leave them to the kernel instead of to interpreter shutdown.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(0)
