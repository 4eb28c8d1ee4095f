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

_AHEAD_BLOCKS = 8
_INLINE_BYTES = 1 * MIB
"""Files up to here are read without a thread beside."""


def read_ahead(files: Files, path: Path, expected: Expected) -> Generator[Block, None, None]:
    """read_blocks() by a thread beside, for large files."""
    if expected.n_bytes <= _INLINE_BYTES:
        yield from read_blocks(files, path, expected)
        return
    waiting: queue.Queue[Block | BaseException | None] = queue.Queue(_AHEAD_BLOCKS)
    stopped = threading.Event()

    def put(item: Block | BaseException | None) -> bool:
        while not stopped.is_set():
            with contextlib.suppress(queue.Full):
                waiting.put(item, timeout=0.1)
                return True
        return False

    def read() -> None:
        try:
            for block in read_blocks(files, path, expected):
                if not put(block):
                    return
            put(None)
        except BaseException as failure:
            put(failure)

    thread = threading.Thread(target=read, name="mstore-read-ahead", daemon=True)
    thread.start()
    try:
        while (item := waiting.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
