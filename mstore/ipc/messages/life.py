"""Messages about the life of the data: protected hosts and freeing (control.sock), sizes and chunks (query.sock)."""

from __future__ import annotations

from typing import Any, ClassVar

from mstore import limits
from mstore.ipc import checks
from mstore.ipc.checks import Bin
from mstore.ipc.messages.base import Message, message


@message
class Protect(Message):
    """Keep the data of these hosts past retention -> Done {protected, unknown, n_unknown}: how many hosts are, by
    anybody; the first of the names that are no host of the cluster today, and how many are not.

    until_s  Unix seconds; 2^63 - 1 = until it is taken back; 0 = take it back
    """

    MANY: ClassVar[bool] = True
    cluster: str
    hosts: list[str]
    until_s: int
    deadline_ms: int = 0


@message
class Free(Message):
    """Free whole chunks that end by a time, of all that hangs below the selected levels -> Done {chunks, samples,
    series, levels}. exclude: levels that keep theirs."""

    selectors: list[str]
    before_s: int
    exclude: list[str]
    deadline_ms: int = 0


@message
class ForceFree(Message):
    """Free the oldest chunk of every series below the selected levels -> Done, as of Free."""

    selectors: list[str]
    exclude: list[str]
    deadline_ms: int = 0


@message
class Protected(Message):
    """The hosts that are protected now -> Names: [cluster, host] each."""

    deadline_ms: int = 0


@message
class Sizes(Message):
    """What levels hold, all below them included -> SizeList. Those of a selector; "" = all of so many names."""

    selector: str
    depth: int = 1
    deadline_ms: int = 0


@message
class SizeList(Message):
    """paths: names from the cluster down, a list for each level. sizes: u64[n, 4], bytes, chunks, series, samples."""

    MANY: ClassVar[bool] = True
    paths: list[list[Any]]
    sizes: Bin


@message
class DebugDump(Message):
    """The chunks below the selected levels -> Text: JSON in the shape of the reference's debug dump."""

    selector: str
    deadline_ms: int = 0


@message
class Text(Message):
    """UTF-8."""

    text: Bin


RULES: checks.Rules = {
    ("Protect", "until_s"): checks.between(0, 2**63 - 1),
    ("Free", "before_s"): checks.between(-(2**62), 2**62),
    ("Sizes", "depth"): checks.between(1, limits.PATH_DEPTH_MAX),
}
"""Checks beyond the type, by (message, field)."""
