"""The pure array kernels in use: compiled, or their naive twins when MSTORE_KERNELS=reference asks for them.

Only what takes arrays and gives arrays can be exchanged; rings, links and positions are always compiled, because
Python cannot order its stores. For debugging: an answer that differs between the two is a bug in one of them.
"""

from __future__ import annotations

import os
from importlib import import_module
from types import ModuleType

from mstore.errors import ConfigError

CHOICE = os.environ.get("MSTORE_KERNELS", "compiled")


def _chosen(name: str) -> ModuleType:
    if CHOICE not in ("compiled", "reference"):
        raise ConfigError(f"MSTORE_KERNELS={CHOICE!r}: allowed are compiled and reference")
    return import_module(f"mstore.kernels.{'reference' if CHOICE == 'reference' else ''}_{name}")


aggregate = _chosen("aggregate")
ccms_wal = _chosen("ccms_wal")
resample = _chosen("resample")
row_statistics = _chosen("row_statistics")
statistics = _chosen("statistics")
