"""The nursery: a process that has loaded all modules once, and of which the store's other processes are forked.

Loading an interpreter, numpy and the kernels costs a worker half a second of processor time; a fork of a process that
has them costs milliseconds, and the memory of all modules is there once for all.

    owner                           nursery                   between                 worker
      order, descriptors  --------->  fork  ---------------->  fork  -------------->  takes its descriptors, waits
                                            <-- its pid -----  ends
                   <-- its pid -----  waits for it                                    (a child of the owner by now)
      watches its pidfd
      one byte  ------------------------------------------------------------------->  runs

The process between ends at once, so that the worker becomes a child of the owner, a subreaper: it ends with the owner
(process.die_with_parent), the owner gets its exit status, and the death of the nursery is nobody else's. A worker
whose pid never reached the owner, because somebody between them was killed, is never told to run: nobody would watch
it, and its successor would write into the same ring.
"""

from __future__ import annotations

import errno
import fcntl
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from mstore import faults
from mstore.errors import MstoreError
from mstore.ipc.messages import tags
from mstore.log import set_up_logging
from mstore.workers import archived, ingest, persister, query, snapshot
from mstore.workers.births import DESCRIPTORS_MAX, GO, ORDER_BYTES_MAX, SOCKET_FD, Nursery
from mstore.workers.process import (
    EXIT_FAILED,
    EXIT_ORPHANED,
    SUPERVISORS_SIGNALS,
    die_with_parent,
    run_worker,
    set_name,
)
from mstore.workers.scarce import told, told_of_start
from mstore.workers.spec import WorkerSpec

log = logging.getLogger(__name__)


def _persister(argument: str) -> NoReturn:
    """The persister has a nursery of its own: its helpers are to end with it, so they are to be its children."""
    nursery = Nursery.fork("helpers", WorkerSpec.from_json(argument).directory, apart=True)
    run_worker(partial(persister.main, nursery), argument)


def _archive(argument: str) -> int:
    # Here, by who needs it: pyarrow takes about as long to load as all the rest, and has threads of its own.
    from mstore.workers import archive

    return archive.main(argument)


def _export(argument: str) -> int:
    from mstore.workers import export

    return export.main(argument)


MAINS: dict[str, Callable[[str], int]] = {
    "ingest": partial(run_worker, ingest.main),
    "persister": _persister,
    "query": partial(run_worker, query.main),
    "snapshot": snapshot.main,
    "export": _export,
    "archive": _archive,
    "archived": archived.main,
}
"""What a forked process may become: it is given its argument, and its exit status is what comes back, if it does."""


def serve(sock: socket.socket, owner_pid: int, name: str, store_dir: Path, apart: bool) -> NoReturn:
    """Take orders until the owner closes its end, or ends. Never returns: the caller's frames are another process's."""
    try:
        set_name(f"mstore:{name}", store_dir)
        set_up_logging(name)
        die_with_parent(owner_pid)
        if apart:
            os.setsid()
        signal.pthread_sigmask(signal.SIG_BLOCK, SUPERVISORS_SIGNALS)  # a worker inherits it: see run_worker
        _keep_only({0, 1, 2, sock.fileno()})
        if not sys.flags.safe_path and sys.path[:1] in ([""], [os.getcwd()]):
            # As -P does: nothing is imported from the directory the operator happens to stand in.
            del sys.path[0]
        with open(os.devnull) as nothing:
            os.dup2(nothing.fileno(), 0)
        os.dup2(2, 1)  # whoever reads what the owner prints waits for the end of that, not for a worker's
        for message in tags.TAG_OF:  # else each worker would load a message's module when its first one comes
            tags.home(message)
        gc.collect()
        gc.freeze()  # what is loaded is never garbage; a worker that looked for it would copy every page of it
        while True:
            order, descriptors, flags, _ = socket.recv_fds(
                sock, ORDER_BYTES_MAX, DESCRIPTORS_MAX, socket.MSG_CMSG_CLOEXEC
            )
            if not order:
                os._exit(0)
            try:
                whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
                answer = _start(json.loads(order), descriptors) if whole else "the order was cut short"
            except OSError as error:
                answer = told_of_start(error)
            for fd in descriptors:
                os.close(fd)
            sock.send(json.dumps(answer).encode())
    except (SystemExit, BrokenPipeError, ConnectionResetError):
        os._exit(EXIT_ORPHANED)  # the owner has ended
    except BaseException:
        log.exception("the nursery ends after an unexpected error")
    os._exit(EXIT_FAILED)


def _start(order: dict[str, Any], descriptors: Sequence[int]) -> int:
    """Fork the worker; its pid.

    raises OSError: there is none; EOFError: perhaps there is, which the owner has to take like the nursery's own death
    """
    reading, writing = os.pipe()
    with open(reading) as pipe:
        try:
            between = os.fork()
            if not between:
                _fork_and_end(order, descriptors, writing)
        finally:
            os.close(writing)
        text = pipe.readline()  # its end: nobody is left who could write a line
    os.waitpid(between, 0)
    faults.hit("nursery.forked")
    if not text.endswith("\n"):
        raise EOFError("the process between ended before it told the pid")
    if (pid := int(text)) < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


def _fork_and_end(order: dict[str, Any], descriptors: Sequence[int], writing: int) -> NoReturn:
    """What the process between does."""
    try:
        try:
            pid = os.fork()
        except OSError as error:
            pid = -(error.errno or errno.EAGAIN)
        if not pid:
            _become(order, descriptors)
        os.write(writing, f"{pid}\n".encode())
    finally:
        os._exit(0)


def _become(order: dict[str, Any], descriptors: Sequence[int]) -> NoReturn:
    """What the worker does: put its descriptors in place, wait for the word, and be what the order says."""
    code = EXIT_FAILED
    try:
        go, *numbers = order["numbers"]
        _place(descriptors, [go, *numbers])
        if os.read(go, 1) != GO:
            os._exit(EXIT_ORPHANED)
        os.close(go)
        sys.stdout = os.fdopen(1, "w", closefd=False)  # the inherited one may be closed, or of another place
        code = MAINS[order["main"]](order["argument"])
        sys.stdout.flush()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else EXIT_FAILED
    except MstoreError as error:
        log.error("%s: %s", order["main"], error)
    except BaseException as error:
        if why := told(error):
            log.error("%s cannot begin: %s", order["main"], why)
        else:
            log.exception("%s ends after an unexpected error", order["main"])
    finally:
        logging.shutdown()
        os._exit(code)


def _place(descriptors: Sequence[int], numbers: Sequence[int]) -> None:
    """Give the descriptors these numbers, inheritable, and close all others but 0, 1 and 2."""
    above = (
        max(*descriptors, *numbers) + 1
    )  # first out of the way: a number may be what another one has for now
    try:
        moved = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors]
    except OSError as error:  # EINVAL, where `above` itself is over the limit
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE)) from error
    for fd, number in zip(moved, numbers, strict=True):
        os.dup2(fd, number)
    _keep_only({0, 1, 2, *numbers})


def _keep_only(numbers: Collection[int]) -> None:
    """Close all descriptors but these."""
    before = -1
    for number in [*sorted(numbers), os.sysconf("SC_OPEN_MAX")]:
        if number > before + 1:  # an empty range from 0 on would be all of them
            os.closerange(before + 1, number)
        before = number


if __name__ == "__main__":
    serve(
        socket.socket(fileno=SOCKET_FD), int(sys.argv[1]), sys.argv[2], Path(sys.argv[3]), bool(sys.argv[4])
    )
