"""Where the archive has what, and how names that came from senders become names of directories and of scopes.

    ARCHIVE/cluster=fritz/day=2026-01-02/part-0000000017.parquet              samples
    ARCHIVE/_tables/series/cluster=fritz/day=2026-01-02/part-0000000017.parquet     which series they belong to
    ARCHIVE/_tables/metrics/cluster=fritz/day=2026-01-02/part-0000000017.parquet    how their metrics were defined
    ARCHIVE/_tables/task_events/cluster=fritz/...
    ARCHIVE/_manifest/cluster=fritz.json                                      which parts there are
    ARCHIVE/_manifest/lock                                                    held (flock) by whoever writes
    ARCHIVE/_tmp/                                                             files on their way

Readers of data sets pass over what begins with an underscore, so all that they find is samples, and whole.
"""

from __future__ import annotations

import hashlib
import re
from datetime import date
from pathlib import Path
from urllib.parse import quote

from mstore.compat.names import SCOPED, scope
from mstore.limits import NAME_BYTES_MAX

INSTALL = "the archive needs pyarrow: pip install 'mstore[archive]'"
DAY_S = 86_400
SAMPLES, SERIES, METRICS, TASK_EVENTS = "samples", "series", "metrics", "task_events"
TABLES = (SERIES, METRICS, TASK_EVENTS)
"""Those beside the samples."""

_EPOCH_ORDINAL = date(1970, 1, 1).toordinal()
_NAME_BYTES = 150
"""Of an encoded name; with the rest of it the file's name stays below what file systems allow."""
_PART = re.compile(r"part-(\d{10})\.parquet")
_CLUSTER_PREFIX, _DAY_PREFIX = "cluster=", "day="


def partition(name: str) -> str:
    """A name as part of a directory's name: all but letters, digits, - and _ percent-encoded.

    One that would be too long ends with a digest instead: its files still say it whole, in the column `cluster`.
    """
    text = quote(name, safe="").replace(".", "%2E").replace("~", "%7E")
    if len(text) <= _NAME_BYTES:
        return text
    digest = hashlib.sha256(name.encode()).hexdigest()[:32]
    return re.sub("%.?$", "", text[: _NAME_BYTES - 33]) + "~" + digest


def cluster_dir(root: Path, cluster: str, table: str = SAMPLES) -> Path:
    folder = root if table == SAMPLES else root / "_tables" / table
    return folder / f"{_CLUSTER_PREFIX}{partition(cluster)}"


def day_dir(root: Path, cluster: str, day: int, table: str = SAMPLES) -> Path:
    return cluster_dir(root, cluster, table) / f"{_DAY_PREFIX}{day_text(day)}"


def part_path(root: Path, cluster: str, day: int, part: int, table: str = SAMPLES) -> Path:
    return day_dir(root, cluster, day, table) / f"part-{part:010d}.parquet"


def part_number(name: str) -> int | None:
    """The number of a part by its file's name; None for any other file, which is left alone."""
    found = _PART.fullmatch(name)
    return int(found[1]) if found else None


def manifest_dir(root: Path) -> Path:
    return root / "_manifest"


def manifest_path(root: Path, cluster: str) -> Path:
    return manifest_dir(root) / f"{_CLUSTER_PREFIX}{partition(cluster)}.json"


def lock_path(root: Path) -> Path:
    return manifest_dir(root) / "lock"


def tmp_dir(root: Path) -> Path:
    return root / "_tmp"


def day_of(t_s: int) -> int:
    """Days since 1970-01-01 (UTC)."""
    return t_s // DAY_S


def day_text(day: int) -> str:
    return date.fromordinal(_EPOCH_ORDINAL + day).isoformat()


def day_number(name: str) -> int | None:
    """The day of a directory's name `day=2026-01-02`; None for any other name."""
    try:
        return date.fromisoformat(name.removeprefix(_DAY_PREFIX)).toordinal() - _EPOCH_ORDINAL
    except ValueError:
        return None


# --- scopes


def scope_of(type: str, type_id: str) -> tuple[str, str]:
    """(scope, id) of a level; ids that begin with a letter, too, which a whole name does not tell from the type.

    `cpu` is another word for hwthread. A level of another kind is a scope without an id: its whole name.
    """
    if type in SCOPED and type_id:
        return scope(f"{type}0")[0], type_id
    return scope(type + type_id)


assert _NAME_BYTES + len(_CLUSTER_PREFIX) + len(".json.tmp") < NAME_BYTES_MAX
