"""One ring in shared memory, a worker in another process, the persister's side here, many wraps."""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import sys
import time
import uuid
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from mstore.kernels._ring import RingReader, RingWriter, create_ring_words
from mstore.shm import layout, segment

ROOT = Path(__file__).parents[2]
RING_BYTES = 64 * 1024
INSTANCE = 5
RECORD_TYPE = 1000
HEAD = struct.Struct("<HBBIQI")  # record header, number of the record, crc32 of the rest

WORKER = """
import random, struct, sys, time, zlib
from mstore.kernels._ring import RingWriter
from mstore.shm import layout, segment
name, seed, number, stop = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
rng = random.Random(seed)
with segment.attach(name, layout.SEG_RING, 5, writable=True) as mapping:
    writer = RingWriter(mapping.segment)
    while number < stop:
        body = rng.randbytes(rng.choice((4, 12, 60, 500, 4084)))
        record = struct.pack("<HBBIQI", 1000, 0, 0, 20 + len(body), number, zlib.crc32(body)) + body
        while not writer.put(record):
            writer.publish()
            time.sleep(0)
        number += 1
        if rng.random() < 0.4:
            writer.publish()
    writer.publish()
    del writer
"""


@pytest.fixture
def ring() -> Iterator[segment.Mapping]:
    name = f"mstore-test-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        with segment.create(name, layout.SEG_RING, layout.RING_DATA + RING_BYTES, INSTANCE) as mapping:
            create_ring_words(mapping.segment, RING_BYTES)
            mapping.mark_ready()
            yield mapping
    finally:
        segment.unlink(name)


def start_worker(name: str, seed: int, number: int, stop: int) -> subprocess.Popen[bytes]:
    arguments = [name, str(seed), str(number), str(stop)]
    return subprocess.Popen([sys.executable, "-c", WORKER, *arguments], cwd=ROOT, stderr=subprocess.PIPE)


def take(reader: RingReader, expected: int) -> int:
    """Check and release everything that is published; returns the number of the record that must follow."""
    start, stop = reader.drained(), reader.head()
    reader.validate(start, stop)
    while start < stop:
        view = reader.view(start, RING_BYTES)
        at = 0
        while at < len(view):
            kind, _, _, length = struct.unpack_from("<HBBI", view, at)
            if kind != layout.REC_PAD:
                _, _, _, _, number, checksum = HEAD.unpack_from(view, at)
                assert (kind, number) == (RECORD_TYPE, expected)
                assert zlib.crc32(view[at + HEAD.size : at + length]) == checksum, f"record {number} is torn"
                expected += 1
            at += length
        start += len(view)
        reader.set_drained(start)
        reader.set_durable(start)
    return expected


def test_every_record_arrives_once_whole_and_in_order(ring: segment.Mapping, seed: int) -> None:
    records = 30_000
    reader = RingReader(ring.segment)
    worker = start_worker(ring.name, seed, 0, records)
    try:
        expected, deadline = 0, time.monotonic() + 60
        while expected < records and time.monotonic() < deadline:
            before, expected = expected, take(reader, expected)
            if expected == before:
                time.sleep(0.0001)
                assert worker.poll() in (None, 0), worker.stderr and worker.stderr.read()
        assert expected == records
        assert reader.head() // RING_BYTES > 100
    finally:
        worker.kill()
        worker.communicate()


def test_killed_worker_leaves_a_ring_that_its_successor_continues(ring: segment.Mapping, seed: int) -> None:
    rng = random.Random(seed)
    reader = RingReader(ring.segment)
    expected, kills = 0, 0
    until = time.monotonic() + 4
    while kills < 12 and time.monotonic() < until:
        worker = start_worker(ring.name, rng.randrange(1 << 32), expected, 1 << 60)
        try:
            first, alive = expected, time.monotonic() + 10
            enough = expected + rng.randint(1, 2000)
            while expected < enough and time.monotonic() < alive:
                expected = take(reader, expected)
            worker.send_signal(signal.SIGKILL)
        finally:
            worker.kill()
            worker.communicate()
        expected = take(reader, expected)
        assert expected > first, "the worker published nothing"
        assert reader.drained() == reader.head() == RingWriter(ring.segment).position()
        kills += 1
    assert kills >= 3
