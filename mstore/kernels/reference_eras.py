"""The naive twin of _eras: which era a sample belongs to, and whether there is a place for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from mstore.kernels.reference_columns import FORMATS, missing
from mstore.kernels.reference_samples import recast
from mstore.limits import SERIES_SLOTS_MAX
from mstore.model import Reason

INT64_MIN = -(1 << 63)
BLANK = b"\xff" * 8
"""The missing u64, and a NaN of the others."""


@dataclass(frozen=True, slots=True)
class Era:
    """A stretch of a grid series."""

    type: int
    step_s: int
    start_s: int = INT64_MIN
    """Samples from this time on belong to it, up to the start of the next."""
    going: bool = False
    """About to be removed."""


Chain = Sequence[Era]
"""The eras of a series, the newest first."""


def latest_change(chains: Iterable[Chain]) -> int:
    """The directory's grids_changed_s: when the last era began whose type or step is not that of the one before."""
    return max(
        (
            newer.start_s
            for chain in chains
            for newer, older in pairwise(chain)
            if (newer.type, newer.step_s) != (older.type, older.step_s)
        ),
        default=0,
    )


def era_at(chain: Chain, t: int, newest_s: int) -> tuple[Era | None, int]:
    """(the era that a sample at t belongs to, None if it is going; no later time belongs to it)"""
    found = chain[0]
    for older in chain[1:]:
        if t >= found.start_s:
            break
        newest_s, found = found.start_s, older
    return None if found.going and found is not chain[0] else found, newest_s


def too_late(era: Era | None, t: int, newest_s: int) -> bool:
    return era is None or t < newest_s - era.step_s * SERIES_SLOTS_MAX


def verdict(chain: Chain, t: int, newest_s: int, changed_s: int, value: bytes) -> int:
    """0, or the Reason why there is no place for a value of the newest era's type."""
    vtype = chain[0].type
    era, last_s = era_at(chain, t, newest_s) if t < changed_s else (chain[0], newest_s)
    if era is None:
        return 0 if missing(value, vtype) else Reason.TOO_LATE
    if too_late(era, t, last_s):
        return Reason.TOO_LATE
    return 0 if missing(value, vtype) or recast(value, vtype, era.type) is not None else Reason.OUT_OF_RANGE


def fit(
    chains: Sequence[Chain], times: Sequence[int], values: bytes, vtype: int, newest_s: int, changed_s: int
) -> tuple[bytes, int, int]:
    """Of values[time][series]: (them without those that find no place, too late, out of range)."""
    width = 4 if FORMATS[vtype] == "<f" else 8
    cells = [values[i : i + width] for i in range(0, len(values), width)]
    reasons = [
        verdict(chain, t, newest_s, changed_s, cells[i * len(chains) + k])
        for i, t in enumerate(times)
        for k, chain in enumerate(chains)
    ]
    kept = b"".join(BLANK[:width] if reason else cell for cell, reason in zip(cells, reasons, strict=True))
    return kept, reasons.count(Reason.TOO_LATE), reasons.count(Reason.OUT_OF_RANGE)
