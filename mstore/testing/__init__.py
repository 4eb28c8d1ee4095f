"""A store inside the test that uses it: the client's interface, no processes, no files, nothing left behind.

    import mstore.testing

    with mstore.testing.store() as client:          # an mstore.Client
        client.write("cpu_load,cluster=fritz,hostname=f0201 value=1.5 1725620400\\n")
        load = client.query("fritz", "f0201", "cpu_load", 1725620400, 1725620460)

Lines, frames and questions are taken by the code that a store's workers run, over memory of this process alone:

    Client ── frames ──> link.py ──> sessions of ingest, answers of a query worker ──> memory.py

What is not there is what needs a disk or processes: nothing is logged, retention frees nothing (it limits what is
accepted and answered), and orders (stop, reload, protect, free) are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from mstore import config as configuration
from mstore.client.aio import AsyncClient
from mstore.client.operations import Operations
from mstore.client.sync import Client
from mstore.errors import InvalidRequest
from mstore.query import Reader
from mstore.testing.link import LocalSettings
from mstore.testing.memory import Memory

__all__ = ["LocalClient", "store"]

_NOWHERE = Path("/nonexistent/mstore.testing")


class LocalClient(Client):
    """A Client of a store in this process.

    reader  the same store as mstore.attach() gives it
    """

    def __init__(
        self, memory: Memory, ack: str = "durable", timeout: float = 30.0, cluster: str = ""
    ) -> None:
        super().__init__(_NOWHERE, ack=ack, timeout=timeout, cluster=cluster)
        self._memory = memory
        self._ops = Operations(LocalSettings(_NOWHERE, ack, timeout, cluster, memory=memory))

    @property
    def reader(self) -> Reader:
        """raises InvalidRequest when the store is gone"""
        if not self._memory.is_open:
            raise InvalidRequest("this store is gone: its block has ended")
        return self._memory.reader

    def aio(self) -> AsyncClient:
        """An AsyncClient of the same store."""
        settings = self._ops.settings
        found = AsyncClient(_NOWHERE, ack=settings.ack, timeout=settings.timeout_s, cluster=settings.cluster)
        found._ops = Operations(settings)
        return found


@contextlib.contextmanager
def store(
    config: str | configuration.Config = "", *, ack: str = "durable", timeout: float = 30.0, cluster: str = ""
) -> Iterator[LocalClient]:
    """A new, empty store, which is gone when the block ends.

    config   a configuration: TOML text, or what mstore.config.load(FILE) returns; default: every metric is registered
    ack, timeout, cluster  as mstore.connect(); all acknowledgements come at once, whatever they promise
    raises   ConfigError
    """
    parsed = configuration.parse(config) if isinstance(config, str) else config
    memory = Memory(parsed)
    client = LocalClient(memory, ack, timeout, cluster)
    try:
        yield client
    finally:
        client.close()
        memory.close()
