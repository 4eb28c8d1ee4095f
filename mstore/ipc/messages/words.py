"""What fields may say where they choose from a few: words, and numbers of types."""

from __future__ import annotations

from typing import Final

ROLES: Final = ("ingest", "query", "control", "worker")
ACKS: Final = ("durable", "memory")
PRECISIONS: Final = ("", "auto", "s", "ms", "us", "ns")
"""Unit of timestamps; "auto": told apart by magnitude; "": in Hello the same, in Lines that of Hello."""
MEMORY: Final = ("", "keep", "free")
"""What a stop or a restart does with the shared memory."""

HANDLE_NONE: Final = 0xFFFF_FFFF
"""In Opened.handles: this series cannot be written as things are; Opened.errors says why."""
TYPE_F32, TYPE_F64, TYPE_U64 = 1, 2, 3
"""Numbers of the value types in Opened.types and Columns.type."""
TYPE_BYTES: Final = {TYPE_F32: 4, TYPE_F64: 8, TYPE_U64: 8}
