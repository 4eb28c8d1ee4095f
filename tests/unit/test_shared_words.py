"""ARCHITECTURE.md's tables of shared words are complete: whoever adds a word to the layout says who writes it, and when.

A word is named there by itself, unless it never changes once others can see it (CONSTANT, below).
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mstore.shm import layout

TEXT = (Path(__file__).resolve().parents[2] / "ARCHITECTURE.md").read_text()
SECTION = re.search(r"^## 4\. Shared words\n(.*?)^## 5\.", TEXT, re.MULTILINE | re.DOTALL)
assert SECTION is not None
NAMED = set(re.findall(r"`(\w+)`", SECTION[1])) | set(re.findall(r"\b((?:STORE_)?[A-Z_]{4,})\b", SECTION[1]))

CONSTANT = {
    "header": {"magic", "kind", "layout_version", "fingerprint", "instance", "boot_id", "reserved_bytes", "created_ns"},
    "directory": {"hash_seed", "max_series"},
    "level": {
        "parent", "name", "name_len", "type_len", "cluster", "metadata", "generation", "depth",
    },
    "series": {"anchor_s", "step_s", "level", "metric", "first_key", "idle_n"},
    "key": {"hash", "index", "default_cluster", "next_key", "len", "type", "kind", "step_s"},
    "chunk": {
        "series", "generation", "n", "anchor_s", "step_s", "kind", "type", "size_class", "n_columns", "capacity",
        "reserved", "flags",
    },
}  # fmt: skip
"""Written before the word that publishes them: header, `n_levels`, `n_series`, table slots, links."""
GROUPS = {"regions": "region's", "tables": "table word", "counters": "worker's counters", "prev_slot": "prev_",
          "prev_generation": "prev_", "next_slot": "next_", "next_generation": "next_"}  # fmt: skip
"""Fields that the tables name by another word."""
DTYPES = {
    "header": layout.SEGMENT_HEADER,
    "worker": layout.WORKER,
    "directory": layout.DIRECTORY,
    "level": layout.LEVEL,
    "series": layout.SERIES,
    "key": layout.KEY,
    "chunk": layout.CHUNK,
}


@pytest.mark.parametrize("name", DTYPES)
def test_every_word_that_changes_is_in_the_tables(name: str) -> None:
    fields = set(DTYPES[name].names or ())
    constant = CONSTANT.get(name, set())
    assert constant <= fields, "constants are fields"
    missing = [
        field
        for field in fields - constant
        if field not in NAMED and GROUPS.get(field, "\0") not in SECTION[1]  # type: ignore[index]  # it is there
    ]
    assert missing == []


def test_every_word_of_control_and_rings_is_in_the_tables() -> None:
    words = [
        name for name in vars(layout) if re.fullmatch(r"STORE_[A-Z_]+|RING_(HEAD|DRAINED|DURABLE)", name)
    ]
    assert len(words) >= 11
    assert [name for name in words if name.removeprefix("RING_") not in NAMED] == []


def test_what_the_tables_name_exists() -> None:
    """A word that was renamed or dropped leaves no row behind."""
    known = {field for dtype in layout._ALL for field in dtype.names or ()}
    known |= {name.removeprefix("RING_") for name in vars(layout)}
    rows = [row.split("|")[1] for row in SECTION[1].splitlines() if row.startswith("|")]  # type: ignore[index]  # as above
    named = {word for row in rows for word in re.findall(r"`(\w+)`", row)}
    assert named - known - {"prev_", "next_"} == set()
