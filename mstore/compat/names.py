"""Names of levels: the reference joins type and id (socket0), mstore keeps them apart (socket, 0).

Where a name has to be taken apart again, a store that has the level already knows best; else the known types do, else
digits at the end are the id. Nothing of a name is ever lost: type followed by id is the name again.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

Part = tuple[str, str]
"""A level's type and id."""

NUMBERED = ("socket", "memoryDomain", "core", "hwthread", "cpu", "die", "llc", "nvlink", "mig")
"""Types whose ids are numbers: what follows must begin with a digit, so that `corefreq` is no core."""
NAMED = ("accelerator", "network", "filesystem", "disk")
"""Types with ids of any form: 00000000:49:00.0, enp1s0, /home, /dev/nvme0."""

_SCOPES = {"cpu": "hwthread"}
SCOPED = ("socket", "memoryDomain", "core", "hwthread", "cpu", "accelerator")
_DIGITS_LAST = re.compile(r"(\D*?)(\d*)", re.ASCII | re.DOTALL)


def split(name: str, known: Mapping[str, Part] | None = None, types: Iterable[str] = ()) -> Part:
    """(type, id) of a level's name.

    known  levels that exist already, by name
    types  further types whose ids may have any form
    """
    if known is not None and name in known:
        return known[name]
    found = ""
    for kind in (*NUMBERED, *NAMED, *types):
        rest = name.removeprefix(kind)
        fits = rest != name and (kind not in NUMBERED or not rest or rest[0].isdecimal())
        if fits and len(kind) > len(found):
            found = kind
    if found:
        return found, name[len(found) :]
    match = _DIGITS_LAST.fullmatch(name)
    return (match[1], match[2]) if match is not None else (name, "")


def scope(name: str) -> Part:
    """(scope, scope_id) that the reference's Parquet archive gives a level's name; its own list of prefixes."""
    for kind in SCOPED:
        rest = name.removeprefix(kind)
        if rest != name and rest[:1].isdecimal() and rest.isascii():
            return _SCOPES.get(kind, kind), rest
    return name, ""


def is_directory_name(name: str) -> bool:
    """Whether a cluster or host may name a directory as the reference does: not beyond it, and not hidden in it."""
    return bool(name) and not re.search(r"[/\\\0]|\.\.", name) and name != "." and len(name.encode()) <= 255
