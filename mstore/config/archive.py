"""The table [archive]: whether data that leaves memory is kept as Parquet, where, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from mstore.config.setting import Section, Setting
from mstore.config.values import (
    Refused,
    bounded,
    duration,
    format_duration,
    format_size,
    one_of,
    parse_size,
    path_text,
    whole,
)
from mstore.limits import KIB

MODES = ("off", "archive", "delete")
INTERVAL_S_MIN, INTERVAL_S_MAX = 10, 7 * 86400
BYTES_MIN = 64 * KIB
"""Of a bound: the files of one day have some kilobytes, however little is in them."""


@dataclass(frozen=True, slots=True)
class Archive:
    """What becomes of data that leaves memory."""

    mode: str = "off"
    """off: it is gone, and no archive is read. archive: it is written to the archive first, and queries read it back.
    delete: it is gone; an archive that was written before is read and stays within max_bytes."""
    directory: str = "archive"
    """Of the archive; a relative name is one in DIR."""
    interval_s: int = 3600
    """Seconds between two passes: what retention wants to free waits so long for the next one."""
    max_bytes: int = 0
    """Of the whole archive: beyond, the oldest days are deleted; 0 = no bound."""
    compression_level: int = 3
    """Of zstd."""

    @property
    def writes(self) -> bool:
        return self.mode == "archive"

    @property
    def reads(self) -> bool:
        return self.mode != "off"


def _bound(value: object) -> int:
    found = parse_size(value)
    if 0 < found < BYTES_MIN:
        raise Refused(f'"0" (no bound) or a size of at least "{format_size(BYTES_MIN)}"')
    return found


SECTION = Section(
    "archive",
    Archive,
    {
        "mode": Setting("mode", one_of(*MODES)),
        "directory": Setting("directory", path_text),
        "interval": Setting(
            "interval_s",
            bounded(duration, INTERVAL_S_MIN, INTERVAL_S_MAX, 'a duration from "10s" to "7d"'),
            format_duration,
        ),
        "max_bytes": Setting("max_bytes", _bound, format_size),
        "compression_level": Setting("compression_level", whole(1, 22, " (of zstd)")),
    },
)
