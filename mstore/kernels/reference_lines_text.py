"""The pieces of a line in plain Python: keys, fields, numbers, times. The twin of _keys and _lines_text.

The same rules as there, slow and obviously right: regular expressions in place of loops, Python's own numbers.
"""

from __future__ import annotations

import re
import struct
import unicodedata

from mstore.limits import KEY_BYTES_MAX, LINE_FIELDS_MAX, LINE_TAGS_MAX, NAME_BYTES_MAX
from mstore.model import Precision, Reason

STAMPED = 2
F32, F64, U64 = 1, 2, 3
INT64_MAX = 2**63 - 1

TAGS = {
    b"hostname": "host", b"host": "host", b"cluster": "cluster", b"type": "type", b"type-id": "type_id",
    b"stype": "subtype", b"subtype": "subtype", b"stype-id": "subtype_id", b"subtype-id": "subtype_id",
    b"unit": "unit",
}  # fmt: skip

# A separator is escaped by the byte before it, whatever stands before that.
COMMA = re.compile(rb"(?<!\\),")
SPACE = re.compile(rb"(?<!\\) ")
EQUALS = re.compile(rb"(?<!\\)=")
FIELD_KEY = re.compile(rb"((?:[^\\, =]|\\[, =]|\\(?![, =]))+)=", re.DOTALL)
STRING = re.compile(rb'"(?:[^"\\]|\\["\\]|\\(?!["\\]))*"(?=[, ]|\Z)', re.DOTALL)
BARE = re.compile(rb"[^, ]+", re.DOTALL)
DECIMAL = re.compile(rb"([+-]?)(?=\.?[0-9])([0-9]*)\.?([0-9]*)(?:[eE]([+-]?[0-9]+))?")
INTEGER = re.compile(rb"[+-]?[0-9]+i|\+?[0-9]+u")
TIME = re.compile(rb" *([0-9]+) *")


class Refused(Exception):
    """The line is not written, for this reason."""

    def __init__(self, reason: int) -> None:
        super().__init__(reason)
        self.reason = reason


# ---- keys ----


def check_name(name: bytes) -> None:
    if not name:
        raise Refused(Reason.BAD_SYNTAX)
    if len(name) > NAME_BYTES_MAX:
        raise Refused(Reason.TOO_LONG)
    try:
        text = name.decode()
    except UnicodeDecodeError:
        raise Refused(Reason.BAD_ENCODING) from None
    if any(unicodedata.category(char) == "Cc" for char in text):
        raise Refused(Reason.BAD_ENCODING)


def split_key(key: bytes) -> dict[str, bytes]:
    """The names in a key; raises Refused."""
    if len(key) > KEY_BYTES_MAX:
        raise Refused(Reason.TOO_LONG)
    measurement, *tags = COMMA.split(key)
    if SPACE.search(measurement):
        raise Refused(Reason.BAD_SYNTAX)
    parts = {"metric": re.sub(rb"\\([, ])", rb"\1", measurement)}
    check_name(parts["metric"])
    for i, tag in enumerate(tags):
        if i == LINE_TAGS_MAX:
            raise Refused(Reason.TOO_LONG)
        halves = EQUALS.split(tag)
        if len(halves) != 2 or not halves[0] or SPACE.search(tag):
            raise Refused(Reason.BAD_SYNTAX)
        name, value = (re.sub(rb"\\([, =])", rb"\1", half) for half in halves)
        part = TAGS.get(name)
        if part is not None:
            if part != "host" or value:
                check_name(value)
            parts[part] = value
    if parts.get("type") == b"node":
        del parts["type"]
        parts.pop("type_id", None)
    if not parts.get("host"):
        raise Refused(Reason.NO_HOST)
    return parts


def parse_key(key: bytes) -> tuple[int, dict[str, bytes]]:
    try:
        return 0, split_key(key)
    except Refused as refused:
        return int(refused.reason), {}


# ---- numbers and times ----


def is_number(text: bytes) -> bool:
    return bool(DECIMAL.fullmatch(text) or INTEGER.fullmatch(text))


