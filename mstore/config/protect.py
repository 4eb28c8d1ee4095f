"""The table [protect]: who says which hosts keep their data past retention."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from mstore.config.setting import Section, Setting
from mstore.config.values import Refused, bounded, duration, file_name, format_duration

INTERVAL_S_MIN, INTERVAL_S_MAX = 5, 86_400


@dataclass(frozen=True, slots=True)
class Protect:
    """Hosts in a file, or those that ClusterCockpit says are used; both, or none of it."""

    file: str = ""
    """JSON {cluster: [hosts]}, read when it changes; "" = none. Relative to the configuration file."""
    url: str = ""
    """Of ClusterCockpit; /api/jobs/used_nodes is asked there. "" = none."""
    token_file: str = ""
    """Holds the bearer token; "" = none is sent. Read before every question."""
    interval_s: int = 60
    """Between two questions."""


def _url(value: object) -> str:
    text = value if isinstance(value, str) else ""
    parts = urlsplit(text)
    plain = not (parts.username or parts.password or parts.query or parts.fragment)
    if text and (parts.scheme not in ("http", "https") or not parts.hostname or not plain):
        raise Refused(
            'the address of ClusterCockpit, such as "https://cc.example.org", without user and query'
        )
    return text.rstrip("/")


SECTION = Section(
    "protect",
    Protect,
    {
        "file": Setting("file", file_name),
        "url": Setting("url", _url),
        "token_file": Setting("token_file", file_name),
        "interval": Setting(
            "interval_s",
            bounded(duration, INTERVAL_S_MIN, INTERVAL_S_MAX, 'a duration from "5s" to "24h"'),
            format_duration,
        ),
    },
)
