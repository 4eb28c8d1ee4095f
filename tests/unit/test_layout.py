"""layout.h and layout.py say the same, and neither changes without a new version."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mstore.kernels import _layout
from mstore.limits import EXTENT_BYTES, WORKERS_MAX
from mstore.model import N_REASONS, Reason
from mstore.shm import layout


def fields(dtype: np.dtype[Any]) -> Mapping[str, Any]:
    """Of a structured dtype: {name: (dtype, offset)}."""
    assert dtype.fields is not None
    return dtype.fields


DTYPES: dict[str, np.dtype[Any]] = {
    "ms_segment_header": layout.SEGMENT_HEADER,
    "ms_region": layout.REGION,
    "ms_directory": layout.DIRECTORY,
    "ms_level": layout.LEVEL,
    "ms_metric": layout.METRIC,
    "ms_series": layout.SERIES,
    "ms_life": layout.LIFE,
    "ms_key": layout.KEY,
    "ms_chunk": layout.CHUNK,
    "ms_run": layout.RUN,
    "ms_record": layout.RECORD,
}
NUMBERS = {
    "MS_PAGE": layout.PAGE_BYTES,
    "MS_LINE": layout.LINE_BYTES,
    "MS_RING_HEAD": layout.RING_HEAD,
    "MS_RING_DRAINED": layout.RING_DRAINED,
    "MS_RING_DURABLE": layout.RING_DURABLE,
    "MS_RING_BYTES": layout.RING_SIZE,
    "MS_RING_DATA": layout.RING_DATA,
    "MS_STORE_STATE": layout.STORE_STATE,
    "MS_STORE_CONFIG": layout.STORE_CONFIG_VERSION,
    "MS_STORE_RETENTION": layout.STORE_RETENTION,
    "MS_STORE_FLAGS": layout.STORE_FLAGS,
    "MS_STORE_WRITTEN": layout.STORE_WRITTEN,
    "MS_STORE_DURABLE": layout.STORE_DURABLE,
    "MS_WORKERS": layout.WORKERS,
    "MS_WORKER_BYTES": layout.WORKER.itemsize,
    "MS_WORKER_EPOCH": fields(layout.WORKER)["epoch"][1],
    "MS_WORKER_COUNTERS": fields(layout.WORKER)["counters"][1],
    "MS_COUNTERS": layout.WORKER["counters"].shape[0],
    **{f"MS_REGION_{name.upper()}": number for number, name in enumerate(layout.REGION_NAMES)},
    "MS_REGIONS": len(layout.REGION_NAMES),
    **{f"MS_TABLE_{name.upper()}": number for number, name in enumerate(layout.TABLE_NAMES)},
    "MS_TABLES": len(layout.TABLE_NAMES),
    "MS_NO_LEVEL": layout.NO_LEVEL,
    "MS_IGNORE_SLOT": layout.IGNORE_SLOT,
    "MS_SAMPLES_DATA": layout.SAMPLES_DATA,
    "MS_EXTENT_BYTES": layout.EXTENT_BYTES,
    "MS_CHUNK_SLOTS": layout.CHUNK_SLOTS,
    **{f"MS_{name}": value for name, value in vars(layout).items() if name.startswith("REC_")},
    "MS_LINK(64 * 5, 9, 7)": 5
    | 9 << layout.LINK_OFFSET_BITS
    | 7 << layout.LINK_OFFSET_BITS + layout.LINK_CLASS_BITS,
}

# A change of any dtype changes the fingerprint: raise LAYOUT_VERSION, then pin both anew.
PINNED_VERSION = 2
PINNED_FINGERPRINT = 0x2_D6A2_C092


@pytest.mark.parametrize("struct", DTYPES)
def test_every_field_of_the_dtype_lies_where_c_has_it(struct: str) -> None:
    dtype = DTYPES[struct]
    in_c = _layout.offsets()[struct]
    whole = in_c.pop("")
    in_numpy = {name: (offset, field.itemsize) for name, (field, offset, *_) in fields(dtype).items()}
    assert whole == (0, dtype.itemsize)
    assert in_numpy == in_c


def test_c_knows_no_struct_that_numpy_does_not() -> None:
    assert set(_layout.offsets()) == set(DTYPES)


def test_every_constant_has_the_same_value_in_c() -> None:
    assert _layout.constants() == NUMBERS


def numbers(name: str) -> dict[str, int]:
    """Of a kernel's text: {constant: its value}"""
    text = (Path(_layout.__file__).parent / name).read_text()
    return {name: int(value) for name, value in re.findall(r"^    ([A-Z0-9_]+) = (\d+)", text, re.MULTILINE)}


def test_numbers_that_fields_hold_are_the_same_in_the_kernels() -> None:
    follow = {
        "CHUNK_CLASSES": layout.CLASS_TABLE_8,
        "TABLE_LOG2_MAX": (layout.SIZE_CLASS_BYTES[-1] // 8).bit_length() - 1,
    }
    found = numbers("_layout.pxd")
    assert found.items() >= follow.items()
    assert found == {name: getattr(layout, name, follow.get(name)) for name in found}


def test_reasons_are_the_same_in_the_kernels() -> None:
    reasons = {reason.name: int(reason) for reason in Reason}
    assert numbers("_reasons.pxd") == {**reasons, "N_REASONS": N_REASONS}


def test_fingerprint_does_not_change_without_a_new_layout_version() -> None:
    assert (layout.LAYOUT_VERSION, layout.FINGERPRINT) == (PINNED_VERSION, PINNED_FINGERPRINT), (
        layout.describe()
    )


def test_fingerprint_carries_the_version_and_covers_every_dtype() -> None:
    assert layout.FINGERPRINT >> 32 == layout.LAYOUT_VERSION
    described = layout.describe()
    assert described.count("\n") + 1 == len(DTYPES) + 1, "the worker's dtype has no struct in C"
    for dtype in DTYPES.values():
        assert all(f"{name}:" in described for name in dtype.names or ())


def test_words_of_different_writers_keep_their_distance() -> None:
    ring = sorted((layout.RING_HEAD, layout.RING_DRAINED, layout.RING_DURABLE, layout.RING_SIZE))
    store = sorted((layout.STORE_STATE, layout.STORE_FLAGS, layout.STORE_WRITTEN, layout.STORE_DURABLE))
    for words in (ring, store):
        assert min(np.diff(words)) >= layout.LINE_BYTES
    worker = fields(layout.WORKER)
    assert worker["epoch"][1] - worker["started_ns"][1] >= layout.LINE_BYTES - 16
    assert worker["counters"][1] - worker["epoch"][1] >= layout.LINE_BYTES
    assert layout.WORKER.itemsize % layout.LINE_BYTES == 0


def test_magic_reads_as_text_and_limits_agree_with_the_layout() -> None:
    assert layout.MAGIC.to_bytes(8, "little") == b"MSTORE01"
    assert layout.EXTENT_BYTES == EXTENT_BYTES
    assert (
        layout.WORKER["counters"].shape[0] * 8 + fields(layout.WORKER)["counters"][1]
        <= layout.WORKER.itemsize
    )
    assert WORKERS_MAX * layout.WORKER.itemsize == 65536