def whole(digits: bytes) -> int:
    """int() of a sign and digits; all beyond 10^30 are the same (Python refuses very long texts)."""
    magnitude = digits.lstrip(b"+-").lstrip(b"0") or b"0"
    value = int(magnitude) if len(magnitude) <= 30 else 10**30
    return -value if digits.startswith(b"-") else value


def exact_integer(text: bytes) -> int:
    """The value of a number if it is a whole one below 10^20 and not negative, else Refused."""
    match = DECIMAL.fullmatch(text)
    if not match:
        value = whole(text[:-1])
        if value < 0 or (text.endswith(b"i") and value > INT64_MAX):
            raise Refused(Reason.OUT_OF_RANGE)
        return value
    sign, before, after, exponent = match.groups()
    digits = (before + after).lstrip(b"0")
    power = whole(exponent or b"0") - len(after) + len(digits) - len(digits.rstrip(b"0"))
    digits = digits.rstrip(b"0")
    if not digits:
        return 0
    if sign == b"-" or power < 0 or len(digits) + power > 20:
        raise Refused(Reason.OUT_OF_RANGE)
    return int(digits) * int(10**power)


def convert(text: bytes, type_: int, kind: int) -> bytes:
    """The bytes of a number's value in a series of this type; raises Refused."""
    if type_ == U64:
        value = exact_integer(text)
        if value >= 2**64 - 1:
            raise Refused(Reason.OUT_OF_RANGE)
        return struct.pack("<Q", value)
    if type_ not in (F32, F64):
        raise Refused(Reason.UNKNOWN_FIELD)
    if INTEGER.fullmatch(text):
        integer = whole(text[:-1])
        if not (-(2**63) <= integer <= INT64_MAX if text.endswith(b"i") else integer < 2**64):
            raise Refused(Reason.OUT_OF_RANGE)
        number = float(integer)
    else:
        number = float(text)
    if number in (float("inf"), float("-inf")):
        raise Refused(Reason.OUT_OF_RANGE)
    if type_ == F64 or kind == STAMPED:
        return struct.pack("<d", number)
    try:
        return struct.pack("<f", number)
    except OverflowError:
        raise Refused(Reason.OUT_OF_RANGE) from None


def parse_time(text: bytes, precision: int, now_s: int) -> int:
    """What follows the fields, as milliseconds; raises Refused."""
    if not text.strip(b" "):
        return now_s * 1000
    match = TIME.fullmatch(text)
    value = whole(match[1]) if match else INT64_MAX + 1
    if value > INT64_MAX:
        raise Refused(Reason.BAD_TIMESTAMP)
    if precision == Precision.AUTO:
        precision = 1 if value < 10**11 else 2 if value < 10**14 else 3 if value < 10**17 else 4
    ms = value * 1000 if precision == 1 else value // 1000 ** (precision - 2)
    if ms > INT64_MAX // 1000 * 1000 and precision == 1:
        raise Refused(Reason.BAD_TIMESTAMP)
    return ms


# ---- fields ----


def parse_fields(text: bytes) -> tuple[list[tuple[bytes, bytes | None]], bytes]:
    """([(raw field key, text of a number or None)], what follows the fields); raises Refused."""
    fields: list[tuple[bytes, bytes | None]] = []
    at = 0
    while True:
        if len(fields) == LINE_FIELDS_MAX:
            raise Refused(Reason.TOO_LONG)
        key = FIELD_KEY.match(text, at)
        if not key:
            raise Refused(Reason.BAD_SYNTAX)
        at = key.end()
        value = STRING.match(text, at) if text[at : at + 1] == b'"' else BARE.match(text, at)
        if not value:
            raise Refused(Reason.BAD_SYNTAX)
        fields.append((key[1], value[0] if is_number(value[0]) else None))
        at = value.end()
        if text[at : at + 1] != b",":
            return fields, text[at:]
        at += 1


def joined_key(key: bytes, field: bytes) -> bytes:
    """`measurement_field,tags`; in a measurement `=` needs no escape, a backslash before it would stay."""
    measurement, *tags = COMMA.split(key, maxsplit=1)
    return b",".join([measurement + b"_" + field.replace(b"\\=", b"="), *tags])
