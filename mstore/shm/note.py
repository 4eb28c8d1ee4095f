"""The note beside a running store's memory: which segments are its own.

DIR/run/instance.json  {"instance": 1234, "segments": {"control": NAME, "directory": NAME, "samples": NAME, ...}}
"""

from __future__ import annotations

import json
from pathlib import Path

from mstore.errors import CorruptRecord
from mstore.shm import layout

INSTANCE_FILE = "instance.json"

KINDS = {
    "control": layout.SEG_CONTROL,
    "directory": layout.SEG_DIRECTORY,
    "samples": layout.SEG_SAMPLES,
}
"""Those that a reader needs."""


def read_note(path: Path) -> tuple[int, dict[str, str]]:
    """(instance, role -> name of every segment) as a note says; those of KINDS are there. raises OSError, CorruptRecord"""
    text = path.read_bytes()
    try:
        content = json.loads(text)
        instance, names = content["instance"], dict(content["segments"])
        missing = [what for what in KINDS if what not in names]
    except (ValueError, KeyError, TypeError) as error:
        raise CorruptRecord(f"{path} does not say which segments to read: {error}", path=str(path)) from error
    if missing or not isinstance(instance, int) or not all(isinstance(name, str) for name in names.values()):
        raise CorruptRecord(f"{path} does not say which segments to read", path=str(path))
    return instance, names
