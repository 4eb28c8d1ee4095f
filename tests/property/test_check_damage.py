"""Whatever became of a store's files, `mstore check` and `mstore dump` say so in their own words: never a traceback.

Besides flips, cuts, missing, exchanged and misnamed files: words changed under a checksum that fits, as only a program
gone wrong writes them. MSTORE_SEED repeats a run.
"""

from __future__ import annotations

import contextlib
import random
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from crc32c import crc32c

from mstore.cli.main import main
from mstore.persistence.blocks import BLOCK_HEADER_BYTES, BLOCK_MAGIC, SEGMENT_HEADER_BYTES
from mstore.persistence.snapshot_files import BLOCK_HEADER_BYTES as SNAPSHOT_HEADER_BYTES
from tests.files_rig import build

ROUNDS = 16
WORDS = (0, 1, 7, 8, 40, 255, 2**16 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1)
NAMES = (
    "0000000000000007.wal", "ffffffffffffffff.wal", "7fffffffffffffff.wal", "ffffffffffffffff.snapshot",
    "0000000000000009.snapshot", "0000000000000005.1122334455667788.definitions", "x.tmp",
    "ffffffffffffffff.1122334455667788.00000001.chunks",
)  # fmt: skip

Harm = Callable[[random.Random, Path, list[Path]], None]


def gone(_rng: random.Random, path: Path, _all: list[Path]) -> None:
    path.unlink()


def cut(rng: random.Random, path: Path, _all: list[Path]) -> None:
    path.write_bytes(path.read_bytes()[: rng.randrange(path.stat().st_size + 1)])


def a_directory(_rng: random.Random, path: Path, _all: list[Path]) -> None:
    path.unlink()
    path.mkdir()


def exchanged(rng: random.Random, path: Path, everything: list[Path]) -> None:
    path.write_bytes(rng.choice(everything).read_bytes())


def misnamed(rng: random.Random, path: Path, _all: list[Path]) -> None:
    path.rename(path.with_name(rng.choice(NAMES)))


def flipped(rng: random.Random, path: Path, _all: list[Path]) -> None:
    text = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        text[rng.randrange(len(text))] ^= 1 << rng.randrange(8)
    path.write_bytes(text)


def forged(rng: random.Random, path: Path, _all: list[Path]) -> None:
    """Some words are others, and every checksum is right."""
    text = bytearray(path.read_bytes())
    for _ in range(rng.randint(1, 4)):
        struct.pack_into("<Q", text, rng.randrange(len(text) // 8) * 8, rng.choice(WORDS))
    if path.suffix == ".wal":
        _forge_log(text)
    else:
        _forge_snapshot(text)
    path.write_bytes(text)


def _forge_log(text: bytearray) -> None:
    at, page = SEGMENT_HEADER_BYTES, SEGMENT_HEADER_BYTES - 4
    struct.pack_into("<I", text, page, crc32c(bytes(text[:page])))
    while at + BLOCK_HEADER_BYTES <= len(text):
        magic, length = struct.unpack_from("<I4xI", text, at)
        body = at + BLOCK_HEADER_BYTES
        if magic != BLOCK_MAGIC or body + length > len(text):
            return
        crc = crc32c(bytes(text[body : body + length]), crc32c(bytes(text[at : body - 4])))
        struct.pack_into("<I", text, body - 4, crc)
        at = body + length


def _forge_snapshot(text: bytearray) -> None:
    at = 0
    while at + SNAPSHOT_HEADER_BYTES <= len(text):
        (length,) = struct.unpack_from("<I", text, at + 8)
        body = at + SNAPSHOT_HEADER_BYTES
        if body + length > len(text):
            return
        crc = crc32c(bytes(text[body : body + length]), crc32c(bytes(text[at : body - 4])))
        struct.pack_into("<I", text, body - 4, crc)
        at = body + length


HARMS: tuple[Harm, ...] = (gone, cut, a_directory, exchanged, misnamed, flipped, forged, forged, forged)


def test_whatever_became_of_the_files_check_and_dump_say_so(
    tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MSTORE_TRACEBACK", "1")
    build(tmp_path / "whole", random.Random(seed), n_blocks=24)
    directory = tmp_path / "store"
    for number in range(ROUNDS):
        rng = random.Random(f"{seed} {number}")
        shutil.copytree(tmp_path / "whole", directory)
        told = []
        for _ in range(rng.randint(1, 3)):
            files = [
                path for path in sorted(directory.rglob("*.*")) if path.is_file() and path.stat().st_size > 8
            ]
            path, harm = rng.choice(files), rng.choice(HARMS)
            told.append(f"{path.name} {harm.__name__}")
            with contextlib.suppress(IsADirectoryError):
                harm(rng, path, files)
        where = ["--dir", str(directory)]
        commands = [["check", *where], ["check", *where, "--json"]]
        commands += [["dump", str(path)] for path in sorted(directory.rglob("*.*"))]
        commands += [["check", *where, "--repair", "--yes"], ["check", *where]]
        for command in commands:
            status = main(command)
            said = capsys.readouterr()
            assert status in (0, 1, 2), f"{told}: {command} ended with {status}: {said.err[-2000:]}"
        shutil.rmtree(directory)
