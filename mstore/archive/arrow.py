"""pyarrow, loaded by whoever needs the archive's files and by nobody else; without it one clear line."""

from __future__ import annotations

from mstore.errors import ArchiveError

INSTALL = "the archive needs pyarrow: pip install 'mstore[archive]'"

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ArchiveError(INSTALL) from error

__all__ = ["INSTALL", "pa", "pc", "pq"]
