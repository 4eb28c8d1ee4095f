"""Where `mstore export` reads: the store's memory if it runs and may be mapped, else its socket."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mstore.attach import attach
from mstore.client.sync import Client
from mstore.compat import source
from mstore.compat.source import Source
from mstore.errors import LayoutMismatch, NotPermitted


@contextlib.contextmanager
def open_source(store_dir: Path) -> Iterator[Source]:
    """A store to export from. raises Unavailable"""
    with contextlib.ExitStack() as stack:
        try:
            found = source.attached(stack.enter_context(attach(store_dir)))
        except (NotPermitted, LayoutMismatch):  # another user's, or another version's: its socket may answer
            found = source.asked(stack.enter_context(Client(store_dir)))
        yield found
