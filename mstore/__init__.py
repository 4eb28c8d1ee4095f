"""mstore: an in-memory metric store for HPC centres.

    client = mstore.connect()                 a store's Unix sockets: write, put, writer, query, ...
    reader = mstore.attach(DIR)               the same queries straight from shared memory, read-only

Everything is imported on first use, so that `import mstore` costs nothing worth measuring.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mstore import errors
    from mstore.attach import Attached, attach
    from mstore.client.aio import AsyncClient, connect_async
    from mstore.client.questions import Question
    from mstore.client.sync import Client, connect
    from mstore.conversions import long_table, side_by_side
    from mstore.errors import MstoreError
    from mstore.frames import Series
    from mstore.jobs import Job
    from mstore.model import MetricSpec, SeriesPath
    from mstore.paths import default_dir

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "Attached",
    "Client",
    "Job",
    "MetricSpec",
    "MstoreError",
    "Question",
    "Series",
    "SeriesPath",
    "__version__",
    "attach",
    "connect",
    "connect_async",
    "default_dir",
    "errors",
    "long_table",
    "side_by_side",
]

_HOMES = {
    "AsyncClient": "mstore.client.aio",
    "Attached": "mstore.attach",
    "Client": "mstore.client.sync",
    "Job": "mstore.jobs",
    "MetricSpec": "mstore.model",
    "MstoreError": "mstore.errors",
    "Question": "mstore.client.questions",
    "Series": "mstore.frames",
    "SeriesPath": "mstore.model",
    "attach": "mstore.attach",
    "connect": "mstore.client.sync",
    "connect_async": "mstore.client.aio",
    "default_dir": "mstore.paths",
    "long_table": "mstore.conversions",
    "side_by_side": "mstore.conversions",
}


def __getattr__(name: str) -> Any:
    if name == "errors":
        return import_module("mstore.errors")
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'mstore' has no attribute {name!r}")
    value = getattr(import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)


class _Package(ModuleType):
    """Keeps mstore.attach the function: importing the module of that name would bind the module here."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "attach" and isinstance(value, ModuleType):
            value = value.attach
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
