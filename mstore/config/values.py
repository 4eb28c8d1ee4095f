"""Values of the configuration and their texts: durations, sizes, bounds.

Each parser takes what TOML gave and returns the value, or raises Refused with what is allowed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from decimal import Decimal

from mstore import limits
from mstore.model import FieldMode
from mstore.nearest import nearest

RING_BYTES_MIN = limits.WAL_BLOCK_BYTES_MAX
RING_BYTES_MAX = limits.GIB

_DURATION_S = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SIZE_BYTES = {
    "": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
    "KIB": limits.KIB, "MIB": limits.MIB, "GIB": limits.GIB, "TIB": limits.GIB * 1024,
}  # fmt: skip


class Refused(ValueError):
    """A value that is not allowed; its text says what is."""


def parse_duration(value: object) -> int:
    """Seconds of 90, "90s", "15m", "48h", "2d", "1h30m" or "0"."""
    allowed = 'a duration such as "90s", "15m", "48h", "7d" or "1h30m" ("0" = none)'
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**12:
        return value
    if not isinstance(value, str):
        raise Refused(allowed)
    text = value.replace(" ", "")
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    if not re.fullmatch(r"([0-9]{1,12}[smhdw])+", text):
        raise Refused(allowed)
    return sum(int(number) * _DURATION_S[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))


def duration(value: object) -> int:
    """Seconds, as a configuration says them: with a unit, since 48 may have been meant to be hours; "0" and 0 = none."""
    found = parse_duration(value)
    if found and (isinstance(value, int) or str(value).strip().isdecimal()):
        raise Refused(f'a duration with its unit, such as "{value}s" or "{value}h"')
    return found


def format_duration(seconds: int) -> str:
    """The shortest exact text that parse_duration reads back: 5400 -> "90m", 172800 -> "2d"."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _DURATION_S[unit] == 0 and (unit != "d" or seconds >= 3 * 86400):
            return f"{seconds // _DURATION_S[unit]}{unit}"
    return f"{seconds}s" if seconds else "0"


def longest_s(periods_s: Collection[int]) -> int:
    """Of several periods; 0 = for ever, which is longer than any other."""
    return 0 if 0 in periods_s else max(periods_s, default=0)


def shortest_s(periods_s: Collection[int]) -> int:
    """Of several periods; 0 = for ever, if none of them ends."""
    return min((period for period in periods_s if period), default=0)


def parse_size(value: object) -> int:
    """Bytes of 4096, "64MiB", "4GiB", "500MB" or "0"; MB and GB are decimal."""
    allowed = 'a size such as "64MiB", "4GiB" or "500MB" ("0" = none)'
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15:
        return value
    text = value.strip() if isinstance(value, str) else ""
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([A-Za-z]*)", text)
    if match is None or match[2].upper() not in _SIZE_BYTES:
        raise Refused(allowed)
    return int(Decimal(match[1]) * _SIZE_BYTES[match[2].upper()])


def format_size(n_bytes: int) -> str:
    """The shortest exact binary text: 4294967296 -> "4GiB"."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        factor = _SIZE_BYTES[unit.upper()]
        if n_bytes and n_bytes % factor == 0:
            return f"{n_bytes // factor}{unit}"
    return str(n_bytes)


def whole(low: int, high: int, meaning: str = "") -> Callable[[object], int]:
    def parse(value: object) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise Refused(f"a whole number from {low} to {high}{meaning}")
        return value

    return parse


def bounded(parse: Callable[[object], int], low: int, high: int, meaning: str) -> Callable[[object], int]:
    def bounded(value: object) -> int:
        found = parse(value)
        if not low <= found <= high:
            raise Refused(meaning)
        return found

    return bounded


def one_of(*choices: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if not isinstance(value, str) or value not in choices:
            near = nearest(value, choices) if isinstance(value, str) else ""
            hint = f'; did you mean "{near}"?' if near else ""
            raise Refused(" or ".join(f'"{choice}"' for choice in choices) + hint)
        return value

    return parse


def boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise Refused("true or false")
    return value


def field_mode(value: object) -> FieldMode:
    return FieldMode[one_of("value", "join")(value).upper()]


def ring_bytes(value: object) -> int:
    found = parse_size(value)
    if not RING_BYTES_MIN <= found <= RING_BYTES_MAX or found & (found - 1):
        raise Refused(f"a power of two from {format_size(RING_BYTES_MIN)} to {format_size(RING_BYTES_MAX)}")
    return found


def unit(value: object) -> str:
    if not isinstance(value, str) or len(value.encode()) > limits.NAME_BYTES_MAX or not value.isprintable():
        raise Refused(f"a text of at most {limits.NAME_BYTES_MAX} bytes without control characters")
    return value


def file_name(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise Refused('the name of a file ("" = none)')
    return value


def path_text(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise Refused('the name of a directory such as "/data/archive"')
    return value


def paths(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
        raise Refused('a list of file names such as ["fritz.json"]')
    return tuple(value)
