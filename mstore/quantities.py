"""Durations and sizes, and their texts: "48h" is 172800 s, "64MiB" is 67108864 bytes."""

from __future__ import annotations

import re
from decimal import Decimal

from mstore import limits

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
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    if not isinstance(value, str):
        raise Refused(allowed)
    text = value.replace(" ", "")
    if re.fullmatch(r"[0-9]{1,12}", text):
        return int(text)
    if not re.fullmatch(r"([0-9]{1,12}[smhdw])+", text):
        raise Refused(allowed)
    return sum(int(number) * _DURATION_S[unit] for number, unit in re.findall(r"([0-9]+)([smhdw])", text))


def format_duration(seconds: int) -> str:
    """The shortest exact text that parse_duration reads back: 5400 -> "90m", 172800 -> "2d"."""
    for unit in ("d", "h", "m"):
        if seconds and seconds % _DURATION_S[unit] == 0 and (unit != "d" or seconds >= 3 * 86400):
            return f"{seconds // _DURATION_S[unit]}{unit}"
    return f"{seconds}s" if seconds else "0"


def parse_size(value: object) -> int:
    """Bytes of 4096, "64MiB", "4GiB", "500MB" or "0"; MB and GB are decimal."""
    allowed = 'a size such as "64MiB", "4GiB" or "500MB" ("0" = none)'
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
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
