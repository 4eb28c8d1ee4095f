"""Durations and sizes: which texts are some, and that what is written reads back."""

from __future__ import annotations

import pytest

from mstore.quantities import Refused, format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0), (0, 0), (90, 90), ("90", 90), ("90s", 90), ("15m", 900), ("48h", 172800), ("2d", 172800),
     ("1w", 604800), ("1h30m", 5400), ("1h 30m", 5400)],
)  # fmt: skip
def test_durations_are_seconds(value: object, seconds: int) -> None:
    assert parse_duration(value) == seconds


@pytest.mark.parametrize("value", ["", "1y", "-1h", "h", "1.5h", "1h30", -1, 1.5, True, None, [], "9" * 40])
def test_other_durations_are_refused(value: object) -> None:
    with pytest.raises(Refused, match="duration"):
        parse_duration(value)


@pytest.mark.parametrize(
    ("value", "n_bytes"),
    [
        ("0", 0),
        (4096, 4096),
        ("4GiB", 4 << 30),
        ("4 gib", 4 << 30),
        ("500MB", 500_000_000),
        ("1.5KiB", 1536),
        ("7B", 7),
    ],
)
def test_sizes_are_bytes(value: object, n_bytes: int) -> None:
    assert parse_size(value) == n_bytes


@pytest.mark.parametrize("value", ["", "4Gi", "-1", "GiB", "1e9", 1.5, True, None, "1 2"])
def test_other_sizes_are_refused(value: object) -> None:
    with pytest.raises(Refused, match="size"):
        parse_size(value)


@pytest.mark.parametrize("n", [0, 1, 59, 60, 3600, 5400, 86400, 172800, 3 * 86400, 604800, 12345])
def test_formatted_durations_read_back(n: int) -> None:
    assert parse_duration(format_duration(n)) == n


@pytest.mark.parametrize("n", [0, 1, 1023, 1024, 16 << 20, 4 << 30, 1 << 40, 12345])
def test_formatted_sizes_read_back(n: int) -> None:
    assert parse_size(format_size(n)) == n
