"""What this machine can do without mstore: the bare references that stand beside the figures."""

from __future__ import annotations

import contextlib
import mmap
import os
import platform
import resource
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from mstore.limits import MIB
from mstore.shm.segment import SHM_DIR, huge_pages

NO_LARGE_PAGES = ("never", "deny")
LISTENER = """
import asyncio, sys, uvloop
async def main():
    await asyncio.get_running_loop().create_unix_server(asyncio.Protocol, sys.argv[1], backlog=4096)
    print("ready", flush=True)
    await asyncio.Event().wait()
uvloop.run(main())
"""
"""A process with an event loop, its connections, and nothing to do."""


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "?")
    system = f"Linux {platform.release()}, Python {platform.python_version()}, {SHM_DIR} huge={huge_pages()}"
    return f"{platform.machine()}, {os.cpu_count()} cores, {model}, {system}"


def bare_socket_bytes_per_s(data: bytes, rounds: int = 3) -> float:
    """The speed at which these bytes cross a Unix socket between two processes that do nothing else; best of `rounds`."""
    best = 0.0
    for _ in range(rounds):
        ours, theirs = socket.socketpair()
        for one in (ours, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        pid = os.fork()
        if pid == 0:
            ours.close()
            buffer = bytearray(1 << 20)
            while theirs.recv_into(buffer):
                pass
            theirs.sendall(b"x")
            os._exit(0)
        theirs.close()
        began = time.perf_counter()
        ours.sendall(data)
        ours.shutdown(socket.SHUT_WR)
        ours.recv(1)
        best = max(best, len(data) / (time.perf_counter() - began))
        ours.close()
        os.waitpid(pid, 0)
    return best


def memcpy_bytes_per_s(n_bytes: int = 256 << 20) -> float:
    source, target = np.ones(n_bytes, dtype=np.uint8), np.zeros(n_bytes, dtype=np.uint8)
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        target[:] = source
        best = min(best, time.perf_counter() - began)
    return n_bytes / best


def quiet_fdatasync_ms(directory: Path, n: int = 200) -> tuple[float, float]:
    """p50 and p99, in milliseconds, of fdatasync after 4 KiB on the disk of `directory`, nothing else running."""
    path = directory / "fdatasync.tmp"
    fd = os.open(path, os.O_CREAT | os.O_RDWR)
    try:
        os.pwrite(fd, bytes(n * 4096), 0)
        os.fsync(fd)
        took = []
        for i in range(n):
            os.pwrite(fd, b"x" * 4096, i * 4096)
            began = time.perf_counter()
            os.fdatasync(fd)
            took.append((time.perf_counter() - began) * 1e3)
    finally:
        os.close(fd)
        path.unlink()
    return float(np.percentile(took, 50)), float(np.percentile(took, 99))


def quiet_disk(directory: Path) -> str:
    p50, p99 = quiet_fdatasync_ms(directory)
    return f"quiet fdatasync p50 {p50:.2f} p99 {p99:.2f} ms"


def memory_file() -> int:
    """A nameless file where segments lie: by the options that /dev/shm is mounted with."""
    return os.open(SHM_DIR, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def first_touch_bytes_per_s(n_bytes: int, *, large: bool = False) -> float:
    """Copying into shared memory that nobody has touched, with pages of 4 KiB or those of 2 MiB that the mount may give."""
    source = np.ones(16 * MIB, np.uint8)
    fd = memory_file()
    try:
        os.ftruncate(fd, n_bytes)
        mapped = mmap.mmap(fd, n_bytes)
        mapped.madvise(mmap.MADV_HUGEPAGE if large else mmap.MADV_NOHUGEPAGE)
        target = np.frombuffer(mapped, np.uint8)
        began = time.perf_counter()
        for at in range(0, n_bytes - len(source) + 1, len(source)):
            target[at : at + len(source)] = source
        return n_bytes / (time.perf_counter() - began)
    finally:
        os.close(fd)


def first_touch(n_bytes: int = 256 * MIB) -> tuple[float, str]:
    """(bytes/s as segments get their memory, the same in words, with small pages and, where there are any, large ones)."""
    small = first_touch_bytes_per_s(n_bytes)
    text = f"into untouched memory {small / 1e9:.2f} GB/s by pages of 4 KiB"
    if huge_pages() in NO_LARGE_PAGES:
        return small, text
    large = first_touch_bytes_per_s(n_bytes, large=True)
    return large, f"{text}, {large / 1e9:.2f} by 2 MiB"


def bare_start_s(code: str, rounds: int = 3) -> float:
    """Of an interpreter that does this and ends, such as importing what a process of the store needs; best of `rounds`."""
    took = []
    for _ in range(rounds):
        began = time.perf_counter()
        environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": ""}
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        took.append(time.perf_counter() - began)
    return min(took)


@contextlib.contextmanager
def open_files_max(n: int) -> Iterator[None]:
    """May this process have `n` descriptors meanwhile, as far as the system lets it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, n)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def cpu_s(pids: list[int], seconds: float) -> float:
    """Processor time that these processes take in so many seconds from now."""
    processes = [psutil.Process(pid) for pid in pids]

    def used() -> float:
        return sum(sum(process.cpu_times()[:2]) for process in processes)

    before = used()
    time.sleep(seconds)
    return used() - before


def bare_listener_cpu_s(n_connections: int, seconds: float) -> float:
    """What a process with nothing but uvloop takes while so many connections are open and idle."""
    with (
        tempfile.TemporaryDirectory(prefix="mstore-bench-") as folder,
        contextlib.ExitStack() as stack,
        open_files_max(n_connections + 500),
    ):
        place = str(Path(folder) / "bare.sock")
        listener = subprocess.Popen(
            [sys.executable, "-c", LISTENER, place], stdout=subprocess.PIPE, text=True
        )
        try:
            assert listener.stdout is not None
            assert listener.stdout.readline() == "ready\n"
            for _ in range(n_connections):
                stack.enter_context(socket.socket(socket.AF_UNIX)).connect(place)
            time.sleep(min(2.0, seconds))
            return cpu_s([listener.pid], seconds)
        finally:
            listener.kill()
            listener.wait()
            assert listener.stdout is not None
            listener.stdout.close()


def drop_from_page_cache(*folders: Path) -> None:
    """The files in there: who reads them next reads the disk."""
    for path in (path for folder in folders for path in folder.iterdir() if path.is_file()):
        fd = os.open(path, os.O_RDONLY)
        os.fdatasync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(fd)
