"""Line protocol on the sending side: cutting text into frames, and writing lines for `put`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeAlias

from mstore import limits, times
from mstore.errors import InvalidRequest

if TYPE_CHECKING:
    from mstore.model import SeriesPath

PIECE_BYTES = 4 * limits.MIB
"""About how much text goes into one frame."""

Source: TypeAlias = "str | bytes | bytearray | memoryview | Iterable[str | bytes]"

assert limits.LINE_BYTES_MAX < PIECE_BYTES < limits.FRAME_BYTES_MAX


def pieces(source: Source, size: int = PIECE_BYTES) -> Iterator[bytes | bytearray | memoryview]:
    """`source` as buffers of whole lines, at most `size` bytes each; nothing of bytes is copied.

    source   text, bytes, a binary file (anything with read()), or lines with or without their newlines
    A line longer than limits.LINE_BYTES_MAX is cut to one byte more than that: the store counts it as
    too_long.
    """
    if isinstance(source, str):
        # Lone surrogates become bytes that are no UTF-8: the store refuses just their lines, as bad_encoding.
        source = source.encode("utf-8", "surrogatepass")
    if isinstance(source, memoryview):
        source = source if source.format == "B" and source.contiguous else source.tobytes()
        yield from _cut(bytes(source), size)
    elif isinstance(source, bytes | bytearray):
        yield from _cut(source, size)
    elif hasattr(source, "read"):
        yield from _read(source, size)
    else:
        yield from _joined(source, size)


def _cut(text: bytes | bytearray, size: int) -> Iterator[memoryview]:
    view, start, end = memoryview(text), 0, len(text)
    while start < end:
        stop = end if end - start <= size else text.rfind(b"\n", start, start + size) + 1
        if stop <= start:
            newline = text.find(b"\n", start + size)
            yield view[start : start + limits.LINE_BYTES_MAX + 1]
            start = newline + 1 if newline >= 0 else end
            continue
        yield view[start:stop]
        start = stop


def _read(file: Any, size: int) -> Iterator[memoryview]:
    rest = b""
    while chunk := file.read(size):
        if isinstance(chunk, str):
            chunk = chunk.encode("utf-8", "surrogatepass")
        whole = chunk.rfind(b"\n") + 1
        if whole:
            yield from _cut(rest + chunk[:whole], size)
            rest = chunk[whole:]
        elif len(rest) <= limits.LINE_BYTES_MAX:
            rest += chunk
    yield from _cut(rest, size)


def _joined(lines: Iterable[str | bytes], size: int) -> Iterator[bytes]:
    batch: list[bytes] = []
    n = 0
    for line in lines:
        one = line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line
        if not isinstance(one, bytes | bytearray | memoryview):
            raise InvalidRequest(f"a line of type {type(line).__name__}: expected str or bytes")
        one = bytes(one[: limits.LINE_BYTES_MAX + 1]).rstrip(b"\n")
        if n + len(one) >= size and batch:
            yield b"\n".join(batch)
            batch, n = [], 0
        batch.append(one)
        n += len(one) + 1
    if batch:
        yield b"\n".join(batch)


def put_lines(path: SeriesPath, values: Mapping[str, Any], ts_ms: int, unit: str) -> bytes:
    """One line for each metric of `values`, stamped in milliseconds; `path.metric` is not used.

    raises InvalidRequest for a name or value that line protocol cannot carry
    """
    tags = {
        "cluster": path.cluster, "hostname": path.host, "type": path.type, "type-id": path.type_id,
        "stype": path.subtype, "stype-id": path.subtype_id, "unit": unit,
    }  # fmt: skip
    rest = "".join(f",{name}={escape(value, ',= ')}" for name, value in tags.items() if value)
    text = "\n".join(
        f"{escape(metric, ', ')}{rest} value={_number(metric, value)} {ts_ms}"
        for metric, value in values.items()
    )
    return text.encode()


def escape(name: str, special: str) -> str:
    """A name as a tag value (special: ",= ") or as a measurement (", ": there a backslash before = would stay)."""
    begins_comment = "=" not in special and name.startswith("#")
    if not name or name.endswith("\\") or begins_comment or any(ord(char) < 32 for char in name):
        raise InvalidRequest(
            f"{name!r} cannot be written as line protocol: names are not empty, do not end with a backslash "
            "and have no control characters; names of metrics do not begin with #",
            name=name,
        )
    for char in special:
        name = name.replace(char, "\\" + char)
    return name


def _number(metric: str, value: Any) -> str:
    if isinstance(value, bool) or type(value).__name__ == "bool":
        raise InvalidRequest(f"{metric}: {value!r} is no number")
    try:
        return str(value.__index__())
    except (AttributeError, TypeError):
        pass
    try:
        return repr(float(value))
    except (TypeError, ValueError):
        raise InvalidRequest(f"{metric}: {value!r} is no number") from None


def stamp_ms(ts: times.TimeLike | None, now_ms: int) -> int:
    """A time argument in milliseconds; None = now. Fractions of floats and datetimes are kept."""
    if ts is None:
        return now_ms
    if isinstance(ts, float):
        return times.to_seconds(int(ts), 0) * 1000 + round(ts % 1 * 1000)
    milliseconds = ts.microsecond // 1000 if isinstance(ts, datetime) else 0
    whole = ts.replace(microsecond=0) if isinstance(ts, datetime) else ts
    return times.to_seconds(whole, now_ms // 1000) * 1000 + milliseconds
