"""A snapshot's file read and verified on another core, some blocks ahead of whoever takes them."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Generator
from pathlib import Path

from mstore.limits import MIB
from mstore.persistence.files import Files
from mstore.persistence.snapshot_files import Block, Expected, read_blocks

_AHEAD_HANDFULS = 3
_HANDFUL_BYTES = 4 * MIB
"""What is handed over at once. Waking a thread takes about as long as putting a block of 256 KiB in place: one by one,
benchmarks/bench_recovery.py takes a third longer."""
_INLINE_BYTES = 1 * MIB
"""Files up to here are read without a thread beside."""


def read_ahead(files: Files, path: Path, expected: Expected) -> Generator[Block, None, None]:
    """read_blocks() by a thread beside, for large files."""
    if expected.n_bytes <= _INLINE_BYTES:
        yield from read_blocks(files, path, expected)
        return
    waiting: queue.Queue[list[Block] | BaseException | None] = queue.Queue(_AHEAD_HANDFULS)
    stopped = threading.Event()

    def put(item: list[Block] | BaseException | None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def read() -> None:
        handful: list[Block] = []
        n_bytes = 0
        try:
            for block in read_blocks(files, path, expected):
                handful.append(block)
                n_bytes += len(block.payload)
                if n_bytes >= _HANDFUL_BYTES:
                    if not put(handful):
                        return
                    handful, n_bytes = [], 0
            put(handful)
            put(None)
        except BaseException as failure:
            put(handful)  # what was sound before it
            put(failure)

    thread = threading.Thread(target=read, name="mstore-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield from item
    finally:
        stopped.set()
        thread.join()
