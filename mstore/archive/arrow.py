"""pyarrow, loaded by whoever needs the archive's files and by nobody else; without it one clear line."""

from __future__ import annotations

from pathlib import Path

from crc32c import crc32c

from mstore.archive.names import INSTALL
from mstore.errors import ArchiveError

try:
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq
except ImportError as error:
    raise ArchiveError(INSTALL) from error

_TAIL_BYTES = 8
_MAGIC = b"PAR1"


def footer_checksum(path: Path) -> int:
    """crc32c of a file's footer, its length and the magic that ends it.

    raises  OSError; ValueError when there is no footer
    """
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - _TAIL_BYTES))
        tail = file.read()
        n_bytes = int.from_bytes(tail[:4], "little")
        if tail[4:] != _MAGIC or n_bytes + _TAIL_BYTES > size:
            raise ValueError("the file has no footer: it is cut short, or no Parquet")
        file.seek(size - _TAIL_BYTES - n_bytes)
        return int(crc32c(file.read()))


__all__ = ["footer_checksum", "pa", "pc", "pq"]
