"""The JSON checkpoint `<from>.json`: bytes <-> Checkpoint.

    {"metrics":{"NAME":{"frequency":60,"start":1000,"data":[0.5,null,...]}},"children":{"socket0":{...}},"from":F,"to":T}

The reference prints one decimal; what is written here is the shortest text that reads back to the same float32.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from mstore import limits
from mstore.compat.contents import LEVELS_MAX, Checkpoint, Level, Stretch, check_times, tree
from mstore.errors import CorruptRecord


def read_json(data: bytes | memoryview, path: str = "") -> Checkpoint:
    """The whole file; values are float64, null is NaN. Keys that are not known are passed over.

    raises CorruptRecord with path and offset; where a value is of the wrong kind the offset is 0
    """
    if len(data) > limits.CHECKPOINT_JSON_BYTES_MAX:
        _refuse(path, 0, f"{len(data)} bytes: at most {limits.CHECKPOINT_JSON_BYTES_MAX} are read")
    try:
        text = str(data, "utf-8")
    except UnicodeDecodeError as error:
        _refuse(path, error.start, "it is not UTF-8 text")
    try:
        document = json.loads(text, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        _refuse(path, len(text[: error.pos].encode()), error.msg)
    except RecursionError:
        _refuse(path, 0, f"more than {LEVELS_MAX} levels below the host")
    except ValueError as error:
        _refuse(path, 0, str(error))
    root = _object(document, "the document", path)
    start, end = (_whole(root.get(key, 0), key, path) for key in ("from", "to"))
    if end and end < start:
        _refuse(path, 0, f"its window ends at {end}, before it begins at {start}")
    return Checkpoint(start, end, list(_stretches(root, (), path)))


def write_json(checkpoint: Checkpoint) -> bytes:
    """The file's bytes, names sorted: equal checkpoints give equal bytes.

    float32 and float64 values as the shortest text that reads back to the same bits, uint64 exact; what is not a
    finite number is null. raises InvalidRequest for two stretches of one metric at one level
    """
    parts: list[str] = []
    _write_level(tree(checkpoint.stretches), checkpoint.start, checkpoint.end, parts)
    return "".join(parts).encode()


def _stretches(level: dict[str, Any], levels: tuple[str, ...], path: str) -> Iterator[Stretch]:
    if len(levels) > LEVELS_MAX:
        _refuse(path, 0, f"more than {LEVELS_MAX} levels below the host")
    for name, metric in _object(level.get("metrics"), "metrics", path).items():
        fields = _object(metric, name, path)
        step_s, start = (_whole(fields.get(key), f"{name}.{key}", path) for key in ("frequency", "start"))
        values = _values(fields.get("data"), name, path)
        check_times(name, start, step_s, len(values), path, 0)
        yield Stretch(levels, name, start, step_s, values)
    for name, child in _object(level.get("children"), "children", path).items():
        yield from _stretches(_object(child, name, path), (*levels, name), path)


def _values(found: Any, metric: str, path: str) -> NDArray[np.float64]:
    if found is None:
        return np.empty(0, np.float64)
    if not isinstance(found, list) or not set(map(type, found)) <= {float, int, type(None)}:
        _refuse(path, 0, f"{metric}.data: expected an array of numbers and nulls")
    try:
        return np.array(found, np.float64)  # None becomes NaN
    except (OverflowError, ValueError):
        _refuse(path, 0, f"{metric}.data: an integer too large for a float64")


def _object(found: Any, what: str, path: str) -> dict[str, Any]:
    if found is None:
        return {}
    if not isinstance(found, dict):
        _refuse(path, 0, f"{what}: expected an object")
    return found


def _whole(found: Any, what: str, path: str) -> int:
    if type(found) is not int:
        _refuse(path, 0, f"{what}: expected a whole number")
    return found


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no JSON")


def _refuse(path: str, offset: int, why: str) -> NoReturn:
    raise CorruptRecord(f"{path or 'JSON checkpoint'}: damaged at {offset}: {why}", path=path, offset=offset)


def _write_level(level: Level, start: int, end: int, parts: list[str]) -> None:
    parts.append('{"metrics":{')
    for i, (name, stretch) in enumerate(sorted(level.metrics.items())):
        head = f'"frequency":{stretch.step_s},"start":{stretch.start},"data":['
        parts += [_key(name, i), "{", head, ",".join(_texts(stretch.values)), "]}"]
    parts.append('},"children":{')
    for i, (name, child) in enumerate(sorted(level.children.items())):
        parts.append(_key(name, i))
        _write_level(child, start, end, parts)
    parts.append(f'}},"from":{start},"to":{end}}}')


def _key(name: str, i: int) -> str:
    return ("," if i else "") + json.dumps(name, ensure_ascii=False) + ":"


def _texts(values: NDArray[Any]) -> list[str]:
    """The shortest texts that read back to the same value; numpy's are of float32 where the values are."""
    texts: list[str] = values.astype(str).tolist()
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        for k in np.flatnonzero(~np.isfinite(values)).tolist():
            texts[k] = "null"
    return texts
