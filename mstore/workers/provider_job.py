"""What the process that asks who is protected is told: apart from that process, so that the persister loads no HTTP."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class ProviderJob:
    """What is asked of whom; see config/protect.py. Names of files are whole paths."""

    store_dir: str
    parent_pid: int
    file: str
    url: str
    token_file: str
    interval_s: int
    retention_s: int
    """The shortest there is: who is used since before it is in danger. 0 = nobody is yet, so all that run are asked for."""
    lock_inode: tuple[int, int] | None = None
    """(st_dev, st_ino) of DIR/lock as the store took it."""

    def to_json(self) -> str:
        return json.dumps(asdict(self))
