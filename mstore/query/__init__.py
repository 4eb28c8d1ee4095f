"""Queries over mapped segments: selector, metric and range in, Series out.

Loaded when first used: the persister needs the pieces of it that find levels, and starts sooner without the rest.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mstore.query.plan import Request
    from mstore.query.reader import Reader

__all__ = ["Reader", "Request"]

_MODULES = {"Reader": "mstore.query.reader", "Request": "mstore.query.plan"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'mstore.query' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)
