"""What a decoded field must look like. A check returns "" or what is wrong, without the field's name.

Values are shown by type and never in full: they come from a stranger and may be large.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain
from typing import Any

from mstore.ipc.framing import Buffer

Bin = bytes | bytearray | memoryview
"""Raw bytes: `bin` in msgpack. To encode, anything contiguous; decoded, bytes or a view of the body."""
Check = Callable[[Any], str]
Rules = dict[tuple[str, str], Check]
"""By (message, field)."""

PATH_PARTS = 7
ANSWER_PARTS = 7
_BIN_TYPES = frozenset((bytes, bytearray, memoryview))


def kind(value: Any) -> str:
    return "nil" if value is None else type(value).__name__


def _exactly(wanted: type, called: str) -> Check:
    def check(value: Any) -> str:
        return "" if type(value) is wanted else f"{kind(value)}, expected {called}"

    return check


def _or_none(inner: Check) -> Check:
    return lambda value: "" if value is None else inner(value)


def between(low: int, high: int) -> Check:
    """An integer in [low, high]."""

    def check(value: Any) -> str:
        if type(value) is not int:
            return f"{kind(value)}, expected an integer"
        return "" if low <= value <= high else f"{value}, expected {low} to {high}"

    return check


def one_of(*allowed: str) -> Check:
    def check(value: Any) -> str:
        return "" if type(value) is str and value in allowed else f"expected one of {', '.join(allowed)}"

    return check


def _number(value: Any) -> str:
    return "" if type(value) in (int, float) else f"{kind(value)}, expected a number"


def _bin(value: Any) -> str:
    return "" if type(value) in _BIN_TYPES else f"{kind(value)}, expected bin"


def _list_of(wanted: type, called: str) -> Check:
    def check(value: Any) -> str:
        if type(value) is not list:
            return f"{kind(value)}, expected an array"
        return "" if set(map(type, value)) <= {wanted} else f"expected an array of {called}"

    return check


def _dict_of_counts(value: Any) -> str:
    if type(value) is not dict:
        return f"{kind(value)}, expected a map"
    if set(map(type, value)) <= {str} and set(map(type, value.values())) <= {int}:
        return ""
    return "expected a map from names to integers"


def _dict(value: Any) -> str:
    if type(value) is not dict:
        return f"{kind(value)}, expected a map"
    return "" if set(map(type, value)) <= {str} else "expected names as keys"


def _ids(value: Any) -> str:
    return "" if type(value) is str else _list_of(str, "strings")(value)


def paths(value: Any) -> str:
    """[cluster, host, metric, type, type_id, subtype, subtype_id] each."""
    if type(value) is not list:
        return f"{kind(value)}, expected an array"
    if not set(map(type, value)) <= {list} or not set(map(len, value)) <= {PATH_PARTS}:
        return f"expected an array of arrays of {PATH_PARTS}"
    return "" if set(map(type, chain.from_iterable(value))) <= {str} else "expected strings as path parts"


def _spec(value: Any) -> bool:
    if value is None:
        return True
    if type(value) is not list or len(value) != 5:
        return False
    step_s, aggregation, type_name, unit, columns = value
    if type(step_s) is not int or not 0 <= step_s < 2**31:
        return False
    if not (type(aggregation) is type(type_name) is type(unit) is str) or type(columns) is not list:
        return False
    return all(type(one) is list and len(one) == 2 and set(map(type, one)) == {str} for one in columns)


def specs(value: Any) -> str:
    if value is None:
        return ""
    if type(value) is not list:
        return f"{kind(value)}, expected an array or nil"
    if all(map(_spec, value)):
        return ""
    return "expected nil or [step_s, aggregation, type, unit, [[column, type], ...]] for each"


def open_errors(value: Any) -> str:
    if type(value) is not list:
        return f"{kind(value)}, expected an array"
    good = all(
        type(one) is list and len(one) == 2 and type(one[0]) is int and type(one[1]) is str for one in value
    )
    return "" if good else "expected [index, reason] each"


def _answer_entry(value: Any) -> bool:
    if type(value) is not list or len(value) < ANSWER_PARTS:
        return False
    meta, values, dtype, start, step, coverage, stamps = value[:ANSWER_PARTS]
    return (
        type(meta) is dict
        and type(values) is bytes
        and type(dtype) is str
        and type(start) is int
        and type(step) is int
        and (coverage is None or type(coverage) is bytes)
        and (stamps is None or type(stamps) is bytes)
    )


def answer_entries(value: Any) -> str:
    if type(value) is not list:
        return f"{kind(value)}, expected an array"
    if all(map(_answer_entry, value)):
        return ""
    return "expected [meta, values, dtype, start, step, coverage, stamps] each"


BY_ANNOTATION: dict[str, Check] = {
    "int": between(-(2**63), 2**64 - 1),
    "int | None": _or_none(between(-(2**63), 2**63 - 1)),
    "bool": _exactly(bool, "a boolean"),
    "float": _number,
    "str": _exactly(str, "a string"),
    "str | None": _or_none(_exactly(str, "a string or nil")),
    "str | list[str] | None": _or_none(_ids),
    "Bin": _bin,
    "list[Any]": _exactly(list, "an array"),
    "list[str]": _list_of(str, "strings"),
    "list[list[Any]]": _list_of(list, "arrays"),
    "list[dict[str, Any]]": _list_of(dict, "maps"),
    "dict[str, int]": _dict_of_counts,
    "dict[str, Any]": _dict,
}


# Types whose every value passes a check: most fields need no call so.
GOOD_TYPES: dict[Check, frozenset[type]] = {
    BY_ANNOTATION["bool"]: frozenset((bool,)),
    BY_ANNOTATION["float"]: frozenset((int, float)),
    BY_ANNOTATION["str"]: frozenset((str,)),
    BY_ANNOTATION["str | None"]: frozenset((str, type(None))),
    BY_ANNOTATION["str | list[str] | None"]: frozenset((str, type(None))),
    BY_ANNOTATION["Bin"]: _BIN_TYPES,
    BY_ANNOTATION["list[Any]"]: frozenset((list,)),
}


def as_bytes_view(value: Any) -> memoryview:
    """Any contiguous buffer as a view of bytes."""
    view = memoryview(value)
    if view.format == "B" and view.ndim == 1:
        return view
    return view.cast("B") if view.nbytes else memoryview(b"")


_UINTS = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}
_BINS = {0xC4: 1, 0xC5: 2, 0xC6: 4}


def split_bulk(body: Buffer) -> list[Any] | None:
    """The elements of a msgpack array of unsigned integers, short strings and bins, bins as views of `body`.

    None: it is something else, or broken; then msgpack gets to read it and to say what is wrong.
    """
    view = memoryview(body)
    end = len(view)
    if not end or view[0] & 0xF0 != 0x90:
        return None
    values: list[Any] = []
    position = 1
    for _ in range(view[0] & 0x0F):
        if position >= end:
            return None
        first = view[position]
        position += 1
        if first < 0x80:
            values.append(first)
            continue
        if 0xA0 <= first <= 0xBF:
            text = bytes(view[position : position + (first & 0x1F)])
            position += first & 0x1F
            if position > end or not text.isascii():
                return None
            values.append(text.decode())
            continue
        n = _UINTS.get(first) or _BINS.get(first, 0)
        if not n or position + n > end:
            return None
        number = int.from_bytes(view[position : position + n], "big")
        position += n
        if first in _UINTS:
            values.append(number)
            continue
        if position + number > end:
            return None
        values.append(view[position : position + number])
        position += number
    return values if position == end else None
