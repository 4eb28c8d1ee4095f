"""Descriptors and processes: what a store takes of them, and which limit it was when there were not enough.

The system says "Too many open files" and "Resource temporarily unavailable"; whoever runs a store needs to hear which
limit that is, how high it is and how high it has to be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource

from mstore import limits
from mstore.errors import MstoreError

_NO_THREAD = "can't start new thread"
"""Python's RuntimeError when the system refused one, for want of the error's own number."""
_RAISE_FILES = "raise it (ulimit -n, LimitNOFILE=)"
_RAISE_PROCESSES = "raise it (ulimit -u, LimitNPROC=), or that of its control group (TasksMax=, pids.max)"


def raise_limits() -> None:
    """As many descriptors and processes as the system allows; workers inherit it. The usual 1024 descriptors are less
    than a site's collectors."""
    for which in (resource.RLIMIT_NOFILE, resource.RLIMIT_NPROC):
        soft, hard = resource.getrlimit(which)
        if soft != hard:
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(which, (hard, hard))


def refuse_too_few(n_ingest: int, n_query: int) -> None:
    """A store with so many workers that could not start, or not work, says so before anything is made.

    raises MstoreError
    """
    needed = limits.DESCRIPTORS_MIN + n_ingest * limits.DESCRIPTORS_AN_INGEST_WORKER
    needed += n_query * limits.DESCRIPTORS_A_QUERY_WORKER
    if _limit(resource.RLIMIT_NOFILE) < needed:
        raise MstoreError(
            f"too few open files: the limit is {_limit(resource.RLIMIT_NOFILE)}, and {n_ingest} ingest and {n_query} query"
            f" workers need {needed}, and one more for each connection: {_RAISE_FILES}"
        )
    needed = limits.PROCESSES_MIN + n_ingest + n_query
    # The system asks root for no such limit. Whoever else it does not ask has no reason for one so low.
    if os.geteuid() and _limit(resource.RLIMIT_NPROC) < needed:
        raise MstoreError(_processes())


def told(error: BaseException) -> str:
    """The limit that an error speaks of, and what to do; "" when it speaks of none."""
    if isinstance(error, OSError) and error.errno == errno.EMFILE:
        return f"too many open files: the limit is {_limit(resource.RLIMIT_NOFILE)}: {_RAISE_FILES}"
    if isinstance(error, RuntimeError) and str(error) == _NO_THREAD:
        return _processes()
    return ""


def told_of_start(error: OSError) -> str:
    """Why a process cannot be started."""
    return _processes() if error.errno == errno.EAGAIN else told(error) or str(error)


def _processes() -> str:
    most = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    limit = "none" if most == resource.RLIM_INFINITY else str(most)
    return (
        f"too many processes and threads: the limit for all of this user is {limit}, a store takes"
        f" {limits.PROCESSES_MIN} and one more for each worker: {_RAISE_PROCESSES}"
    )


def _limit(which: int) -> int:
    soft = resource.getrlimit(which)[0]
    return 1 << 62 if soft == resource.RLIM_INFINITY else soft
