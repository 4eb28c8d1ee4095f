"""The table [export]: whether the store writes ClusterCockpit's files now and then, which, and how long they stay."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from mstore.config.setting import Section, Setting
from mstore.config.values import Refused, bounded, duration, format_duration, one_of

FORMATS = ("bin", "json", "wal", "parquet")
INTERVAL_S_MIN, INTERVAL_S_MAX = 60, 7 * 86400


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """An export of the last interval, and of the one before once more, each time an interval has ended."""

    format: str = "bin"
    directory: str = ""
    """Where to; a relative name is one in DIR. Empty: there are no exports."""
    interval_s: int = 12 * 3600
    """Also the window of one file; a log holds all that is kept."""
    keep_s: int = 0
    """Files whose window ended longer ago are removed; 0 = none is."""

    def target(self, store_dir: Path) -> Path:
        return store_dir / self.directory


def _directory(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused('the name of a directory such as "/data/checkpoints" ("" = no exports)')
    return value


SECTION = Section(
    "export",
    ExportSettings,
    {
        "format": Setting("format", one_of(*FORMATS)),
        "directory": Setting("directory", _directory),
        "interval": Setting(
            "interval_s",
            bounded(duration, INTERVAL_S_MIN, INTERVAL_S_MAX, 'a duration from "1m" to "7d"'),
            format_duration,
        ),
        "keep": Setting("keep_s", duration, format_duration),
    },
)
