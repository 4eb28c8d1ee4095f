"""Standard input, output and error as the shell left them: closed, full, or a pipe that nobody reads any more.

Python makes None of a stream that is closed, and the next file or socket that is opened takes its number: an
error message would be written into it. Here a closed stream leads to /dev/null and refuses what it is asked:
reading and writing fail with "Bad file descriptor", as they do for any other program. What is said to a closed
standard error is lost.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import sys
from typing import IO

from mstore.errors import StorageError


def hold() -> None:
    """Put something in the place of every standard stream that is closed; call it before anything is opened."""
    # Opened the wrong way round, so that using them is an error, but for standard error.
    for fd, name, wrong in ((0, "stdin", os.O_WRONLY), (1, "stdout", os.O_RDONLY), (2, "stderr", os.O_RDWR)):
        if getattr(sys, name) is None and not _is_open(fd):
            _put_null(fd, wrong)
            stream = open(fd, "w" if fd else "r", encoding="utf-8", closefd=False)  # noqa: SIM115  (it stays)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.isatty():
        sys.stdout.reconfigure(errors="backslashreplace")  # a table with \xb0C beats none; files stay exact


def complain(text: str) -> None:
    """A line on standard error, behind all that was printed before; lost when it cannot be written."""
    with contextlib.suppress(OSError):
        sys.stdout.flush()
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        _divert(sys.stderr)


def standard_input() -> IO[bytes]:
    """The bytes of standard input. raises StorageError when it is closed or a directory"""
    with contextlib.suppress(io.UnsupportedOperation):
        try:
            os.read(sys.stdin.fileno(), 0)
        except io.UnsupportedOperation:
            raise
        except OSError as error:
            raise StorageError(f"cannot read standard input: {error.strerror}") from error
    return sys.stdin.buffer


def flush() -> OSError | None:
    """Why standard output does not take what was printed, None when it does; after a failure it takes everything."""
    try:
        sys.stdout.flush()
    except OSError as error:
        # What is still in the buffer would fail again when Python ends, which then says so in its own way.
        _divert(sys.stdout)
        return error
    return None


def cause(error: OSError) -> OSError | None:
    """The failure of standard output that `error` comes from; None when it comes from something else."""
    if (failure := flush()) is not None:
        return failure
    with contextlib.suppress(io.UnsupportedOperation):
        try:
            os.write(sys.stdout.fileno(), b"")
        except io.UnsupportedOperation:
            raise
        except OSError as refusal:
            return refusal
    return error if isinstance(error, BrokenPipeError) and _nobody_reads() else None


def _nobody_reads() -> bool:
    """Whether standard output is a pipe or a socket whose other end is closed."""
    with contextlib.suppress(OSError, ValueError):
        poll = select.poll()
        poll.register(sys.stdout.fileno(), 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))
    return False


def _divert(stream: IO[str]) -> None:
    with contextlib.suppress(OSError, ValueError):
        _put_null(stream.fileno(), os.O_RDWR)


def _put_null(fd: int, flags: int) -> None:
    nothing = os.open(os.devnull, flags)
    if nothing != fd:
        os.dup2(nothing, fd)
        os.close(nothing)
    os.set_inheritable(fd, True)  # a store that is started from here gives it to its workers


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True
