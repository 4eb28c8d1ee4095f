"""What lost blocks of the log held, as their damaged bytes still read.

A place where a block is missing may also hold what a recycled file has kept of its earlier use, and blocks that are dead
because a later segment begins before them. So a block counts only if its header still says that it is one of the lost
ones, and the names of the segments say that it was live there.
"""

from __future__ import annotations

from pathlib import Path

from mstore.persistence.blocks import BLOCK_HEADER_BYTES, said_by
from mstore.persistence.files import WAL_SUFFIX, Files, number_of
from mstore.persistence.replay import Damage
from mstore.persistence.tally import Tally


def still_read(files: Files, damage: Damage) -> Tally:
    """Samples, series, times and definitions that the bytes of `damage` look like; nothing where they do not."""
    tally = Tally()
    counted: set[int] = set()
    for path, offset, n_bytes in damage.places:
        first_seq, stop_seq = _span(files, Path(path))
        lost = range(max(damage.first_seq, first_seq), min(damage.last_seq + 1, stop_seq))
        text = memoryview(files.read(Path(path)))[offset : offset + n_bytes]
        _count(text, lost, counted, tally)
    return tally


def _span(files: Files, path: Path) -> tuple[int, int]:
    """Sequences that are live in a segment, as the names of all tell: the first, and the one behind the last."""
    numbers = [n for name in files.list(path.parent) if (n := number_of(name, WAL_SUFFIX)) is not None]
    first = number_of(path.name, WAL_SUFFIX) or 0
    return first, min((n for n in numbers if n > first), default=1 << 64)


def _count(text: memoryview, lost: range, counted: set[int], tally: Tally) -> None:
    """As long as lengths lead from one block to the next."""
    at = 0
    while at + BLOCK_HEADER_BYTES < len(text):
        seq, length = said_by(text[at : at + BLOCK_HEADER_BYTES])
        body = at + BLOCK_HEADER_BYTES
        if not length or length % 8 or body + length > len(text):
            return
        if seq in lost and seq not in counted:
            counted.add(seq)
            tally.add(text[body : body + length])
        at = body + length
