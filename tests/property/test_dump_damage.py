"""Whatever stands in a file, dumping it ends, raises nothing, and tells every flip that a checksum covers."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mstore.cli.dump import _document, as_text
from mstore.persistence.dump import Choice, Item, Names, dump_file
from mstore.shm import layout
from tests.dump_rig import Small, faults

NAMES = (
    "0000000000000001.wal", "0000000000000003.snapshot", "0000000000000003.1122334455667788.definitions",
    "0000000000000003.1122334455667788.00000001.chunks", "mstore-0-samples", "0000000000000001.wal-4096", "x.tmp",
)  # fmt: skip
MAGICS = (b"", b"MSTWAL01", b"MS01", layout.MAGIC.to_bytes(8, "little"))
ROLES = ("log", "manifest", "definitions", "chunks", "directory", "control", "ring-0", "samples")
CHECKED = ("log", "manifest", "definitions", "chunks")
WORDS = (0, 1, 8, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Small:
    return Small(tmp_path_factory.mktemp("dump") / "store")


def path_of(small: Small, role: str) -> Path:
    suffixes = {"log": ".wal", "manifest": ".snapshot", "definitions": ".definitions", "chunks": ".chunks"}
    return next(path for path in small.files() if path.name.endswith(suffixes.get(role, role)))


def told(path: Path) -> list[Item]:
    """All items, each also put into text and JSON."""
    names = Names()
    items = []
    for item in dump_file(path, Choice(), names):
        items.append(item)
        assert all(isinstance(line, str) for line in as_text(item, names, True))
        json.loads(json.dumps(_document(item, path, True), allow_nan=False))
    assert items[0].what == "file"
    return items


@contextmanager
def changed(path: Path, at: int, content: bytes) -> Iterator[None]:
    """The file with other bytes at a place, for a while."""
    fd = os.open(path, os.O_RDWR)
    try:
        before = os.pread(fd, len(content), at)
        os.pwrite(fd, content[: len(before)], at)
        try:
            yield
        finally:
            os.pwrite(fd, before, at)
    finally:
        os.close(fd)


def filled(path: Path) -> list[int]:
    """Places that are not zero: where damage matters, in a file that is mostly holes."""
    found: list[int] = []
    fd = os.open(path, os.O_RDONLY)
    try:
        at, size = 0, os.fstat(fd).st_size
        while at < size:
            try:
                at = os.lseek(fd, at, os.SEEK_DATA)
            except OSError:
                break
            stop = os.lseek(fd, at, os.SEEK_HOLE)
            content = os.pread(fd, stop - at, at)
            found += [at + place for place, byte in enumerate(content) if byte]
            at = stop
    finally:
        os.close(fd)
    return found


@pytest.fixture(scope="module")
def places(small: Small) -> dict[str, list[int]]:
    return {role: filled(path_of(small, role)) for role in ROLES}


@settings(max_examples=300)
@given(st.sampled_from(NAMES), st.sampled_from(MAGICS), st.binary(max_size=9000))
def test_any_bytes_can_be_dumped(
    tmp_path_factory: pytest.TempPathFactory, name: str, magic: bytes, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(magic + content)
    items = told(path)
    assert items[0].wrong or faults(items)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(CHECKED), st.data())
def test_every_flip_of_what_is_checksummed_is_told(small: Small, role: str, data: st.DataObject) -> None:
    path = path_of(small, role)
    size = small.log_used if role == "log" else path.stat().st_size
    at = data.draw(st.integers(0, size - 1))
    byte = path.read_bytes()[at]
    with changed(path, at, bytes([byte ^ data.draw(st.integers(1, 255))])):
        assert faults(told(path))


@settings(max_examples=200)
@given(st.sampled_from(CHECKED), st.data())
def test_every_truncation_of_what_is_checksummed_is_told(
    small: Small, tmp_path_factory: pytest.TempPathFactory, role: str, data: st.DataObject
) -> None:
    path = path_of(small, role)
    size = small.log_used if role == "log" else path.stat().st_size
    cut = tmp_path_factory.getbasetemp() / path.name
    cut.write_bytes(path.read_bytes()[: data.draw(st.integers(0, size - 1))])
    items = told(cut)
    assert items[0].wrong or faults(items)


@settings(max_examples=500)
@given(st.sampled_from(ROLES[4:]), st.data())
def test_damaged_memory_can_be_dumped(
    small: Small, places: dict[str, list[int]], role: str, data: st.DataObject
) -> None:
    path = path_of(small, role)
    at = data.draw(st.sampled_from(places[role])) & ~7
    word = data.draw(st.one_of(st.sampled_from(WORDS), st.integers(0, 2**64 - 1)))
    with changed(path, at, word.to_bytes(8, "little")):
        items = told(path)
        assert items[-1].what == "end"
        told(path_of(small, "samples"))  # which is read by way of the directory


@settings(max_examples=100)
@given(st.sampled_from(ROLES[4:]), st.integers(0, 300_000))
def test_memory_that_is_cut_short_can_be_dumped(
    small: Small, tmp_path_factory: pytest.TempPathFactory, role: str, length: int
) -> None:
    path = path_of(small, role)
    cut = tmp_path_factory.getbasetemp() / path.name
    with path.open("rb") as file:
        cut.write_bytes(file.read(length))
    items = told(cut)
    assert items[0].wrong or faults(items) or length >= path.stat().st_size


def test_the_rig_itself_is_sound(small: Small) -> None:
    assert not any(faults(told(path)) for path in small.files())
